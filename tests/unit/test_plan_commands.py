"""The seller's plans as an operator types them."""

from __future__ import annotations

from tests.unit.test_cli import Farebox, farebox, fresh, made_once

__all__ = ["farebox", "fresh", "made_once"]  # fixtures


def test_a_plan_is_added_changed_and_retired(farebox: Farebox) -> None:
    farebox.json("listing", "add", "Weather", "--upstream", "http://127.0.0.1:9", "--price", "0.01")
    asked = ("--price", "5", "--calls", "1000", "--stream-hours", "2", "--beyond", "pay")
    made = farebox.json("plan", "add", "weather", "Pro", *asked)
    assert (made["usdc_a_month"], made["calls"], made["stream_seconds"]) == ("5", 1_000, 7_200)
    assert (made["beyond"], made["grace_days"], made["per_minute"]) == ("pay", 3, None)
    changed = farebox.json("plan", "change", made["id"], "--calls", "0", "--per-minute", "60")
    assert (changed["calls"], changed["per_minute"], changed["usdc_a_month"]) == (None, 60, "5")
    assert [each["name"] for each in farebox.json("plan", "list", "Weather")] == ["Pro"]
    assert farebox.run("plan", "add", "weather", "pro").returncode == 3
    assert farebox.run("plan", "add", "nowhere", "Pro").returncode == 3
    assert farebox.run("plan", "change", made["id"], "--price", "0").returncode == 3
    assert farebox.json("plan", "retire", made["id"])["retired"] == "Pro"
    assert farebox.json("plan", "list") == []
    assert len(farebox.json("plan", "list", "--retired")) == 1
    assert farebox.json("plan", "customers") == []
    ended = farebox.run("plan", "end", "nobody", "--reason", "Closing", "--yes")
    assert ended.returncode == 3 and "no such customer" in ended.stderr
