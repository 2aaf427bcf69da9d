"""The development chain as a process of its own, for any test that needs one.

    with DevchainProcess() as chain:
        chain.rpc("eth_blockNumber")
"""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ROOT = Path(__file__).parent.parent
_STOP_SECONDS = 10


class RpcError(Exception):
    """The node answered with an error; `data` is revert data in hex, when there is any."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: str | None = error.get("data")


def rpc(url: str, method: str, *params: Any) -> Any:
    """Return the result of one JSON-RPC call; raises RpcError."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        answered = json.load(answer)
    if "error" in answered:
        raise RpcError(answered["error"])
    return answered["result"]


class DevchainProcess:
    """`python -m finance.chain.devchain` on a free port; ends with the `with` block."""

    def __init__(
        self, block_seconds: float | None = None, chain_id: int = 31337, accounts: int = 10
    ) -> None:
        command = [sys.executable, "-m", "finance.chain.devchain", "--port", "0", "--json"]
        command += ["--chain-id", str(chain_id), "--accounts", str(accounts)]
        if block_seconds is not None:
            command += ["--block-seconds", str(block_seconds)]
        self._command = command
        self.chain_id = chain_id

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, cwd=_ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the development chain ended with {self.process.wait()}")
        ready = json.loads(line)
        self.rpc_url: str = ready["rpc_url"]
        self.keys: list[str] = ready["keys"]
        self.addresses: list[str] = ready["addresses"]
        self.usdc: str = ready["usdc"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        self.process.wait(_STOP_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def rpc(self, method: str, *params: Any) -> Any:
        """Return the result of one JSON-RPC call; raises RpcError."""
        return rpc(self.rpc_url, method, *params)
