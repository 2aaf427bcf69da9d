"""What the demo came to, as the line of JSON it prints and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from finance.money import Usdc
from node.demo.traffic import Tally

MOST_CLAIM_TRANSACTIONS = 3


@dataclass(frozen=True, slots=True)
class ChainUse:
    """Transactions of one kind and the gas they used."""

    transactions: int
    gas_used: int


@dataclass(frozen=True, slots=True)
class Report:
    """The `report` event. Amounts in USDC atoms.

    `transactions`, `gas_used` and `gas_per_call` are those of claiming and sweeping what
    the calls earned; deposits and `exact` payments stand under `settlement_…`.
    """

    calls_paid: int
    calls_failed: int
    charged_atoms: int
    earned_atoms: int
    transactions: int
    gas_used: int
    gas_per_call: float
    p50_ms: float
    p99_ms: float
    calls_per_second: float
    differences: list[Any]
    exact_paid: int
    exact_p50_ms: float
    settlement_transactions: int
    settlement_gas_used: int
    failures: list[str]

    def event(self) -> dict[str, Any]:
        return {"event": "report", **asdict(self)}


def make_report(
    calls: Tally,
    exact: Tally,
    earned_atoms: int,
    claims: ChainUse,
    settlements: ChainUse,
    differences: Sequence[Any],
) -> Report:
    """Put the parts together; nothing is judged here."""
    return Report(
        calls_paid=calls.paid,
        calls_failed=calls.failed + exact.failed,
        charged_atoms=calls.charged_atoms + exact.charged_atoms,
        earned_atoms=earned_atoms,
        transactions=claims.transactions,
        gas_used=claims.gas_used,
        gas_per_call=round(claims.gas_used / max(calls.paid, 1), 1),
        p50_ms=percentile_ms(calls.latencies, 50),
        p99_ms=percentile_ms(calls.latencies, 99),
        calls_per_second=round(calls.paid / calls.seconds, 1) if calls.seconds else 0.0,
        differences=list(differences),
        exact_paid=exact.paid,
        exact_p50_ms=percentile_ms(exact.latencies, 50),
        settlement_transactions=settlements.transactions,
        settlement_gas_used=settlements.gas_used,
        failures=(calls.failures + exact.failures)[:20],
    )


def failed_checks(report: Report, calls_asked: int, exact_asked: int) -> list[str]:
    """What did not hold, as sentences; empty when the market worked."""
    charged, earned = Usdc(report.charged_atoms), report.earned_atoms
    checks = (
        (report.calls_paid == calls_asked, f"{report.calls_paid} of {calls_asked} calls were paid"),
        (report.exact_paid == exact_asked, f"{report.exact_paid} of {exact_asked} exact payments"),
        (report.calls_failed == 0, f"{report.calls_failed} answers were missing or wrong"),
        (earned == charged, f"buyers were charged {int(charged)} atoms, the seller got {earned}"),
        (
            0 < report.transactions <= MOST_CLAIM_TRANSACTIONS,
            f"claiming and sweeping took {report.transactions} transactions",
        ),
        (not report.differences, f"{len(report.differences)} differences between books and chain"),
    )
    return [sentence for held, sentence in checks if not held]


def percentile_ms(seconds: Sequence[float], percent: int) -> float:
    """The latency that `percent` of the calls did not exceed, in milliseconds."""
    if not seconds:
        return 0.0
    ordered = sorted(seconds)
    index = min(len(ordered) - 1, len(ordered) * percent // 100)
    return round(ordered[index] * 1000, 2)


def print_report(console: Console, report: Report, failed: Sequence[str]) -> None:
    """The same on a terminal."""
    table = Table(title="What happened", title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column()
    for name, value in _lines(report):
        table.add_row(name, value)
    console.print(table)
    for sentence in failed:
        console.print(f"✗ {sentence}", style="bold red", highlight=False)
    for line in (*report.failures, *(str(each) for each in report.differences)):
        console.print(f"  {line}", highlight=False, markup=False)
    if not failed:
        console.print("✓ Every answer right, every atom in its place.", style="bold green")


def _lines(report: Report) -> tuple[tuple[str, str], ...]:
    return (
        ("Calls paid by voucher", f"{report.calls_paid:,} ({report.calls_per_second:,} a second)"),
        ("Latency", f"{report.p50_ms} ms median, {report.p99_ms} ms at 99 %"),
        ("Calls paid by exact", f"{report.exact_paid} ({report.exact_p50_ms} ms median)"),
        ("Calls that failed", str(report.calls_failed)),
        ("Buyers were charged", f"{Usdc(report.charged_atoms)} USDC"),
        ("Seller's wallet got", f"{Usdc(max(report.earned_atoms, 0))} USDC"),
        (
            "Claimed and swept in",
            f"{_transactions(report.transactions)}, {report.gas_per_call} gas per call",
        ),
        (
            "Deposits and exact in",
            f"{_transactions(report.settlement_transactions)}, {report.settlement_gas_used:,} gas",
        ),
        ("Books against chain", f"{len(report.differences)} differences on both nodes"),
    )


def _transactions(number: int) -> str:
    return "1 transaction" if number == 1 else f"{number} transactions"
