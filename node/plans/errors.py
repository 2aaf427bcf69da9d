"""What can be wrong with plans and subscriptions.

PlansError
├── PlanInvalid            a field that cannot be accepted; `field` names it
├── PlanUnknown            there is no such plan, subscription, request or invoice
├── PlanTaken              the listing has a plan of this name already
├── RequestClosed          somebody has answered it already
├── EndRefused             a subscription cannot be ended so; `code` says why
└── OrderRefused           what was asked cannot be bought or changed now; `code` says why
"""

from __future__ import annotations

from node.errors import NodeError


class PlansError(NodeError):
    """Base of every error this package raises on purpose."""

    code = "plans_error"
    exit_code = 3


class PlanInvalid(PlansError):
    """One field is not acceptable; the text says what to mend."""

    code = "plan_invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class PlanUnknown(PlansError):
    code = "plan_unknown"


class PlanTaken(PlansError):
    code = "plan_taken"
    field = "name"


class RequestClosed(PlansError):
    code = "request_closed"


class OrderRefused(PlansError):
    """`code` is one of node.problems.PROBLEMS."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class EndRefused(PlansError):
    """`code`: already_ended, paid_until_end, subscription_changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
