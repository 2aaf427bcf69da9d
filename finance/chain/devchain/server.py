"""JSON-RPC over HTTP around one development chain.

The chain runs on one worker thread, one request (or one batch) at a time; the event
loop only reads and writes, so that the server answers while a block is executed.
"""

import asyncio
import errno
import json
import logging
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from aiohttp import web

from finance.chain.addresses import USDC_ADDRESS
from finance.chain.devchain.accounts import MNEMONIC, DevAccount, derive_accounts
from finance.chain.devchain.chain import Devchain
from finance.chain.devchain.errors import RpcFault
from finance.chain.devchain.methods import Method, NodeMethods
from finance.chain.devchain.testing import TestingMethods

_log = logging.getLogger(__name__)
_TICK_SECONDS = 0.02
_MAX_REQUEST_BYTES = 16 * 2**20

Ready = Callable[[dict[str, Any]], None]


def serve(
    host: str = "127.0.0.1",
    port: int = 8545,
    chain_id: int = 31337,
    block_seconds: float | None = None,
    accounts: int = 10,
    as_json: bool = False,
) -> None:
    """Run a development chain until it is interrupted.

    `port` 0 takes a free one; without `block_seconds` every transaction is mined at
    once. Prints addresses and keys, with `as_json` as one line of JSON. Exits with 4
    and a sentence when the port cannot be had, with 3 when it is none.
    """
    funded = derive_accounts(accounts)
    chain = Devchain(chain_id, funded, automine=block_seconds is None)
    ready = _print_json if as_json else _print_text
    try:
        asyncio.run(_Server(chain, block_seconds).run(host, port, funded, ready))
    except asyncio.CancelledError:
        return  # asked to end by a signal
    except OverflowError:
        _fail(f"{port} is no port: choose one from 0 to 65535 with --port.", 3)
    except OSError as error:
        _fail(f"{_bind_problem(error, host, port)}; choose another with --port or --host.", 4)


class _Server:
    def __init__(self, chain: Devchain, block_seconds: float | None) -> None:
        self._chain = chain
        self._testing = TestingMethods(chain, block_seconds)
        self._methods: dict[str, Method] = NodeMethods(chain).table() | self._testing.table()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="devchain")

    async def run(self, host: str, port: int, funded: tuple[DevAccount, ...], ready: Ready) -> None:
        application = web.Application(client_max_size=_MAX_REQUEST_BYTES)
        application.router.add_post("/", self._handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
            self._end_on_signals()
            url_host = f"[{host}]" if ":" in host else host
            bound = runner.addresses[0][1]
            ready(_description(f"http://{url_host}:{bound}", self._chain.evm.chain_id, funded))
            await self._mine_at_intervals()
        finally:
            await runner.cleanup()
            self._worker.shutdown(cancel_futures=True)

    def _end_on_signals(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)

    async def _mine_at_intervals(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(_TICK_SECONDS)  # short: the interval may be changed meanwhile
            interval = self._testing.interval_seconds
            if not interval:
                last = loop.time()
            elif loop.time() - last >= interval:
                last = max(last + interval, loop.time() - interval)
                await loop.run_in_executor(self._worker, self._chain.mine)

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._worker, self._answer, body)
        return web.Response(body=answer, content_type="application/json")

    def _answer(self, body: bytes) -> bytes:
        try:
            asked = json.loads(body)
        except ValueError:
            return json.dumps(_error(None, -32700, "parse error")).encode()
        if isinstance(asked, list):
            return json.dumps([self._answer_one(each) for each in asked]).encode()
        return json.dumps(self._answer_one(asked)).encode()

    def _answer_one(self, asked: Any) -> dict[str, Any]:
        if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
            return _error(None, -32600, "invalid request")
        number, name = asked.get("id"), asked["method"]
        method = self._methods.get(name)
        if method is None:
            return _error(number, -32601, f"the method {name} does not exist/is not available")
        try:
            return {"jsonrpc": "2.0", "id": number, "result": method(*(asked.get("params") or ()))}
        except RpcFault as fault:
            return _error(number, fault.code, fault.message, fault.data)
        except (TypeError, KeyError, AttributeError) as error:
            return _error(number, -32602, f"invalid params for {name}: {error}")
        except Exception as error:  # the edge: logged, answered, and the chain goes on
            _log.exception("%s failed", name)
            return _error(number, -32603, f"internal error: {error}")


def _error(number: Any, code: int, message: str, data: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": number, "error": error}


def _description(rpc_url: str, chain_id: int, funded: tuple[DevAccount, ...]) -> dict[str, Any]:
    return {
        "event": "ready",
        "rpc_url": rpc_url,
        "chain_id": chain_id,
        "usdc": USDC_ADDRESS,
        "addresses": [account.address for account in funded],
        "keys": [account.key_hex for account in funded],
    }


def _print_json(description: dict[str, Any]) -> None:
    _write(json.dumps(description))


def _print_text(description: dict[str, Any]) -> None:
    lines = ["Development accounts, each with 10,000 ETH and 1,000,000 USDC:", ""]
    pairs = enumerate(zip(description["addresses"], description["keys"], strict=True))
    lines += [f"({index}) {address}  {key}" for index, (address, key) in pairs]
    lines += ["", f"Mnemonic: {MNEMONIC}", "These keys are public: never send real money to them."]
    lines += ["", f"USDC      {description['usdc']}", f"Chain id  {description['chain_id']}"]
    lines += [f"Listening on {description['rpc_url']}  (Ctrl-C ends it)"]
    _write("\n".join(lines))


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _bind_problem(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is already in use"
        case errno.EACCES:
            return f"this user may not listen on port {port}"
        case _:
            return f"cannot listen on {host}:{port} ({error.strerror or error})"


def _fail(sentence: str, exit_code: int) -> NoReturn:
    sys.stderr.write(f"farebox devchain: {sentence}\n")
    raise SystemExit(exit_code)
