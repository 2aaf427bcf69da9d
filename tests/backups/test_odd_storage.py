"""A copy that cannot be made, for whatever reason, is said not to be, and keeps up nothing else."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backups.bucket import Bucket
from backups.client import run_task
from backups.errors import DestinationFailed
from backups.header import BackupKey
from backups.models import BackupState, CopyState
from backups.retention import Keeping
from backups.tasks import Done, Prune, Pruned, Upload
from finance.wallet.signer import Keys, Signer
from node.accounts.audit import SYSTEM
from node.alerts.choices import MailSecurity
from node.alerts.configure import EmailChange, save_email
from node.alerts.mail import Mailer
from node.vault import records
from node.vault.build import mail_post
from node.vault.choices import BackupChoices, S3Choices, change_choices, change_s3
from node.vault.copies import Copies
from node.vault.records import BackupView
from node.vault.upkeep import Upkeep
from tests.backups.home import Home
from tests.backups.told import Told


class _Redirect(BaseHTTPRequestHandler):
    """As a web server does that wants every address to begin with https."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(301)
        self.send_header("location", "https://127.0.0.1:9/")
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_PUT = do_HEAD = _answer

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def redirecting() -> Iterator[Bucket]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Redirect)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Bucket(
        endpoint_url=f"http://127.0.0.1:{server.server_address[1]}",
        region="us-east-1",
        name="bucket",
        access_key_id="id",
        secret_key="key",
    )
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_storage_that_redirects_is_said_to_do_so(
    redirecting: Bucket, tmp_path: Path
) -> None:
    """Not that the work ended for no reason, and should be tried again."""
    path = tmp_path / "one.farebox"
    path.write_bytes(b"backup")
    digest = hashlib.sha256(b"backup").hexdigest()
    with pytest.raises(DestinationFailed, match="redirects"):
        await run_task(Upload(bucket=redirecting, key="k", path=str(path), sha256=digest), Done)
    prune = Prune(
        bucket=redirecting, prefix="", keeping=Keeping(), now=1, good={}, unsure={}, recipients=[]
    )
    with pytest.raises(DestinationFailed, match="redirects"):
        await run_task(prune, Pruned)


async def test_a_secret_that_no_key_here_opens_does_not_keep_the_rule_from_pruning(
    home: Home,
) -> None:
    """Else the folder grows with every backup until the disk is full, and nobody is told."""
    other = Keys(
        Signer.random(), Signer.random(), Signer.random(), b"another directory's sealing key!"
    )
    told, vault = Told(), home.vault
    vault.around = replace(vault.around, alarm=told)
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(home.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, 1)
    secret = other.seal(b"secret")
    storage = S3Choices(bucket="b", access_key_id="id", secret_key_sealed=secret)
    change_s3(home.engine, storage, SYSTEM, 1)
    change_choices(home.engine, BackupChoices(mail=True), SYSTEM, 1)
    mail = EmailChange(
        *("127.0.0.1", 9, MailSecurity.NONE, "node", "node@example.org", ("ops@example.org",), "pw")
    )
    save_email(home.engine, mail, other.seal, SYSTEM, 1)
    unseal = home.keys.unseal
    Upkeep(vault, Copies(home.engine, unseal, mail_post(Mailer(home.engine, unseal))))
    old = await vault.back_up_now("manual")
    records.change(home.engine, old.id, started_at=1_000_000)
    new = await vault.back_up_now("manual")
    found = records.read_backup(home.engine, new.id)
    assert (found.s3_state, found.mail_state) == (CopyState.FAILED, CopyState.FAILED)
    assert "cannot be decrypted" in found.s3_error and "cannot be decrypted" in found.mail_error
    assert records.read_backup(home.engine, old.id).state is BackupState.REMOVED
    assert "cannot be decrypted" in told.open["copies"] and "cannot be" in told.open["bucket"]


async def test_a_file_that_is_gone_before_it_is_mailed_is_a_mail_that_failed(home: Home) -> None:
    vault = home.vault
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(home.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, 1)
    change_choices(home.engine, BackupChoices(mail=True), SYSTEM, 1)

    async def lose(backup: BackupView) -> None:
        backup.path.unlink()

    vault.after.append(lose)
    unseal = home.keys.unseal
    Upkeep(vault, Copies(home.engine, unseal, mail_post(Mailer(home.engine, unseal))))
    made = await vault.back_up_now("manual")
    found = records.read_backup(home.engine, made.id)
    assert found.mail_state is CopyState.FAILED and "cannot be used" in found.mail_error
