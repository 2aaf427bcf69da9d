"""Law 10. Keys by power: each its own, encrypted at rest, and shown by nothing."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import pickle
import stat
import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import coincurve
import pytest

from catalog.listings import compile_listings
from finance.errors import WalletError
from finance.wallet import keystore
from finance.wallet.keystore import Keystore
from finance.wallet.signer import Keys, Signer
from node.egress import EgressPolicy
from node.gateway.app import Gateway
from tests.http.conftest import SECRET, Market, free_port, serving
from tests.laws.worlds import Shop

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keystore:
    """New keys; their passphrase is stretched less than in earnest, to save a second."""
    monkeypatch.setattr(keystore, "SCRYPT_WORK", 2**10)
    store = Keystore(tmp_path / "keys")
    store.create(PASSPHRASE)
    return store


def _spellings(secret: bytes) -> list[str]:
    """How a key could be written down."""
    number = int.from_bytes(secret, "big")
    return [secret.hex(), secret.hex().upper(), repr(secret)[2:-1], str(number)]


def _secrets(keys: Keys) -> list[bytes]:
    signers = (keys.wallet, keys.voucher, keys.receiver)
    return [*(each.private.secret for each in signers), keys._sealing_key]


def _shown(keys: Keys, text: str) -> list[str]:
    return [word for secret in _secrets(keys) for word in _spellings(secret) if word in text]


def test_each_power_has_a_key_of_its_own(store: Keystore) -> None:
    keys = store.unlock(PASSPHRASE)
    assert len(set(_secrets(keys))) == 4


def test_no_key_lies_unencrypted_on_the_disk(store: Keystore) -> None:
    keys = store.unlock(PASSPHRASE)
    files = [path for path in store.directory.iterdir() if path.is_file()]
    for path in files:
        assert not _shown(keys, path.read_text())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files and stat.S_IMODE(store.directory.stat().st_mode) == 0o700


def test_a_stored_credential_is_of_no_use_without_the_keys(store: Keystore) -> None:
    sealed = store.unlock(PASSPHRASE).seal(SECRET)
    assert SECRET.hex() not in sealed and SECRET.decode() not in sealed
    with pytest.raises(WalletError):
        Keys(Signer.random(), Signer.random(), Signer.random(), bytes(32)).unseal(sealed)


def test_no_text_made_of_keys_shows_them(store: Keystore, caplog: pytest.LogCaptureFixture) -> None:
    keys = store.unlock(PASSPHRASE)
    things: list[Any] = [keys, keys.wallet, keys.voucher, keys.receiver, {"keys": keys}]
    with caplog.at_level(logging.DEBUG):
        for thing in things:
            logging.getLogger("farebox").error("%s %r", thing, thing)
    texts = [caplog.text, *(f"{thing} {thing!r}" for thing in things)]
    assert not _shown(keys, "".join(texts))


def test_keys_cannot_be_copied_into_a_dump(store: Keystore) -> None:
    keys = store.unlock(PASSPHRASE)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        for thing in (keys, keys.wallet):
            with pytest.raises(WalletError):
                way(thing)


@pytest.mark.parametrize("damage", ["", "00", "zz"])
def test_no_error_repeats_the_key_it_is_about(damage: str) -> None:
    typed = coincurve.PrivateKey().to_hex()[: 64 - len(damage)] + damage + "1"
    try:
        Signer.from_hex(typed)
    except WalletError:
        told = traceback.format_exc()
    assert typed not in told and typed[:32] not in told


async def test_no_log_of_a_sale_holds_a_key_or_a_payment(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    world = shop.world
    with caplog.at_level(logging.DEBUG):
        payer = shop.payer()
        async with shop.open_gateway() as url:
            headers = await shop.header(url, world.deposit(payer, 20_000))
            answer = await shop.client.get(url + "/v1/api/echo", headers=headers)
        await world.claims.claim_all()
    assert answer.status_code == 200
    own = [record for record in caplog.records if record.name.startswith(("finance", "farebox"))]
    told = "".join(record.getMessage() for record in own)
    secrets = [world.wallet.private.secret, world.receiver.private.secret]
    assert not [word for secret in secrets for word in _spellings(secret) if word in caplog.text]
    assert headers["PAYMENT-SIGNATURE"] not in told


@contextlib.asynccontextmanager
async def _nonsense() -> AsyncIterator[int]:
    """An upstream that does not speak HTTP; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_no_error_of_the_upstream_tells_its_credential(
    market: Market, caplog: pytest.LogCaptureFixture
) -> None:
    async with _nonsense() as port:
        seller = replace(market.seller, egress=EgressPolicy([f"127.0.0.1:{port}"]))
        secret = {"credential_kind": "query", "credential_name": "key"}
        row = market.sell(base=f"http://127.0.0.1:{port}", credential_secret=SECRET.hex(), **secret)
        gateway, own = Gateway(seller, compile_listings([row], [])), free_port()
        payer = await market.payer()
        header = payer.voucher(await market.offer("/v1/api/x"))
        async with serving(gateway, own):
            with caplog.at_level(logging.INFO):
                answer = await market.client.get(
                    f"http://127.0.0.1:{own}/v1/api/x", headers={"PAYMENT-SIGNATURE": header}
                )
        await gateway.stop()
    assert answer.status_code == 502
    assert SECRET.decode() not in caplog.text + answer.text + str(answer.headers)
