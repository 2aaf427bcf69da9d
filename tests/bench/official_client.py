"""The official x402 httpx client buying one thing many times: the buyer's yardstick.

One channel, one call at a time, as the client works. Opens its channel, prints `ready`,
waits for a line on standard input, buys, prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from eth_account import Account
from x402 import x402Client
from x402.http.clients.httpx import x402HttpxClient
from x402.mechanisms.evm.batch_settlement.client.config import (
    BatchSettlementDepositStrategyContext,
    BatchSettlementEvmSchemeOptions,
)
from x402.mechanisms.evm.batch_settlement.client.scheme import BatchSettlementEvmScheme
from x402.mechanisms.evm.signers import EthAccountSigner


async def buy(url: str, key: str, calls: int) -> None:
    def enough(context: BatchSettlementDepositStrategyContext) -> str:
        return str(int(context.request_amount) * (calls + 10))

    options = BatchSettlementEvmSchemeOptions(deposit_strategy=enough)
    scheme = BatchSettlementEvmScheme(EthAccountSigner(Account.from_key(key)), options)
    client = x402Client().set_spend_controls(False)
    client.register("eip155:*", scheme)
    async with x402HttpxClient(client, timeout=60) as http:
        (await http.get(url)).raise_for_status()
        print(json.dumps({"event": "ready"}), flush=True)
        sys.stdin.readline()
        started, latencies = time.perf_counter(), []
        for _ in range(calls):
            before = time.perf_counter()
            (await http.get(url)).raise_for_status()
            latencies.append(time.perf_counter() - before)
    latencies.sort()
    report = {
        "event": "done",
        "calls": calls,
        "failed": 0,
        "seconds": time.perf_counter() - started,
        "p50_ms": latencies[calls // 2] * 1000,
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--calls", type=int, default=100)
    options = parser.parse_args()
    asyncio.run(buy(options.url, options.key, options.calls))
