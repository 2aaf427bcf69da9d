"""Copies elsewhere: a real S3 server, what it takes, gives back, refuses and loses."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from backups.bucket import Bucket
from backups.client import run_task
from backups.errors import DestinationFailed
from backups.models import BackupState, CopyState
from backups.tasks import Done, Forget, Upload
from node.accounts.audit import SYSTEM
from node.vault import records
from node.vault.checks import test_restore as try_restore
from node.vault.checks import verify
from node.vault.choices import BackupChoices, S3Choices, change_choices, change_s3
from node.vault.copies import Copies, Parcel
from node.vault.upkeep import Upkeep
from tests.backups.home import Home

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
    home: Home, storage: str
) -> None:
    """The life of a backup, with everything switched on."""
    posted: list[Parcel] = []

    async def post(parcel: Parcel) -> str:
        posted.append(parcel)
        return ""

    vault, now = home.vault, 1_800_000_000
    copies = Copies(home.engine, home.keys.unseal, post)
    Upkeep(vault, copies)
    await vault.set_password("a backup password", SYSTEM, now)
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
    assert stored == posted[0].content == first.path.read_bytes()
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
    await vault.set_password("a backup password", SYSTEM, 1)
    old = await vault.back_up_now("manual")
    records.change(home.engine, old.id, started_at=1_000_000)
    await upkeep.prune(old)
    assert old.path.exists(), "the last good one stays, however old"
    new = await vault.back_up_now("manual")
    assert not old.path.exists() and new.path.exists()
    assert records.read_backup(home.engine, old.id).state is BackupState.REMOVED


async def test_a_new_password_leaves_old_files_to_the_old_one(home: Home) -> None:
    vault = home.vault
    await vault.set_password("the first password", SYSTEM, 1)
    first = await vault.back_up_now("manual")
    await vault.set_password("the second password", SYSTEM, 2)
    second = await vault.back_up_now("manual")
    good = {each.id: each.current_password for each in records.good_backups(home.engine)}
    assert good == {first.id: False, second.id: True}
    assert (await verify(vault, first.id)).state is BackupState.GOOD, "it is still checked"
