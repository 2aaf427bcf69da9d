"""A folder that was well when it was chosen: the schedule, the alarms and the start go on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from backups.errors import FolderUnusable, WorkerDied
from backups.folder import sweep
from backups.header import BackupKey
from backups.models import BackupState
from finance.wallet.signer import Keys, Signer
from node.accounts.audit import SYSTEM
from node.alerts.rules import Rule
from node.db.engine import writer
from node.db.journal import Journal
from node.jobs.backup import add_all
from node.jobs.runner import Jobs
from node.vault import records
from node.vault.checks import test_restore as try_restore
from node.vault.checks import verify
from node.vault.choices import BackupChoices, change_choices, first_start
from node.vault.copies import Copies
from node.vault.service import Surroundings, Vault
from node.vault.upkeep import Upkeep
from tests.backups.home import Home
from tests.backups.processes import children_at_work
from tests.backups.told import Told
from tests.recovery.node_home import until

DAY = 86_400


class Overdue(Told):
    """Also remembers whether the warning was given."""

    given = False

    async def raise_(self, rule: Rule, subject: str, message: str, link: str) -> None:
        self.given |= rule is Rule.BACKUP_OVERDUE
        await super().raise_(rule, subject, message, link)


def keeper(home: Home, told: Told) -> tuple[Vault, Upkeep]:
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(home.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, 1)
    vault = Vault(Surroundings(home.settings, home.engine, home.keys, alarm=told))
    return vault, Upkeep(vault, Copies(home.engine, home.keys.unseal))


def take_away(folder: Path) -> Path:
    """As a mount whose server is gone: it is no missing file, every question is an error."""
    away = folder.rename(folder.with_name("away"))
    folder.symlink_to("x" * 300)
    return away


async def test_a_folder_that_answers_with_errors_is_an_alarm_and_good_again_when_it_is_back(
    home: Home,
) -> None:
    told = Overdue()
    vault, upkeep = keeper(home, told)
    made = await vault.back_up_now("manual")
    first_start(home.engine, SYSTEM, made.started_at)
    away = take_away(home.folder)
    sweep(home.folder)  # as a start does
    await upkeep.run(made.started_at + 31 * DAY)
    await upkeep.warn(made.started_at + 31 * DAY)
    assert records.read_backup(home.engine, made.id).state is BackupState.MISSING
    assert told.given and "cannot be used" in told.open[""]
    home.folder.unlink()
    away.rename(home.folder)
    await upkeep.run(made.started_at + 32 * DAY)
    assert (await verify(vault, made.id)).state is BackupState.GOOD
    assert told.open == {}


async def test_an_old_file_that_cannot_be_removed_does_not_keep_the_schedule_up(
    home: Home,
) -> None:
    told = Told()
    vault, upkeep = keeper(home, told)
    old = await vault.back_up_now("manual")
    records.change(home.engine, old.id, started_at=1_000_000)
    old.path.unlink()
    old.path.mkdir()  # what no unlink takes away, as a file on storage that is written once
    await upkeep.prune(old)
    new = await vault.back_up_now("manual")
    await upkeep.run(new.started_at + DAY)
    good = records.good_backups(home.engine)
    assert sorted(each.reason for each in good) == ["manual", "scheduled"]
    assert old.name in told.open["folder"]
    old.path.rmdir()
    await upkeep.run(new.started_at + DAY + 1)
    assert told.open == {}


async def test_a_backup_that_ends_well_beside_a_node_that_starts_says_nothing_of_an_end(
    home: Home,
) -> None:
    """A start takes what is being written for what its last end left half done."""
    vault, _ = keeper(home, Told())
    backup_id = await vault.start("command", SYSTEM)
    records.interrupted(home.engine, 1)

    async def good() -> bool:
        return records.read_backup(home.engine, backup_id).good

    await until("it is good", good)
    assert records.read_backup(home.engine, backup_id).error == ""


async def test_a_check_that_could_not_be_made_is_said_on_the_page_that_promised_it(
    home: Home,
) -> None:
    """The file is what it was; a check that ends well ends the sentence, too."""
    vault, _ = keeper(home, Told())
    made = await vault.back_up_now("manual")
    checking = asyncio.create_task(verify(vault, made.id))
    while not (workers := children_at_work()):
        await asyncio.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)
    with pytest.raises(WorkerDied):
        await checking
    found = records.read_backup(home.engine, made.id)
    assert found.state is BackupState.GOOD and found.verified_at == made.verified_at
    assert "could not be checked" in found.error
    assert (await verify(vault, made.id)).error == ""


@pytest.mark.parametrize("state", [BackupState.REMOVED, BackupState.FAILED])
async def test_a_check_of_what_was_let_go_or_never_written_does_not_call_it_missing(
    home: Home, state: BackupState
) -> None:
    """As of a page that was open when the rule let it go."""
    vault, _ = keeper(home, Told())
    made = await vault.back_up_now("manual")
    made.path.unlink()
    records.change(home.engine, made.id, state=state, error="as it was")
    for look in (verify, try_restore):
        with pytest.raises(FolderUnusable, match="not there any more"):
            await look(vault, made.id)
    found = records.read_backup(home.engine, made.id)
    assert (found.state, found.error) == (state, "as it was")


async def test_an_old_key_that_no_wallet_here_opens_does_not_keep_the_schedule_up(
    home: Home,
) -> None:
    """As of books on a server whose data directory was lost and made anew."""
    other = Keys(Signer.random(), Signer.random(), Signer.random(), b"k" * 32)
    lost = BackupKey("age1ofanotherdirectory", home.key.key_block)
    records.store_key(home.engine, lost, other.seal(b"AGE-SECRET-KEY-1"), SYSTEM, 1)
    vault, upkeep = keeper(home, Told())
    strange = await vault.back_up_now("manual")
    values = {"state": BackupState.FAILED, "recipient": lost.recipient, "started_at": 1}
    records.change(home.engine, strange.id, **values)
    await upkeep.run(strange.started_at + 1)
    assert [each.reason for each in records.good_backups(home.engine)] == ["scheduled"]


async def test_a_backup_that_hangs_does_not_keep_back_the_warning_that_there_is_none(
    home: Home,
) -> None:
    """A process that waits for a mount whose server is gone cannot even be killed."""
    told, now = Overdue(), int(time.time())
    vault, upkeep = keeper(home, told)
    change_choices(home.engine, BackupChoices(every_hours=1, overdue_days=30), SYSTEM, now)
    first_start(home.engine, SYSTEM, now - 4 * DAY)
    journal = Journal(home.engine)
    jobs = Jobs(journal, told)
    add_all(jobs, upkeep, 0.1)
    jobs.start()

    async def at_work() -> bool:
        return bool(children_at_work())

    async def given() -> bool:
        return told.given

    try:
        await until("it is being written", at_work)
        [worker] = children_at_work()
        os.kill(worker, signal.SIGSTOP)
        assert not told.given
        change_choices(home.engine, BackupChoices(every_hours=1, overdue_days=3), SYSTEM, now)
        await until("the warning is given", given, 10)
    finally:
        jobs.stop()
        os.kill(worker, signal.SIGKILL)
        await vault.stop()
        journal.close()


async def test_a_file_whose_end_could_not_be_noted_is_looked_at_without_a_restart(
    home: Home,
) -> None:
    """Else it is said to be running until the node ends, and no rule lets it go."""
    vault, upkeep = keeper(home, Told())
    writing = asyncio.create_task(vault.back_up_now("manual"))
    while not children_at_work():
        await asyncio.sleep(0.01)
    with writer(home.engine).begin(), pytest.raises(OperationalError, match="locked"):
        await writing
    await upkeep.run(int(time.time()))
    [backup], _ = records.list_backups(home.engine)
    assert backup.good and backup.sha256
