"""A backup that is not what was written restores nothing, and says why in a sentence."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyrage
import pytest
import zstandard

from backups.errors import (
    BackupDamaged,
    BackupError,
    BackupTooNew,
    FolderUnusable,
    NotABackup,
    PasswordWrong,
    WrongNetwork,
)
from backups.header import HEADER_BYTES, BackupKey, encode_header
from backups.keyring import make_key, manifest_mac
from backups.manifest import Manifest, Member, encode_manifest
from backups.models import BackupState
from backups.reading import read_backup, read_manifest
from finance.wallet.place import FILE_NAME
from finance.wallet.signer import Keys, Signer
from node.accounts.audit import SYSTEM
from node.settings import Settings
from node.vault import records
from node.vault.checks import test_restore as try_restore
from node.vault.restore import look_inside, require_fit, stage
from tests.backups.home import PASSWORD, Home, contents

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
DAMAGES = 200 if SOAK else 40
_random = random.Random(4)


@pytest.fixture
def good(home: Home) -> Path:
    return home.back_up()


def refused(path: Path, identity: str, into: Path) -> BackupError:
    """Why a file is not read; nothing may stay of it that looks whole."""
    into.mkdir()
    with pytest.raises(BackupError) as caught:
        read_backup(path, identity, into, lambda *_: None, lambda _: None)
    assert str(caught.value).endswith("."), "a sentence"
    return caught.value


def _flip(content: bytes) -> bytes:
    at = _random.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << _random.randrange(8))]) + content[at + 1 :]


def _cut(content: bytes) -> bytes:
    return content[: _random.randrange(len(content))]


def _grow(content: bytes) -> bytes:
    return content + _random.randbytes(_random.randrange(1, 9000))


def _double(content: bytes) -> bytes:
    at, size = _random.randrange(len(content)), _random.randrange(1, 5000)
    return content[:at] + content[at : at + size] + content[at:]


def _blank(content: bytes) -> bytes:
    at, size = _random.randrange(len(content)), _random.randrange(512, 9000)
    middle = content[at : at + size]
    return content[:at] + bytes(each ^ 0xA5 for each in middle) + content[at + size :]


def test_every_damaged_file_is_refused(home: Home, good: Path, tmp_path: Path) -> None:
    before, content = home.files(), good.read_bytes()
    ways: list[Callable[[bytes], bytes]] = [_flip, _flip, _cut, _grow, _double, _blank]
    for number in range(DAMAGES):
        damaged = ways[number % len(ways)](content)
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        error = refused(path, home.key.identity, tmp_path / f"into-{number}")
        assert isinstance(error, (BackupDamaged, NotABackup, BackupTooNew)), error
    assert home.files() == before


async def test_damaged_files_leave_the_disk_as_it_was(good: Path, tmp_path: Path) -> None:
    """The whole way a restore goes, for a few."""
    content, target = good.read_bytes(), tmp_path / "new" / "node"
    settings = Settings(data_dir=target)
    manifest = (await look_inside(good, PASSWORD)).manifest
    for damage in (_flip, _cut):
        path = tmp_path / "damaged"
        path.write_bytes(content[:HEADER_BYTES] + damage(content[HEADER_BYTES:]))
        with pytest.raises(BackupDamaged):
            await stage(path, PASSWORD, manifest, settings)
        assert contents(tmp_path / "new") == {}
        assert list((tmp_path / "new").iterdir()) == []


async def test_wrong_password_is_told_from_damage(good: Path) -> None:
    with pytest.raises(PasswordWrong, match="does not open"):
        await look_inside(good, "not the password at all")


def test_something_else_is_no_backup(home: Home, tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04", b"x" * 9000, encode_header(_key(home))[:100]):
        path = tmp_path / "other"
        path.write_bytes(content)
        with pytest.raises((NotABackup, BackupDamaged)):
            read_manifest(path, home.key.identity)


def test_front_and_contents_of_two_backups_do_not_go_together(
    home: Home, good: Path, tmp_path: Path
) -> None:
    stranger, identity = make_key("somebody else's password")
    path = tmp_path / "swapped"
    path.write_bytes(encode_header(stranger) + good.read_bytes()[HEADER_BYTES:])
    refused(path, identity, tmp_path / "one")
    refused(path, home.key.identity, tmp_path / "two")


class Forge:
    """Backups as somebody could make them who has one of ours: with its public key, and with
    or without what the password opens."""

    def __init__(self, home: Home, good: Path) -> None:
        self.home = home
        self.manifest = read_manifest(good, home.key.identity)
        self._members = self._open(good)

    def _open(self, good: Path) -> dict[str, bytes]:
        payload = good.read_bytes()[HEADER_BYTES:]
        identity = pyrage.x25519.Identity.from_str(self.home.key.identity)
        packed = pyrage.decrypt(payload, [identity])
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            return {
                each.name: file.read()
                for each in tar.getmembers()
                if (file := tar.extractfile(each)) is not None
            }

    def write(
        self,
        path: Path,
        change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None] = lambda _: None,
        manifest: Manifest | None = None,
        mac: str | None = None,
        extra: bytes = b"",
    ) -> Path:
        about = encode_manifest(manifest or self.manifest)
        proof = mac or manifest_mac(self.home.key.identity, about)
        members = {**self._members, "manifest.json": about, "manifest.mac": proof.encode()}
        entries = [(_info(name, content), content) for name, content in members.items()]
        change(entries)
        plain = b"".join(
            info.tobuf(tarfile.GNU_FORMAT) + content + b"\0" * (-len(content) % 512)
            for info, content in entries
        )
        packed = zstandard.ZstdCompressor().compress(plain + b"\0" * 1024 + extra)
        recipient = pyrage.x25519.Recipient.from_str(self.home.key.recipient)
        path.write_bytes(encode_header(_key(self.home)) + pyrage.encrypt(packed, [recipient]))
        return path


def _key(home: Home) -> BackupKey:
    return BackupKey(home.key.recipient, home.key.key_block)


def _info(name: str, content: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info


def _swap(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    (one, first), (other, second) = entries[2], entries[3]
    one.name, other.name = other.name, one.name
    entries[2], entries[3] = (one, first), (other, second)


def _drop(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    del entries[3]


def _add(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries.append((_info("../../evil", b"evil"), b"evil"))


def _climb(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    entries[2][0].name = "../evil"


def _link(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info = entries[2][0]
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
    entries[2] = (info, b"")


def _other_content(entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info, content = entries[2]
    entries[2] = (info, content.replace(b'"', b"'"))


@pytest.mark.parametrize("change", [_swap, _drop, _add, _climb, _link, _other_content])
def test_members_that_differ_from_the_manifest_are_refused(
    home: Home, good: Path, tmp_path: Path, change: Callable[..., None]
) -> None:
    path = Forge(home, good).write(tmp_path / "forged", change)
    assert isinstance(refused(path, home.key.identity, tmp_path / "into"), BackupDamaged)
    assert not (tmp_path / "evil").exists()


def test_whoever_has_only_the_public_key_cannot_make_a_backup_of_ours(
    home: Home, good: Path, tmp_path: Path
) -> None:
    forge = Forge(home, good)
    path = forge.write(tmp_path / "forged", mac="0" * 64)
    error = refused(path, home.key.identity, tmp_path / "into")
    assert "not written by whoever holds its key" in str(error)


def test_contents_that_grow_without_end_are_stopped(home: Home, good: Path, tmp_path: Path) -> None:
    """Gigabytes of zeros in a few kilobytes: behind the end, and as an announced member."""
    forge = Forge(home, good)
    behind = forge.write(tmp_path / "behind", extra=b"\0" * (64 << 20) + b"x")
    assert behind.stat().st_size < 200_000
    refused(behind, home.key.identity, tmp_path / "one")
    large = Member("keys/large.json", 1 << 40, "0" * 64)
    members = [large, *forge.manifest.members[1:]]
    bomb = msgspec.structs.replace(forge.manifest, members=members)
    path = forge.write(tmp_path / "large", manifest=bomb)
    refused(path, home.key.identity, tmp_path / "two")
    assert sum(each.stat().st_size for each in tmp_path.rglob("*") if each.is_file()) < 9_000_000


async def test_a_database_larger_than_the_disk_is_refused_before_it_is_written(
    home: Home, good: Path, tmp_path: Path
) -> None:
    forge = Forge(home, good)
    *smalls, last = forge.manifest.members
    huge = msgspec.structs.replace(last, size=1 << 60)
    manifest = msgspec.structs.replace(forge.manifest, members=[*smalls, huge])
    path = forge.write(tmp_path / "huge", manifest=manifest)
    settings = Settings(data_dir=tmp_path / "new" / "node")
    with pytest.raises(FolderUnusable, match="not enough room"):
        await stage(path, PASSWORD, manifest, settings)
    assert list((tmp_path / "new").iterdir()) == []


def test_newer_format_and_schema_and_other_networks_have_sentences_of_their_own(
    home: Home, good: Path, tmp_path: Path
) -> None:
    forge = Forge(home, good)
    newer = msgspec.structs.replace(forge.manifest, format=2)
    error = refused(
        forge.write(tmp_path / "f", manifest=newer), home.key.identity, tmp_path / "into"
    )
    assert isinstance(error, BackupTooNew)
    schema = msgspec.structs.replace(forge.manifest, schema_revision="9999")
    with pytest.raises(BackupTooNew, match="schema 9999"):
        require_fit(schema, home.settings)
    network = msgspec.structs.replace(forge.manifest, network="base", chain_id=8453)
    with pytest.raises(WrongNetwork, match="Restore it where FAREBOX_NETWORK is base"):
        require_fit(network, home.settings)
    with pytest.raises(WrongNetwork, match="no network mars"):
        require_fit(msgspec.structs.replace(forge.manifest, network="mars"), home.settings)


def test_a_backup_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FolderUnusable, match="cannot be read"):
        asyncio.run(look_inside(tmp_path / "nothing", PASSWORD))


async def test_a_backup_of_the_wallet_that_another_has_replaced_is_not_damaged(home: Home) -> None:
    """An import keeps the old wallet's file beside the new one, and what it sealed stays sealed."""
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(home.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, 1)
    made, old = await home.vault.back_up_now("manual"), home.keys
    home.keys = Keys(Signer.random(), old.voucher, old.receiver, old._sealing_key)
    path = home.settings.keystore_dir / FILE_NAME
    path.rename(path.with_name("wallet-20260102T030405Z.json"))
    path.write_text(json.dumps({"address": home.keys.wallet.address}))
    tried = await try_restore(home.vault, made.id)
    assert (tried.state, tried.test_error) == (BackupState.GOOD, "")
