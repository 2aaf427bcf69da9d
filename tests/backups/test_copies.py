"""Copies elsewhere: a real S3 server and a real mail server, what they take, give back, refuse
and lose."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from backups.bucket import Bucket
from backups.client import run_task
from backups.errors import DestinationFailed
from backups.folder import file_name
from backups.header import BackupKey, encode_header
from backups.keyring import make_key
from backups.models import BackupState, CopyState
from backups.retention import Keeping
from backups.tasks import Done, Upload
from node.accounts.audit import SYSTEM
from node.alerts.choices import MailSecurity
from node.alerts.configure import EmailChange, save_email
from node.alerts.mail import Mailer
from node.preferences import change_preference
from node.vault import records
from node.vault.build import mail_post
from node.vault.checks import test_restore as try_restore
from node.vault.checks import verify
from node.vault.choices import BackupChoices, S3Choices, change_choices, change_s3
from node.vault.copies import Copies
from node.vault.restored import Restored
from node.vault.service import Vault
from node.vault.upkeep import Upkeep
from tests.alerts.post_office import PostOffice
from tests.backups.home import Home
from tests.backups.told import Told
from tests.recovery.node_home import until

SECRET = "storage-secret-never-shown"


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    _client(url).create_bucket(Bucket="backups")
    yield url
    server.stop()


@pytest.fixture
def post_office() -> Iterator[PostOffice]:
    with PostOffice() as office:
        yield office


def _use_mail(home: Home, port: int) -> None:
    change = EmailChange(
        "127.0.0.1", port, MailSecurity.NONE, "", "node@example.org", ("ops@example.org",), ""
    )
    save_email(home.engine, change, home.keys.seal, SYSTEM, 1)


def _with_copies(home: Home, vault: Vault) -> None:
    """As a node wires it, with its own mailer."""
    post = mail_post(Mailer(home.engine, home.keys.unseal))
    Upkeep(vault, Copies(home.engine, home.keys.unseal, post))


def _set_key(home: Home) -> None:
    """The key made once for all tests; deriving another takes seconds."""
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(home.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, 1)


def _client(url: str):  # type: ignore[no-untyped-def]
    session = boto3.session.Session("key", SECRET, region_name="us-east-1")
    return session.client("s3", endpoint_url=url)


def _bucket(url: str, name: str = "backups") -> Bucket:
    return Bucket(
        endpoint_url=url, region="us-east-1", name=name, access_key_id="key", secret_key=SECRET
    )


def _keys(url: str, prefix: str) -> list[str]:
    found = _client(url).list_objects_v2(Bucket="backups", Prefix=prefix)
    return sorted(each["Key"] for each in found.get("Contents", []))


def _use_bucket(home: Home, url: str, prefix: str, name: str = "backups") -> None:
    choices = S3Choices(
        endpoint_url=url,
        bucket=name,
        prefix=prefix,
        access_key_id="key",
        secret_key_sealed=home.keys.seal(SECRET.encode()),
    )
    change_s3(home.engine, choices, SYSTEM, 1)


def test_a_copy_of_several_parts_is_put_and_read_back(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "large.farebox"
    path.write_bytes(bytes(range(256)) * 80_000)  # more than one part
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    upload = Upload(bucket=_bucket(storage), key="a/large", path=str(path), sha256=digest)
    asyncio.run(run_task(upload, Done))
    found = _client(storage).get_object(Bucket="backups", Key="a/large")["Body"].read()
    assert found == path.read_bytes()


def test_what_the_storage_gives_back_differently_is_no_copy(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "one.farebox"
    path.write_bytes(b"content")
    upload = Upload(bucket=_bucket(storage), key="b", path=str(path), sha256="0" * 64)
    with pytest.raises(DestinationFailed, match="not what was put there"):
        asyncio.run(run_task(upload, Done))
    assert _keys(storage, "b") == [], "nobody takes it for one later"


def test_a_storage_that_refuses_or_is_not_there_is_a_sentence(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "one.farebox"
    path.write_bytes(b"content")
    for bucket in (_bucket(storage, "none"), _bucket("http://127.0.0.1:9")):
        upload = Upload(bucket=bucket, key="c", path=str(path), sha256="0" * 64)
        with pytest.raises(DestinationFailed, match=r"storage (refused|cannot be used)") as caught:
            asyncio.run(run_task(upload, Done))
        assert SECRET not in str(caught.value)


async def test_a_backup_is_written_copied_mailed_checked_tried_and_let_go(
    home: Home, storage: str, post_office: PostOffice
) -> None:
    """The life of a backup, with everything switched on."""
    vault, now = home.vault, 1_800_000_000
    _with_copies(home, vault)
    _use_mail(home, post_office.port)
    _set_key(home)
    await asyncio.to_thread(_use_bucket, home, storage, "node/")
    change_choices(home.engine, BackupChoices(mail=True), SYSTEM, now)
    first = await vault.back_up_now("manual")
    assert first.state is BackupState.GOOD and first.manifest is not None
    found = records.read_backup(home.engine, first.id)
    assert (found.s3_state, found.mail_state) == (CopyState.SENT, CopyState.SENT)
    stored = _client(storage).get_object(Bucket="backups", Key=found.s3_key)["Body"].read()
    (letter,) = post_office.letters
    (attached,) = letter.iter_attachments()
    assert attached.get_filename() == first.name
    assert stored == attached.get_content() == first.path.read_bytes()
    assert first.sha256 in str(letter.get_body())
    tested = await try_restore(vault, first.id)
    assert tested.tested_at and not tested.test_error
    content = first.path.read_bytes()
    first.path.write_bytes(content[:-1])
    assert (await verify(vault, first.id)).state is BackupState.DAMAGED
    first.path.write_bytes(content)
    assert (await verify(vault, first.id)).state is BackupState.GOOD


async def test_the_rule_lets_old_ones_go_everywhere_and_never_the_last(
    home: Home, storage: str
) -> None:
    vault = home.vault
    upkeep = Upkeep(vault, Copies(home.engine, home.keys.unseal))
    _set_key(home)
    old = await vault.back_up_now("manual")
    records.change(home.engine, old.id, started_at=1_000_000)
    await upkeep.prune(old)
    assert old.path.exists(), "the last good one stays, however old"
    new = await vault.back_up_now("manual")
    assert not old.path.exists() and new.path.exists()
    assert records.read_backup(home.engine, old.id).state is BackupState.REMOVED


def _copy(home: Home, url: str, prefix: str, days_ago: int, front: bytes = b"") -> str:
    """An object called like a backup of so many days ago, behind our key or another front."""
    name = file_name(int(time.time()) - days_ago * 86_400, "scheduled", "1a2b")
    front = front or encode_header(BackupKey(home.key.recipient, home.key.key_block))
    _client(url).put_object(Bucket="backups", Key=f"{prefix}{name}", Body=front + b"age")
    return f"{prefix}{name}"


async def test_copies_that_the_history_does_not_know_go_by_the_rule_and_strangers_stay(
    home: Home, storage: str
) -> None:
    """After a restore: the bucket has what was put there since, and what the old node put there;
    another node uses it too."""
    _set_key(home)
    _use_bucket(home, storage, "shared/")
    ours = {days: _copy(home, storage, "shared/", days) for days in (2, 9, 800, 900)}
    stranger, _ = make_key("of another node altogether")
    theirs = _copy(home, storage, "shared/", 900, encode_header(stranger))
    other = _copy(home, storage, "shared/", 901, b"not a backup at all, but called like one")
    notes = "shared/notes.txt"
    _client(storage).put_object(Bucket="backups", Key=notes, Body=b"keep")
    copies = Copies(home.engine, home.keys.unseal)
    assert await copies.prune(int(time.time()), Keeping()) == ""
    left = set(_keys(storage, "shared/"))
    assert left == {ours[2], ours[9], theirs, other, notes}


async def test_copies_of_files_that_are_gone_here_are_kept_and_let_go_by_the_rule(
    home: Home, storage: str
) -> None:
    """Elsewhere, missing, removed: a copy that was read back is as good as ever, until the rule
    lets it go; the last good one stays, also behind a newer one that nobody read back."""
    _set_key(home)
    _use_bucket(home, storage, "gone/")
    vault, now = home.vault, int(time.time())
    Upkeep(vault, Copies(home.engine, home.keys.unseal))
    made = [await vault.back_up_now("manual") for _ in range(3)]
    old, middle, last = (records.read_backup(home.engine, each.id) for each in made)
    for each, days in ((old, 900), (middle, 800), (last, 700)):
        state = BackupState.ELSEWHERE if each is old else BackupState.MISSING
        records.change(home.engine, each.id, started_at=now - days * 86_400, state=state)
    unsure = _copy(home, storage, "gone/", 600)
    copies = Copies(home.engine, home.keys.unseal)
    assert await copies.prune(now, Keeping()) == ""
    assert set(_keys(storage, "gone/")) == {last.s3_key, unsure}
    for each, state in ((old, CopyState.REMOVED), (last, CopyState.SENT)):
        assert records.read_backup(home.engine, each.id).s3_state is state


async def test_a_copy_that_somebody_else_removed_is_noticed(home: Home, storage: str) -> None:
    _set_key(home)
    _use_bucket(home, storage, "taken/")
    vault, copies = home.vault, Copies(home.engine, home.keys.unseal)
    Upkeep(vault, copies)
    made = await vault.back_up_now("manual")
    sent = records.read_backup(home.engine, made.id)
    assert sent.s3_state is CopyState.SENT
    _client(storage).delete_object(Bucket="backups", Key=sent.s3_key)
    assert await copies.prune(int(time.time()), Keeping()) == ""
    noticed = records.read_backup(home.engine, made.id)
    assert noticed.s3_state is CopyState.FAILED and "not in the storage" in noticed.s3_error
    assert await copies.again(noticed) and _keys(storage, "taken/") == [sent.s3_key]


async def test_a_bucket_that_cannot_be_cleared_is_an_incident_until_it_can(
    home: Home, storage: str
) -> None:
    _set_key(home)
    _use_bucket(home, storage, "", "none")
    alarm = Told()
    vault = home.vault
    vault.around = replace(vault.around, alarm=alarm)
    Upkeep(vault, Copies(home.engine, home.keys.unseal))
    made = await vault.back_up_now("manual")
    assert made.state is BackupState.GOOD
    assert set(alarm.open) == {"copies", "bucket"}
    assert "stay in the storage" in alarm.open["bucket"]
    _use_bucket(home, storage, "again/")
    await vault.back_up_now("manual")
    assert alarm.open == {}


async def test_a_copy_that_failed_is_sent_again_an_hour_later(home: Home, storage: str) -> None:
    _set_key(home)
    _use_bucket(home, "http://127.0.0.1:9", "late/")
    vault, now = home.vault, int(time.time())
    upkeep = Upkeep(vault, Copies(home.engine, home.keys.unseal))
    made = await vault.back_up_now("manual")
    assert records.read_backup(home.engine, made.id).s3_state is CopyState.FAILED
    records.change(home.engine, made.id, tested_at=now)
    _use_bucket(home, storage, "late/")
    await upkeep.run(now)
    found = records.read_backup(home.engine, made.id)
    assert found.s3_state is CopyState.SENT and _keys(storage, "late/") == [found.s3_key]


async def test_a_new_password_leaves_old_files_to_the_old_one(home: Home) -> None:
    vault = home.vault
    _set_key(home)
    first = await vault.back_up_now("manual")
    await vault.set_password("the second password", SYSTEM, 2)
    second = await vault.back_up_now("manual")
    good = {each.id: each.current_password for each in records.good_backups(home.engine)}
    assert good == {first.id: False, second.id: True}
    assert (await verify(vault, first.id)).state is BackupState.GOOD, "it is still checked"


async def test_a_backup_too_large_for_mail_is_refused_with_a_sentence(
    home: Home, post_office: PostOffice
) -> None:
    vault = home.vault
    _with_copies(home, vault)
    _use_mail(home, post_office.port)
    _set_key(home)
    change_choices(home.engine, BackupChoices(mail=True, mail_most_mb=1), SYSTEM, 1)
    with home.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE large AS SELECT randomblob(1100000) AS content")
    made = await vault.back_up_now("manual")
    found = records.read_backup(home.engine, made.id)
    assert found.state is BackupState.GOOD and found.mail_state is CopyState.SKIPPED
    assert found.mail_error == "It is larger than 1 MB and was not mailed."
    assert post_office.letters == []


async def test_a_mail_server_that_refuses_is_in_the_history_and_the_file_stays_good(
    home: Home, post_office: PostOffice
) -> None:
    vault = home.vault
    _with_copies(home, vault)
    _use_mail(home, post_office.port)
    _set_key(home)
    change_choices(home.engine, BackupChoices(mail=True), SYSTEM, 1)
    post_office.closed = True
    made = await vault.back_up_now("manual")
    found = records.read_backup(home.engine, made.id)
    assert found.state is BackupState.GOOD and found.mail_state is CopyState.FAILED
    assert "closed for today" in found.mail_error


async def test_a_copy_shows_in_the_history_while_it_is_sent_and_after_a_crash(home: Home) -> None:
    """A mail server that takes connections and never says a word; then the node dies."""
    silent = socket.create_server(("127.0.0.1", 0))
    vault = home.vault
    _with_copies(home, vault)
    _use_mail(home, silent.getsockname()[1])
    _set_key(home)
    change_choices(home.engine, BackupChoices(mail=True), SYSTEM, 1)
    backup_id = await vault.start("manual", SYSTEM)

    async def sending() -> bool:
        return records.read_backup(home.engine, backup_id).mail_state is CopyState.SENDING

    await until("it is being sent", sending)
    records.interrupted(home.engine, 2)  # as the next start does
    found = records.read_backup(home.engine, backup_id)
    assert found.mail_state is CopyState.FAILED and "ended while" in found.mail_error
    silent.close()
    await vault.stop()


async def test_files_on_the_machine_before_a_restore_are_elsewhere_and_later_ones_missing(
    home: Home,
) -> None:
    vault = home.vault
    upkeep = Upkeep(vault, Copies(home.engine, home.keys.unseal))
    _set_key(home)
    old = await vault.back_up_now("manual")
    now = old.started_at + 1
    change_preference(home.engine, Restored("a backup", now, now), SYSTEM, now)
    records.change(home.engine, old.id, started_at=now - 100)
    new = await vault.back_up_now("manual")
    records.change(home.engine, new.id, started_at=now + 100)
    for each in (old, new):
        each.path.unlink()
    await upkeep.run(now + 200)
    there, gone = (records.read_backup(home.engine, each.id) for each in (old, new))
    assert (there.state, there.error) == (BackupState.ELSEWHERE, "")
    assert gone.state is BackupState.MISSING and "gone" in gone.error


async def test_backups_in_a_folder_that_was_away_are_good_again_when_it_is_back(home: Home) -> None:
    """Else nothing is left to restore by the history, and no rule lets their files go."""
    vault = home.vault
    upkeep = Upkeep(vault, Copies(home.engine, home.keys.unseal))
    _set_key(home)
    made = await vault.back_up_now("manual")
    away = home.folder.rename(home.folder.with_name("away"))
    records.change(home.engine, made.id, tested_at=made.started_at)
    change_choices(home.engine, BackupChoices(every_hours=0), SYSTEM, 1)
    await upkeep.run(made.started_at + 1)
    assert records.read_backup(home.engine, made.id).state is BackupState.MISSING
    away.rename(home.folder)
    await upkeep.run(made.started_at + 2)
    found = records.read_backup(home.engine, made.id)
    assert (found.state, found.error, found.remark) == (BackupState.GOOD, "", made.remark)


async def test_a_file_that_cannot_be_looked_into_does_not_keep_the_schedule_up(home: Home) -> None:
    vault = home.vault
    upkeep = Upkeep(vault, Copies(home.engine, home.keys.unseal))
    _set_key(home)
    strange = await vault.back_up_now("manual")
    values = {"state": BackupState.FAILED, "recipient": "age1nobodys"}
    records.change(home.engine, strange.id, **values, started_at=1)
    await upkeep.run(strange.started_at + 1)
    assert [each.reason for each in records.good_backups(home.engine)] == ["scheduled"]
