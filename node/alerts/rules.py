"""What may be worth a notification, and whom the rules hear it from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol


class Rule(StrEnum):
    """One kind of incident; stored, only ever added to."""

    LOW_USDC = "low_usdc"
    LOW_GAS = "low_gas"
    AUTO_PAUSE = "auto_pause"
    ERROR_SPIKE = "error_spike"  # more than 5 errors in 5 minutes
    SETTLEMENT_FAILING = "settlement_failing"
    PEER_UNREACHABLE = "peer_unreachable"
    UPSTREAM_DOWN = "upstream_down"  # an API of ours does not answer its health check
    JOB_FAILING = "job_failing"
    BACKUP_OVERDUE = "backup_overdue"
    BACKUP_FAILED = "backup_failed"
    RPC_UNREACHABLE = "rpc_unreachable"  # for longer than a minute
    WALLET_ELSEWHERE = "wallet_elsewhere"  # after a restore: the old node still runs
    QUOTA_NEAR = "quota_near"  # 80 % of the month's quota of integrators
    QUOTA_FULL = "quota_full"  # 100 %: their calls are refused
    QUOTA_SUSTAINED = "quota_sustained"  # over 80 % for three days
    KEY_QUIET = "key_quiet"  # an integrator that called regularly does not any more
    KEY_JUMPED = "key_jumped"  # far more calls than in any hour of its own last week
    RENEWAL_SOON = "renewal_soon"  # a subscription of ours is renewed within three days
    RENEWAL_FAILED = "renewal_failed"  # it could not be paid, or what it bought did not come
    SUBSCRIPTION_LAPSED = "subscription_lapsed"  # its days of grace are over
    REQUEST_ANSWERED = "request_answered"  # a seller answered what we asked for
    CUSTOMER_ASKED = "customer_asked"  # one of our customers waits for an answer
    SELLER_ENDS = "seller_ends"  # a seller ends a subscription of ours


class Level(StrEnum):
    """How loudly a rule speaks; each level includes those before it."""

    OFF = "off"  # a line of the event log, nothing else
    PANEL = "panel"  # the bell and the list
    EMAIL = "email"
    EMAIL_WEBHOOK = "email_webhook"


class Severity(StrEnum):
    """How bad an incident is, as its line of the event log says it."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class About:
    """What a rule watches, in the operator's words, and what holds until somebody changes it."""

    label: str
    meaning: str
    severity: Severity
    level: Level = Level.EMAIL


ABOUT: Final[Mapping[Rule, About]] = MappingProxyType(
    {
        Rule.LOW_USDC: About(
            "Low USDC", "The wallet holds less USDC than its threshold.", Severity.WARNING
        ),
        Rule.LOW_GAS: About(
            "Low gas", "The wallet holds less ETH for gas than its threshold.", Severity.WARNING
        ),
        Rule.AUTO_PAUSE: About(
            "Serving paused",
            "Paid serving stopped by itself, because a balance is below its threshold.",
            Severity.ERROR,
        ),
        Rule.ERROR_SPIKE: About(
            "Error spike", "More than 5 calls failed within 5 minutes.", Severity.ERROR
        ),
        Rule.SETTLEMENT_FAILING: About(
            "Settlement failing",
            "A payment, claim or transaction failed, or stays open for too long.",
            Severity.ERROR,
        ),
        Rule.PEER_UNREACHABLE: About(
            "Peer unreachable", "A node this one syncs with does not answer.", Severity.WARNING
        ),
        Rule.UPSTREAM_DOWN: About(
            "API down", "An API sold here does not answer its health check.", Severity.ERROR
        ),
        Rule.JOB_FAILING: About(
            "Job failing", "Work the node does by the clock ends with an error.", Severity.WARNING
        ),
        Rule.BACKUP_OVERDUE: About(
            "Backup overdue", "The last backup is more than 30 days old.", Severity.ERROR
        ),
        Rule.BACKUP_FAILED: About(
            "Backup failed", "A backup was not written, or did not pass its check.", Severity.ERROR
        ),
        Rule.RPC_UNREACHABLE: About(
            "Chain unreachable",
            "No RPC address answered for longer than a minute.",
            Severity.ERROR,
        ),
        Rule.WALLET_ELSEWHERE: About(
            "Wallet used elsewhere",
            "After a restore, the chain shows transactions of the wallet that are not this node's.",
            Severity.ERROR,
            Level.EMAIL_WEBHOOK,
        ),
        Rule.QUOTA_NEAR: About(
            "Quota at 80 %",
            "Integrators have used 80 % of a month's quota.",
            Severity.WARNING,
            Level.EMAIL_WEBHOOK,
        ),
        Rule.QUOTA_FULL: About(
            "Quota used up",
            "Integrators have used a month's quota; their calls are refused.",
            Severity.ERROR,
            Level.EMAIL_WEBHOOK,
        ),
        Rule.QUOTA_SUSTAINED: About(
            "Quota short",
            "Use has been over 80 % of the quota for three days.",
            Severity.WARNING,
        ),
        Rule.KEY_QUIET: About(
            "Key went quiet",
            "An integrator that called every day has not for 24 hours.",
            Severity.WARNING,
        ),
        Rule.KEY_JUMPED: About(
            "Key jumped",
            "An integrator called far more within an hour than in any hour of its last week.",
            Severity.WARNING,
        ),
        Rule.RENEWAL_SOON: About(
            "Renewal soon", "A subscription is renewed within three days.", Severity.INFO
        ),
        Rule.RENEWAL_FAILED: About(
            "Renewal failed",
            "A subscription could not be paid, or its seller does not answer for a payment.",
            Severity.ERROR,
            Level.EMAIL_WEBHOOK,
        ),
        Rule.SUBSCRIPTION_LAPSED: About(
            "Subscription lapsed",
            "A subscription is over; calls are paid one by one.",
            Severity.ERROR,
            Level.EMAIL_WEBHOOK,
        ),
        Rule.REQUEST_ANSWERED: About(
            "Request answered",
            "A seller answered an override or support request.",
            Severity.INFO,
        ),
        Rule.CUSTOMER_ASKED: About(
            "Customer asks",
            "A customer asked for an override or for support, and waits for an answer.",
            Severity.INFO,
            Level.EMAIL_WEBHOOK,
        ),
        Rule.SELLER_ENDS: About(
            "Seller ends a plan",
            "A seller ends a subscription of this node; it is not renewed.",
            Severity.WARNING,
            Level.EMAIL_WEBHOOK,
        ),
    }
)


def about(rule: str) -> About:
    """Of a stored rule, also one that this version does not know."""
    if rule in Rule.__members__.values():
        return ABOUT[Rule(rule)]
    return About(rule.replace("_", " ").capitalize(), "", Severity.WARNING)


class Alarm(Protocol):
    """Where parts report incidents. An incident is (rule, subject): raised again while it is
    open it changes nothing, so callers need not remember what they said."""

    async def raise_(self, rule: Rule, subject: str, message: str, link: str) -> None:
        """Open an incident; `link` is the page where it is dealt with, e.g. `/finance`."""
        ...

    async def resolve(self, rule: Rule, subject: str) -> None:
        """End it; harmless when it is not open."""
        ...
