"""Why a subscription cannot be had, changed or used, as sentences for the operator.

SubscriptionError
├── SubscriptionUnknown   there is no such subscription, plan or listing here
├── SubscriptionInvalid   something that was filled in; `field` says what
├── NotPossibleNow        not as things stand: over, under way, subscribed already
└── SellerSaysNo          the seller refused, or does not answer
"""

from __future__ import annotations

from node.errors import NodeError


class SubscriptionError(NodeError):
    """Base of every error this package raises on purpose."""

    code = "subscription_error"
    exit_code = 3


class SubscriptionUnknown(SubscriptionError):
    code = "subscription_unknown"


class SubscriptionInvalid(SubscriptionError):
    code = "subscription_invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NotPossibleNow(SubscriptionError):
    code = "subscription_not_possible"


class SellerSaysNo(SubscriptionError):
    """`code` is the problem's own where there is one."""

    code = "seller_refused"

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        if code:
            self.code = code
