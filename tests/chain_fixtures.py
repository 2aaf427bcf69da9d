"""A chain as a process of its own, for any test that needs one.

::

    with DevchainProcess() as chain:
        chain.rpc("eth_blockNumber")
"""

import json
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from finance.chain.addresses import USDC_ADDRESS
from finance.chain.contracts import runtime_code, usdc_storage
from finance.chain.devchain.accounts import USDC_ATOMS, derive_accounts

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


class ChainProcess:
    """A node started with the `with` block and ended with it."""

    rpc_url: str
    keys: list[str]
    addresses: list[str]
    usdc: str = USDC_ADDRESS

    def __init__(self, command: list[str], chain_id: int) -> None:
        self._command = command
        self.chain_id = chain_id

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        self._start()
        # A pipe nobody reads fills up, and the node would stop at its next line.
        threading.Thread(target=self._drain, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        self.process.wait(_STOP_SECONDS)

    def rpc(self, method: str, *params: Any) -> Any:
        """Return the result of one JSON-RPC call; raises RpcError."""
        return rpc(self.rpc_url, method, *params)

    def _start(self) -> None:
        """Read from the process's output until it listens."""
        raise NotImplementedError

    def _drain(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for _ in output:
                pass

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._command[0]} ended with {self.process.wait()}")
        return line


class DevchainProcess(ChainProcess):
    """`python -m finance.chain.devchain` on a free port."""

    def __init__(
        self, block_seconds: float | None = None, chain_id: int = 31337, accounts: int = 10
    ) -> None:
        command = [sys.executable, "-m", "finance.chain.devchain", "--port", "0", "--json"]
        command += ["--chain-id", str(chain_id), "--accounts", str(accounts)]
        if block_seconds is not None:
            command += ["--block-seconds", str(block_seconds)]
        super().__init__(command, chain_id)

    def _start(self) -> None:
        ready = json.loads(self._line())
        self.rpc_url = ready["rpc_url"]
        self.keys = ready["keys"]
        self.addresses = ready["addresses"]


class AnvilProcess(ChainProcess):
    """`anvil` on a free port, with our contracts placed and the accounts given USDC."""

    def __init__(self, binary: str, chain_id: int = 31337) -> None:
        super().__init__([binary, "--port", "0", "--chain-id", str(chain_id)], chain_id)

    def _start(self) -> None:
        while not (listening := re.match(r"Listening on (\S+)", self._line())):
            pass
        self.rpc_url = f"http://{listening[1]}"
        accounts = derive_accounts(10)
        self.keys = [account.key_hex for account in accounts]
        self.addresses = [account.address for account in accounts]
        for address, code in runtime_code().items():
            self.rpc("anvil_setCode", address, "0x" + code.hex())
        for slot, word in usdc_storage(dict.fromkeys(self.addresses, USDC_ATOMS)).items():
            self.rpc("anvil_setStorageAt", self.usdc, f"0x{slot:064x}", f"0x{word:064x}")
