"""What can be wrong with who is asking.

AccountsError
├── Forbidden          the role does not allow it
├── SignInRequired     no valid session or token
├── SignInRefused      name, password or code are wrong, or the account is locked
├── AccountInvalid     a field that cannot be accepted; `field` names it
└── AccountUnknown     there is no such user, session or token
"""

from __future__ import annotations


class AccountsError(Exception):
    """Base of every error this package raises on purpose."""

    code = "accounts_error"


class Forbidden(AccountsError):
    code = "forbidden"


class SignInRequired(AccountsError):
    code = "sign_in_required"


class SignInRefused(AccountsError):
    code = "sign_in_refused"


class AccountInvalid(AccountsError):
    """One field is not acceptable; the text says what to mend."""

    code = "account_invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class AccountUnknown(AccountsError):
    code = "account_unknown"
