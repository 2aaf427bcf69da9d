"""Copies elsewhere: a real S3 server and a real mail server, what they take, give back, refuse
and lose."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from backups.bucket import Bucket
from backups.client import run_task
from backups.errors import DestinationFailed
from backups.header import BackupKey
from backups.models import BackupState, CopyState
from backups.tasks import Done, Forget, Upload
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


def test_a_copy_is_put_read_back_and_removed(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "large.farebox"
    path.write_bytes(bytes(range(256)) * 80_000)  # more than one part
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    upload = Upload(bucket=_bucket(storage), key="a/large", path=str(path), sha256=digest)
    asyncio.run(run_task(upload, Done))
    found = _client(storage).get_object(Bucket="backups", Key="a/large")["Body"].read()
    assert found == path.read_bytes()
    asyncio.run(run_task(Forget(bucket=_bucket(storage), key="a/large"), Done))
    assert "Contents" not in _client(storage).list_objects_v2(Bucket="backups", Prefix="a/")


def test_what_the_storage_gives_back_differently_is_no_copy(storage: str, tmp_path: Path) -> None:
    path = tmp_path / "one.farebox"
    path.write_bytes(b"content")
    upload = Upload(bucket=_bucket(storage), key="b", path=str(path), sha256="0" * 64)
    with pytest.raises(DestinationFailed, match="not what was put there"):
        asyncio.run(run_task(upload, Done))


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
    sealed = home.keys.seal(SECRET.encode())
    choices = S3Choices(
        endpoint_url=storage,
        bucket="backups",
        prefix="node/",
        access_key_id="key",
        secret_key_sealed=sealed,
    )
    await asyncio.to_thread(change_s3, home.engine, choices, SYSTEM, now)
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
