"""The backup password: what deriving a key from it takes, and that every age tool opens it."""

from __future__ import annotations

import base64
import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyrage
import pytest

from backups.errors import BackupDamaged, MemoryShort
from backups.header import BackupKey, encode_header, read_header
from backups.keyring import open_key
from backups.password import WORK, OtherPassword, Unreadable, seal, unseal, work_of
from tests.backups.home import PASSWORD, Home

REPOSITORY = Path(__file__).parent.parent.parent


def test_a_password_takes_a_fixed_amount_of_memory_and_any_age_opens_it(home: Home) -> None:
    block = home.key.key_block
    assert work_of(block) == WORK
    assert pyrage.passphrase.decrypt(block.encode(), PASSWORD).decode() == home.key.identity
    script = (
        "import backups.keyring as k\n"
        f"k.make_key({PASSWORD!r})\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(*(line.split()[1] for line in lines if line.startswith('VmHWM')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, check=True
    )
    assert int(done.stdout) < 330 * 1024, "256 MiB, and Python"


def test_a_front_that_asks_for_more_work_than_ours_is_refused_before_it_is_done(
    home: Home,
) -> None:
    """A file somebody made so that opening it takes all memory there is."""
    asked = home.key.key_block
    text = "".join(asked.strip().splitlines()[1:-1])
    raw = base64.b64decode(text).replace(b" 18\n", b" 22\n", 1)
    again = base64.b64encode(raw).decode()
    lines = "\n".join(again[at : at + 64] for at in range(0, len(again), 64))
    armored = f"-----BEGIN AGE ENCRYPTED FILE-----\n{lines}\n-----END AGE ENCRYPTED FILE-----\n"
    file = io.BytesIO(encode_header(BackupKey(home.key.recipient, armored)))
    began = time.monotonic()
    with pytest.raises(BackupDamaged, match="not Farebox's own"):
        open_key(read_header(file), PASSWORD)
    assert time.monotonic() - began < 1


def test_too_little_memory_is_a_sentence(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container with a small share says it."""
    (tmp_path / "memory.max").write_text(f"{300 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{100 << 20}\n")
    monkeypatch.setattr("backups.keyring._GROUP", tmp_path)
    key = BackupKey(home.key.recipient, home.key.key_block)
    with pytest.raises(MemoryShort, match=r"takes 288 MiB of memory .* 200 MiB are free"):
        open_key(key, PASSWORD)


def test_every_password_and_secret_of_any_length_opens_with_a_second_implementation() -> None:
    for secret, password in ((b"", "ä" * 12), (b"x" * 65_536, "long " * 200), (b"\0", " tab\t ")):
        armored = seal(secret, password, 10)
        assert pyrage.passphrase.decrypt(armored.encode(), password) == secret
        assert unseal(armored, password) == secret
        with pytest.raises(pyrage.DecryptError):
            pyrage.passphrase.decrypt(armored.encode(), password + "x")
        with pytest.raises(OtherPassword):
            unseal(armored, password + "x")


def test_what_another_age_wrote_is_opened_and_nothing_that_was_changed() -> None:
    foreign = pyrage.passphrase.encrypt(b"secret", PASSWORD, armored=True).decode()
    assert unseal(foreign, PASSWORD) == b"secret"
    raw = base64.b64decode("".join(seal(b"secret", PASSWORD, 10).splitlines()[1:-1]))
    for at in range(len(raw)):
        changed = base64.b64encode(raw[:at] + bytes((raw[at] ^ 1,)) + raw[at + 1 :]).decode()
        with pytest.raises(ValueError):
            unseal(changed, PASSWORD)
    for part in (raw[:-1], raw + b"x"):
        with pytest.raises(Unreadable):
            unseal(base64.b64encode(part).decode(), PASSWORD)


def test_the_right_password_opens_a_backup_on_a_machine_that_is_busy(home: Home) -> None:
    """It stands still for a quarter of a second, again and again, while the key is derived."""
    script = (
        "import sys, backups.keyring as k\n"
        "key = k.BackupKey(*sys.argv[1:])\n"
        "print('begins', flush=True)\n"
        f"print(k.open_key(key, {PASSWORD!r}))\n"
    )
    command = [sys.executable, "-c", script, home.key.recipient, home.key.key_block]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as opening:
        assert opening.stdout is not None and opening.stdout.readline() == "begins\n"
        for _ in range(8):
            opening.send_signal(signal.SIGSTOP)
            time.sleep(0.25)
            opening.send_signal(signal.SIGCONT)
            time.sleep(0.001)
        assert opening.stdout.read().strip() == home.key.identity
