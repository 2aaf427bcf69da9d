"""Faults a caller of the development chain is told about.

RpcFault
├── Reverted          the EVM refused, with its return data
├── InvalidParams     the parameters do not fit the method
└── Refused           a transaction the pool does not take, in geth's words
"""


class RpcFault(Exception):
    """A JSON-RPC error: code, message and, for reverts, data."""

    code = -32603

    def __init__(self, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class Reverted(RpcFault):
    """Execution reverted; `data` is the return data in hex."""

    code = 3


class InvalidParams(RpcFault):
    """The parameters are not what the method takes."""

    code = -32602


class Refused(RpcFault):
    """The transaction is not accepted into the pool."""

    code = -32000
