"""Integrators, tiers and overrides as an operator types them."""

from __future__ import annotations

import time

from node.db.engine import open_engine
from node.usage.calls import CallRecord
from node.usage.models import Side
from tests.conftest import book_calls
from tests.unit.test_cli import Farebox, farebox, fresh, made_once

__all__ = ["farebox", "fresh", "made_once"]  # fixtures


def test_a_key_says_who_it_is_for_and_what_is_not_named_stays(farebox: Farebox) -> None:
    asked = ("--email", "dev@example.org", "--integrator", "--per-minute", "60")
    made = farebox.json("key", "create", "Partner", *asked)
    changed = farebox.json("key", "change", made["id"], "--per-minute", "0")
    assert (changed["integrator"], changed["email"]) == (True, "dev@example.org")
    assert changed["per_minute"] is None
    rotated = farebox.json("key", "rotate", "Partner")
    assert rotated["id"] == made["id"] and rotated["secret"] not in ("", made["secret"])
    assert farebox.run("key", "change", made["id"], "--listing", "none").returncode == 3
    assert [each["id"] for each in farebox.json("usage", "keys")] == [made["id"]]
    other = farebox.json("key", "create", "Partner")
    refused = farebox.run("key", "rotate", "Partner")
    assert (
        refused.returncode == 3 and made["id"] in refused.stderr and other["id"] in refused.stderr
    )


def test_a_tier_is_chosen_and_a_cap_lifted_until_its_end(farebox: Farebox) -> None:
    tiers = farebox.json("usage", "tiers", "--free-calls", "7", "--streams", "pro")
    assert (tiers["calls"], tiers["free_calls"], tiers["streams"]) == ("free", 7, "pro")
    farebox.json("usage", "lift", "calls", "backfill", "--days", "2", "--cap", "9")
    calls, streams = farebox.json("usage", "show")
    assert (calls["cap"], calls["used"], streams["tier"]) == (9, 0, "pro")
    override = farebox.json("usage", "overrides")[0]
    assert (override["why"], override["holds"]) == ("backfill", True)
    farebox.json("usage", "end", str(override["id"]))
    assert farebox.json("usage", "show")[0]["cap"] == 7
    assert farebox.run("usage", "end", str(override["id"])).returncode == 3
    assert farebox.run("usage", "end", "9" * 30).returncode == 2


def test_one_key_says_what_it_used_by_endpoint_and_what_happened_to_it(farebox: Farebox) -> None:
    key_id = farebox.json("key", "create", "Partner", "--integrator")["id"]
    now = int(time.time())
    engine = open_engine(f"sqlite:///{farebox.home / 'farebox.db'}")
    calls = [
        CallRecord(
            f"c{n}", Side.BOUGHT, now * 1000, "l1", "GET", "/x", status, 2_000, key_id,
            amount_atoms=500, scheme="exact", route="GET /forecast/{city}",
        )
        for n, status in enumerate((200, 200, 404))
    ]  # fmt: skip
    book_calls(engine, *calls)
    engine.dispose()
    facts = farebox.json("usage", "key", key_id)
    assert (facts["requests_this_month"], facts["errors"], facts["daily_average"]) == (3, 1, 3)
    rows = farebox.json("usage", "endpoints", key_id, "--span", "7d")
    assert [(row["endpoint"], row["status"], row["requests"], row["usdc"]) for row in rows] == [
        ("GET /forecast/{city}", 200, 2, "0.001"),
        ("GET /forecast/{city}", 404, 1, "0.0005"),
    ]
    assert [row["text"] for row in farebox.json("usage", "record", key_id)] == ["The key was made."]
    assert farebox.run("usage", "endpoints", key_id, "--span", "days").returncode == 3
