"""What can be wrong with notifications and how they are sent.

AlertsError
├── NotificationUnknown   there is no such notification
├── DeliveryUnknown       there is no such delivery or mail
├── AlertsInvalid         a field that cannot be accepted; `field` names it
├── NotConfigured         there is no address to send to yet
└── SendFailed            the mail server or the receiver did not take it
"""

from __future__ import annotations


class AlertsError(Exception):
    """Base of every error this package raises on purpose."""

    code = "alerts_error"


class NotificationUnknown(AlertsError):
    code = "notification_unknown"


class DeliveryUnknown(AlertsError):
    code = "delivery_unknown"


class AlertsInvalid(AlertsError):
    """One field is not acceptable; the text says what to mend."""

    code = "alerts_invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NotConfigured(AlertsError):
    code = "not_configured"


class SendFailed(AlertsError):
    """`status` is what the other side answered (HTTP or SMTP), if it did."""

    code = "send_failed"

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
