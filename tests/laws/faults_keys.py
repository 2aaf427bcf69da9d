"""Broken builds that show keys, or keep them in the open."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import coincurve
from pytest import MonkeyPatch

from finance.errors import WalletError
from finance.wallet import keystore
from finance.wallet.keystore import Keystore
from finance.wallet.signer import Keys, Signer, _Hidden
from node.gateway import app
from tests.laws.faults import fault


@fault(10, "one key does everything", "test_each_power_has_a_key_of_its_own")
def one_key_for_all(patch: MonkeyPatch) -> None:
    signer = Signer.random()
    patch.setattr(Signer, "random", lambda: signer)


@fault(
    10,
    "the lesser keys are written down as they are",
    "test_no_key_lies_unencrypted_on_the_disk",
)
def lesser_keys_in_the_open(patch: MonkeyPatch) -> None:
    patch.setattr(keystore, "encrypt", lambda key, content, label: content)
    patch.setattr(keystore, "decrypt", lambda key, content, label: content)
    document = keystore._document

    def readable(keys: Keys, passphrase: str) -> dict[str, Any]:
        written = document(keys, passphrase)
        lesser = json.loads(bytes.fromhex(written["farebox"]["keys"]))
        return {**written, "lesser": lesser}

    patch.setattr(keystore, "_document", readable)


@fault(
    10,
    "anybody on the machine can read the keystore",
    "test_no_key_lies_unencrypted_on_the_disk",
)
def keystore_for_everybody(patch: MonkeyPatch) -> None:
    write = Keystore._write_temporary

    def readable(self: Keystore, document: dict[str, Any]) -> Path:
        temporary = write(self, document)
        temporary.chmod(0o644)
        return temporary

    patch.setattr(Keystore, "_write_temporary", readable)
    patch.setattr(keystore, "_require_private", lambda path: None)


@fault(
    10,
    "credentials are encoded, not encrypted",
    "test_a_stored_credential_is_of_no_use_without_the_keys",
)
def credentials_in_the_open(patch: MonkeyPatch) -> None:
    patch.setattr(Keys, "seal", lambda self, secret: secret.hex())
    patch.setattr(Keys, "unseal", lambda self, sealed: bytes.fromhex(sealed))


@fault(10, "a signer's text holds its key", "test_no_text_made_of_keys_shows_them")
def key_in_repr(patch: MonkeyPatch) -> None:
    patch.setattr(Signer, "__repr__", lambda self: f"Signer({self.private.to_hex()})")


@fault(10, "keys can be pickled and copied", "test_keys_cannot_be_copied_into_a_dump")
def keys_copied(patch: MonkeyPatch) -> None:
    patch.setattr(_Hidden, "__reduce_ex__", lambda self, protocol: (str, ("a copy",)))


@fault(
    10,
    "the error about a mistyped key repeats it",
    "test_no_error_repeats_the_key_it_is_about",
)
def key_in_error(patch: MonkeyPatch) -> None:
    def from_hex(cls: type[Signer], key_hex: str) -> Signer:
        try:
            return cls(coincurve.PrivateKey(bytes.fromhex(key_hex)))
        except ValueError as error:
            raise WalletError(f"{key_hex} is not a private key.") from error

    patch.setattr(Signer, "from_hex", classmethod(from_hex))


@fault(
    10, "what is signed is logged with its key", "test_no_log_of_a_sale_holds_a_key_or_a_payment"
)
def key_logged(patch: MonkeyPatch) -> None:
    sign = Signer.sign_transaction

    def logged(self: Signer, transaction: Any) -> Any:
        logging.getLogger("farebox").debug("%s signs %s", self.private.to_hex(), transaction)
        return sign(self, transaction)

    patch.setattr(Signer, "sign_transaction", logged)


@fault(
    10,
    "the log of an upstream's error holds the address that was called",
    "test_no_error_of_the_upstream_tells_its_credential",
)
def credential_logged(patch: MonkeyPatch) -> None:
    log = app.Gateway._log

    def with_routes(self: app.Gateway, call: Any, error: Exception) -> None:
        log(self, call, error)
        for route in self._table.routes():
            app.log.warning("called %s", route.upstream.url(b"/", call.query))

    patch.setattr(app.Gateway, "_log", with_routes)
