"""What protects the keys: nothing shows them, nothing overwrites them."""

from __future__ import annotations

import copy
import json
import os
import pickle
import stat
import traceback
from pathlib import Path

import pytest
from eth_account import Account

from finance.errors import PassphraseWrong, WalletError
from finance.wallet.keystore import Keystore
from finance.wallet.signer import Keys, Signer

_PASSPHRASE = "correct horse battery staple"
_HEX = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


@pytest.fixture(scope="module")
def keystore(tmp_path_factory: pytest.TempPathFactory) -> Keystore:
    """Made once, for those that only look at it."""
    made = Keystore(tmp_path_factory.mktemp("node") / "keys")
    made.create(_PASSPHRASE)
    return made


@pytest.fixture(scope="module")
def keys(keystore: Keystore) -> Keys:
    return keystore.unlock(_PASSPHRASE)


def test_the_three_powers_are_three_keys(keystore: Keystore, keys: Keys) -> None:
    assert len({keys.wallet.address, keys.voucher.address, keys.receiver.address}) == 3
    assert keystore.address().lower() == keys.wallet.address


def test_only_the_owner_can_read_the_file(keystore: Keystore) -> None:
    assert stat.S_IMODE(keystore.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keystore.directory.stat().st_mode) == 0o700


@pytest.mark.usefixtures("true_costs")
def test_every_guess_at_the_passphrase_costs_what_other_wallets_ask_for(tmp_path: Path) -> None:
    made = Keystore(tmp_path / "keys")
    made.create(_PASSPHRASE)
    crypto = json.loads(made.path.read_text())["crypto"]
    assert crypto["kdf"] == "scrypt"
    assert {name: crypto["kdfparams"][name] for name in "nrp"} == {"n": 2**18, "r": 8, "p": 1}


def test_a_wrong_passphrase_is_said_so(keystore: Keystore) -> None:
    with pytest.raises(PassphraseWrong, match="does not open"):
        keystore.unlock("wrong")


def test_a_wallet_is_never_overwritten(keystore: Keystore) -> None:
    before = keystore.path.read_bytes()
    with pytest.raises(WalletError, match="never overwritten"):
        keystore.create(_PASSPHRASE)
    with pytest.raises(WalletError, match="--replace"):
        keystore.import_wallet(_HEX, "", _PASSPHRASE)
    assert keystore.path.read_bytes() == before
    assert os.listdir(keystore.directory) == [keystore.path.name]


def test_no_key_shows_in_text_pickles_or_tracebacks(keys: Keys) -> None:
    signer = Signer.from_hex(_HEX)
    shown = [repr(signer), str(signer), f"{signer}", repr(keys), str(vars(type(signer)))]
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(WalletError) as caught:
            refused(signer)
        shown.append("".join(traceback.format_exception(caught.value)))
    assert not any(_HEX in text.lower() for text in shown)


def test_what_is_no_key_is_not_repeated_in_the_error() -> None:
    with pytest.raises(WalletError) as caught:
        Signer.from_hex(_HEX + "ff")
    assert _HEX not in "".join(traceback.format_exception(caught.value))


def test_the_exported_wallet_opens_elsewhere_and_holds_no_other_key(
    keystore: Keystore, keys: Keys
) -> None:
    exported = json.loads(keystore.export(_PASSPHRASE))
    assert Signer.from_hex(bytes(Account.decrypt(exported, _PASSPHRASE)).hex()).address == (
        keys.wallet.address
    )
    assert set(exported) == {"address", "crypto", "id", "version"}
    with pytest.raises(PassphraseWrong):
        keystore.export("wrong")


def test_an_imported_wallet_keeps_the_old_file_and_the_lesser_keys(tmp_path: Path) -> None:
    keystore = Keystore(tmp_path)
    keystore.create(_PASSPHRASE)
    old = keystore.unlock(_PASSPHRASE)
    sealed = old.seal(b"upstream token")
    address = keystore.import_wallet(_HEX, "", _PASSPHRASE, replace=True)
    new = keystore.unlock(_PASSPHRASE)
    assert new.wallet.address == address.lower() == Signer.from_hex(_HEX).address
    assert (new.voucher.address, new.receiver.address) == (
        old.voucher.address,
        old.receiver.address,
    )
    assert new.unseal(sealed) == b"upstream token"
    (kept,) = tmp_path.glob("wallet-*.json")
    assert Signer.from_hex(
        bytes(Account.decrypt(json.loads(kept.read_text()), _PASSPHRASE)).hex()
    ).address == (old.wallet.address)


def test_a_foreign_keystore_is_imported_with_its_own_passphrase(tmp_path: Path) -> None:
    foreign = json.dumps(
        Account.encrypt(bytes.fromhex(_HEX), "theirs", kdf="pbkdf2", iterations=1000)
    )
    keystore = Keystore(tmp_path / "keys")
    with pytest.raises(PassphraseWrong):
        keystore.import_wallet(foreign, "mine", _PASSPHRASE)
    keystore.import_wallet(foreign, "theirs", _PASSPHRASE)
    assert keystore.unlock(_PASSPHRASE).wallet.address == Signer.from_hex(_HEX).address


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"address": 7}', b"\xff\xfe", b'{"version": 3}']
)
def test_a_damaged_file_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "wallet.json"
    path.write_bytes(content)
    path.chmod(0o600)
    for act in (Keystore(tmp_path).address, lambda: Keystore(tmp_path).unlock(_PASSPHRASE)):
        with pytest.raises(WalletError, match=r"damaged|no keystore"):
            act()


def test_keys_swapped_in_from_another_wallet_are_refused(
    keystore: Keystore, tmp_path: Path
) -> None:
    other = Keystore(tmp_path)
    other.create(_PASSPHRASE)
    document = json.loads(keystore.path.read_text())
    document["farebox"] = json.loads(other.path.read_text())["farebox"]
    other.path.write_text(json.dumps(document))
    with pytest.raises(WalletError, match="damaged"):
        other.unlock(_PASSPHRASE)


def test_a_missing_or_readable_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WalletError, match="Make one first"):
        Keystore(tmp_path).unlock(_PASSPHRASE)
    (tmp_path / "wallet.json").write_text("{}")
    (tmp_path / "wallet.json").chmod(0o644)
    with pytest.raises(WalletError, match="chmod 600"):
        Keystore(tmp_path).address()


def test_an_empty_passphrase_protects_nothing(tmp_path: Path) -> None:
    with pytest.raises(WalletError, match="passphrase"):
        Keystore(tmp_path).create("")


def test_what_was_sealed_is_read_back_and_nothing_else(keys: Keys) -> None:
    sealed = keys.seal(b"secret")
    assert keys.unseal(sealed) == b"secret"
    assert keys.seal(b"secret") != sealed
    for changed in ("00" + sealed[2:], sealed[:-2] + "00", sealed[:20], "", "zz"):
        with pytest.raises(WalletError, match="cannot be decrypted"):
            keys.unseal(changed)
