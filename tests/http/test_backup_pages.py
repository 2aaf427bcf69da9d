"""Settings > Backup and /api/backups: the same facts, and nothing that should stay secret."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from finance.wallet.keystore import Keystore
from node.accounts.access import Role
from tests.console_world import PASSWORD as OWN_PASSWORD
from tests.console_world import Console, serve_console

BACKUP_PASSWORD = "a password for backups only"


@pytest.fixture
def console(migrated_engine: Engine, tmp_path: Path) -> Iterator[Console]:
    data_dir = tmp_path / "farebox"
    data_dir.mkdir(mode=0o700)
    Keystore(data_dir / "keys").create("passphrase of the wallet")
    with serve_console(migrated_engine, data_dir) as console:
        yield console


def test_from_no_password_to_a_checked_backup_that_can_be_fetched(console: Console) -> None:
    admin, api = console.client(Role.ADMIN), console.api(Role.ADMIN)
    admin.timeout = api.timeout = 60  # a key takes a second or two, more on a busy machine
    assert "first choose the password" in admin.get("/settings/backup").text
    refused = console.send(
        admin,
        "/settings/backup/password",
        backup_password=BACKUP_PASSWORD,
        again="something else",
        own_password=OWN_PASSWORD,
    )
    assert refused.status_code == 422 and "The two differ" in refused.text
    fields = {"backup_password": BACKUP_PASSWORD, "again": BACKUP_PASSWORD}
    wrong = console.send(admin, "/settings/backup/password", **fields, own_password="no")
    assert wrong.status_code == 422
    done = console.send(admin, "/settings/backup/password", **fields, own_password=OWN_PASSWORD)
    assert done.status_code == 303
    assert console.send(admin, "/settings/backup/now").status_code == 303
    backup = _finished(api)
    assert backup["state"] == "good" and backup["inside"]["counts"]["user_account"] == 5
    page = admin.get(f"/settings/backup/{backup['id']}").text
    assert backup["sha256"] in page and backup["inside"]["wallet"] in page
    content = admin.get(f"/settings/backup/{backup['id']}/file").content
    assert content == api.get(f"/api/backups/{backup['id']}/file").content
    assert len(content) == backup["size_bytes"]
    assert backup["name"] in admin.get("/settings/backup.csv").text
    checked = api.post(f"/api/backups/{backup['id']}/verify").json()
    assert checked["state"] == "good"
    status = api.get("/api/backups/status").json()
    assert status["last_good_id"] == backup["id"] and not status["overdue"]


def _finished(api: object) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = api.get("/api/backups").json()["items"]  # type: ignore[attr-defined]
        if found and found[0]["state"] != "running":
            return dict(found[0])
        time.sleep(0.1)
    raise AssertionError("no backup within a minute")


def test_choices_are_kept_checked_and_told_alike(console: Console) -> None:
    admin, api = console.client(Role.ADMIN), console.api(Role.ADMIN)
    fields = api.get("/api/backups/choices").json()
    fields = {name: value for name, value in fields.items() if name != "mail"}
    bad = console.send(admin, "/settings/backup/choices", **{**fields, "keep_days": "many"})
    assert bad.status_code == 422 and "Enter a whole number." in bad.text
    bad = console.send(admin, "/settings/backup/choices", **{**fields, "folder": "backups"})
    assert bad.status_code == 422 and "whole path" in bad.text
    for folder in ("/nul\0byte", "/" + "a" * 300, "/dev/null/backups"):
        bad = console.send(admin, "/settings/backup/choices", **{**fields, "folder": folder})
        assert bad.status_code == 422, folder
        told = api.put("/api/backups/choices", json={"folder": folder})
        assert told.status_code in (409, 422, 507), (told.status_code, told.text)
    good = console.send(admin, "/settings/backup/choices", **{**fields, "every_hours": "6"})
    assert good.status_code == 303
    assert api.get("/api/backups/choices").json()["every_hours"] == 6
    refused = api.put("/api/backups/choices", json={"every_hours": 5})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "every_hours"


def test_what_another_tab_has_saved_meanwhile_is_not_taken_back(console: Console) -> None:
    """Else backups silently go to the folder again that somebody has just moved them from."""
    admin, api = console.client(Role.ADMIN), console.api(Role.ADMIN)
    page = admin.get("/settings/backup").text
    shown = dict(re.findall(r'name="was-([a-z_]+)" value="([^"]*)"', page))
    stale = {**shown, **{f"was-{name}": text for name, text in shown.items()}}
    folder = str(console.parts.settings.data_dir / "elsewhere")
    before = api.get("/api/backups/choices").json()
    api.put("/api/backups/choices", json={**before, "folder": folder, "mail": True, "keep_days": 9})
    saved = console.send(admin, "/settings/backup/choices", **{**stale, "keep_days": "3"})
    assert saved.status_code == 303
    found = api.get("/api/backups/choices").json()
    assert (found["folder"], found["mail"], found["keep_days"]) == (folder, True, 3)


def test_the_secret_key_of_the_storage_is_never_shown_again(console: Console) -> None:
    admin, api = console.client(Role.ADMIN), console.api(Role.ADMIN)
    fields = {"bucket": "b", "region": "us-east-1", "access_key_id": "id", "prefix": ""}
    missing = console.send(admin, "/settings/backup/s3", **fields, secret_key="")
    assert missing.status_code == 422 and "Enter the secret key" in missing.text
    assert console.send(admin, "/settings/backup/s3", **fields, secret_key="s3cr3t-key")
    assert api.get("/api/backups/s3").json()["secret_key_set"] is True
    shown = admin.get("/settings/backup").text + admin.get("/settings/audit").text
    assert "s3cr3t-key" not in shown + api.get("/api/backups/s3").text
    kept = console.send(admin, "/settings/backup/s3", **{**fields, "prefix": "n/"}, secret_key="")
    assert kept.status_code == 303, "an empty field keeps the stored one"


@pytest.mark.parametrize("address", ["http://[", "https://\u2100.com", "https://xn--a", "ftp://x"])
def test_an_address_of_the_storage_that_cannot_be_is_refused_at_its_field(
    console: Console, address: str
) -> None:
    admin, api = console.client(Role.ADMIN), console.api(Role.ADMIN)
    fields = {"bucket": "b", "region": "us-east-1", "access_key_id": "id", "secret_key": "s"}
    page = console.send(admin, "/settings/backup/s3", **fields, endpoint_url=address)
    assert page.status_code == 422 and "Give an address" in page.text
    told = api.put("/api/backups/s3", json={**fields, "endpoint_url": address})
    assert told.status_code == 422 and told.json()["errors"][0]["field"] == "endpoint_url"


def test_only_admins_reach_backups(console: Console) -> None:
    for role in set(Role) - {Role.ADMIN}:
        assert console.client(role).get("/settings/backup").status_code == 403
        assert console.api(role).get("/api/backups").status_code == 403
        assert console.api(role).post("/api/backups").status_code == 403


def test_without_a_password_nothing_is_begun(console: Console) -> None:
    answer = console.api(Role.ADMIN).post("/api/backups")
    assert answer.status_code == 409 and answer.json()["code"] == "no_backup_key"
    assert console.api(Role.ADMIN).get("/api/backups/nothing").status_code == 404
