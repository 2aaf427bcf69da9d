"""What an operator types about plans that are bought, where no node runs."""

from __future__ import annotations

from tests.unit.test_cli import Farebox, farebox, fresh, made_once

__all__ = ["farebox", "fresh", "made_once"]  # fixtures


def test_without_a_subscription_the_list_is_empty(farebox: Farebox) -> None:
    assert farebox.json("plan", "subscriptions") == []


def test_only_a_running_node_pays_and_the_command_says_so(farebox: Farebox) -> None:
    for command in (
        ("subscribe", "lst", "pro", "--most", "1", "--month", "1"),
        ("renew", "sub", "--most", "1"),
        ("give-up", "sub"),
    ):
        ended = farebox.run("plan", *command)
        assert ended.returncode == 4
        assert "farebox up" in ended.stderr


def test_what_is_not_there_is_named(farebox: Farebox) -> None:
    farebox.json("listing", "add", "Sold here", "--upstream", "http://127.0.0.1:1")
    for command, sentence in (
        (("offers", "lst_nowhere"), "farebox listing list"),
        (("offers", "sold-here"), "buys from no listing"),
        (("cancel", "sub_nothing"), "There is no such"),
    ):
        ended = farebox.run("plan", *command)
        assert ended.returncode == 3
        assert sentence in ended.stderr


def test_a_seller_is_asked_by_the_name_of_its_listing(farebox: Farebox) -> None:
    farebox.json("listing", "add", "Far Away", "--buy", "http://127.0.0.1:1/v1/far", "--price", "1")
    for name in ("Far Away", "far-away"):
        ended = farebox.run("plan", "offers", name)
        assert ended.returncode == 3
        assert "private" in ended.stderr, ended.stderr
