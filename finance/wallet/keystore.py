"""The node's keys at rest: one file, readable by its owner only.

`wallet.json` is a keystore v3 file (Web3 Secret Storage, scrypt) of the wallet key
with one more member, `farebox`: the other keys, encrypted under a key derived from
the wallet key (HKDF-SHA256, AES-256-GCM). So the slow derivation from the
passphrase is paid once, the file is replaced as a whole or not at all, and other
wallets can read it. The wallet key opens the lesser keys, never the other way round.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Any, cast

from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF

from finance.errors import PassphraseWrong, WalletError
from finance.wallet.place import FILE_NAME
from finance.wallet.signer import Keys, Signer, decrypt, encrypt
from finance.x402.text import checksum

SCRYPT_WORK = 2**18  # what geth and others use; about a second
MAX_FILE_BYTES = 65536
_CONTEXT = b"farebox keys by power 1"
_MEMBER = "farebox"


class Keystore:
    """The keys in one directory. Its methods block (about a second): call them off the loop."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / FILE_NAME

    def exists(self) -> bool:
        return self.path.exists()

    def address(self) -> str:
        """The wallet's address, checksummed; needs no passphrase."""
        try:
            return checksum(bytes.fromhex(str(self._read()["address"]).removeprefix("0x")))
        except (KeyError, ValueError):
            raise self._damaged() from None

    def create(self, passphrase: str) -> None:
        """Make new keys. Raises WalletError if there are keys already: never overwrites."""
        _require_passphrase(passphrase)
        self._require_absent()
        keys = Keys(Signer.random(), Signer.random(), Signer.random(), secrets.token_bytes(32))
        self._write_new(_document(keys, passphrase))

    def unlock(self, passphrase: str) -> Keys:
        """The keys. Raises PassphraseWrong, or WalletError with what to do."""
        document = self._read()
        wallet = _open_v3(document, passphrase, str(self.path))
        try:
            rest = _open_rest(wallet, document[_MEMBER])
        except (KeyError, ValueError, TypeError):
            raise self._damaged() from None
        voucher, receiver = (Signer.from_hex(rest[name]) for name in ("voucher", "receiver"))
        return Keys(wallet, voucher, receiver, bytes.fromhex(rest["secret"]))

    def export(self, passphrase: str) -> str:
        """The wallet key as keystore v3 JSON under the same passphrase, for other wallets."""
        document = self._read()
        _open_v3(document, passphrase, str(self.path))
        return json.dumps({name: value for name, value in document.items() if name != _MEMBER})

    def import_wallet(
        self, text: str, its_passphrase: str, passphrase: str, *, replace: bool = False
    ) -> str:
        """Take over a wallet key: keystore v3 JSON (opened with `its_passphrase`) or hex.

        Returns its address. Where keys exist, `replace` must be said, `passphrase` must
        open them, the old file stays beside the new one under the time of day, and the
        voucher, receiver and sealing keys go on as they are.
        """
        _require_passphrase(passphrase)
        wallet = _read_foreign(text, its_passphrase)
        if not self.exists():
            keys = Keys(wallet, Signer.random(), Signer.random(), secrets.token_bytes(32))
            self._write_new(_document(keys, passphrase))
        elif replace:
            old = self.unlock(passphrase)
            keys = Keys(wallet, old.voucher, old.receiver, old._sealing_key)
            self._replace(_document(keys, passphrase))
        else:
            raise WalletError(
                f"{self.path} holds a wallet already. With --replace this one takes its place, and"
                " the old file is kept beside it; money of the old wallet stays with the old one."
            )
        return checksum(wallet.address_bytes)

    def _require_absent(self) -> None:
        if self.exists():
            raise WalletError(f"{self.path} holds a wallet already; it is never overwritten.")

    def _damaged(self) -> WalletError:
        return WalletError(
            f"{self.path} is damaged: restore it from a backup, or move the file away and import"
            " the wallet again; what it sealed (credentials, passwords of servers) is lost then."
        )

    def _read(self) -> dict[str, Any]:
        try:
            _require_private(self.path)
            with self.path.open("rb") as file:
                document = json.loads(file.read(MAX_FILE_BYTES))
        except FileNotFoundError:
            raise WalletError(f"There is no wallet at {self.path}. Make one first.") from None
        except OSError as error:
            raise WalletError(f"{self.path} cannot be read: {error.strerror}.") from None
        except ValueError:
            raise self._damaged() from None
        if not isinstance(document, dict):
            raise self._damaged()
        return cast(dict[str, Any], document)

    def _write_new(self, document: dict[str, Any]) -> None:
        """Place the file unless one appeared meanwhile (link refuses, rename would not)."""
        temporary = self._write_temporary(document)
        try:
            os.link(temporary, self.path)
        except FileExistsError:
            self._require_absent()
        except OSError as error:
            raise WalletError(f"{self.path} cannot be written: {error.strerror}.") from None
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(self.directory)

    def _replace(self, document: dict[str, Any]) -> None:
        kept = self.directory / time.strftime("wallet-%Y%m%dT%H%M%SZ.json", time.gmtime())
        temporary = self._write_temporary(document)
        try:
            os.link(self.path, kept)
            os.replace(temporary, self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise WalletError(f"{kept} cannot be written: {error.strerror}.") from None
        _sync_directory(self.directory)

    def _write_temporary(self, document: dict[str, Any]) -> Path:
        temporary = self.directory / f".{FILE_NAME}.{secrets.token_hex(8)}"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WalletError(
                f"The wallet cannot be written to {self.directory}: {error.strerror}."
            ) from None
        return temporary


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _require_passphrase(passphrase: str) -> None:
    if not passphrase:
        raise WalletError("The wallet needs a passphrase; an empty one protects nothing.")


def _require_private(path: Path) -> None:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise WalletError(f"{path} can be read by other users of this machine: chmod 600 it.")


def _document(keys: Keys, passphrase: str) -> dict[str, Any]:
    wallet = keys.wallet
    from eth_account import Account  # takes half a second, and most commands need no key

    document = Account.encrypt(
        wallet.private.secret, passphrase, kdf="scrypt", iterations=SCRYPT_WORK
    )
    rest = {
        "voucher": keys.voucher.private.to_hex(),
        "receiver": keys.receiver.private.to_hex(),
        "secret": keys._sealing_key.hex(),
    }
    sealed = encrypt(_derive(wallet), json.dumps(rest).encode(), wallet.address_bytes)
    return {**document, _MEMBER: {"version": 1, "keys": sealed.hex()}}


def _open_rest(wallet: Signer, member: dict[str, Any]) -> dict[str, str]:
    content = decrypt(_derive(wallet), bytes.fromhex(member["keys"]), wallet.address_bytes)
    return cast(dict[str, str], json.loads(content))


def _derive(wallet: Signer) -> bytes:
    derived = HKDF(wallet.private.secret, 32, b"", SHA256, context=_CONTEXT)
    assert isinstance(derived, bytes)
    return derived


def _open_v3(document: dict[str, Any], passphrase: str, where: str) -> Signer:
    """The key in a keystore v3 document. A wrong passphrase fails its MAC."""
    from eth_account import Account

    try:
        return Signer.from_hex(bytes(Account.decrypt(document, passphrase)).hex())
    except ValueError as error:
        if "MAC mismatch" in str(error):
            raise PassphraseWrong(f"The passphrase does not open {where}.") from None
        raise WalletError(f"{where} is damaged, or no keystore v3 file.") from None
    except (KeyError, TypeError, AttributeError, NotImplementedError):
        raise WalletError(f"{where} is damaged, or no keystore v3 file.") from None


def _read_foreign(text: str, its_passphrase: str) -> Signer:
    if not text.lstrip().startswith("{"):
        return Signer.from_hex(text)
    try:
        document = json.loads(text)
    except ValueError:
        raise WalletError("The wallet to import is neither keystore v3 JSON nor hex.") from None
    return _open_v3(document, its_passphrase, "the wallet to import")
