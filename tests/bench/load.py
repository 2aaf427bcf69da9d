"""A load client in its own process: pre-signed payments over raw keep-alive connections.

It prepares everything it will send, prints `{"event":"ready"}`, waits for a line on
standard input, sends, and prints one JSON line with what it saw. So the server's CPU
can be read off between the two, and signing costs nobody anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import coincurve

from finance.x402.digest import (
    ERC3009_COLLECTOR,
    address_of,
    channel_id,
    deposit_nonce,
    domain_separator,
    receive_authorization_digest,
    sign_digest,
    transfer_authorization_digest,
    voucher_digest,
)
from finance.x402.wire import (
    ChannelConfig,
    DepositPayment,
    ExactPayment,
    PaymentRequired,
    Requirements,
    TransferAuthorization,
    VoucherPayment,
    decode_required,
    encode_payment,
)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One HTTP/1.1 keep-alive connection that sends prepared bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        return cls(*await asyncio.open_connection(host, port))

    async def send(self, request: bytes) -> Answer:
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return Answer(int(status_line.split()[1]), headers, await self._body(headers))

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.readexactly(int(headers.get("content-length", "0")))
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body


@dataclass(frozen=True)
class Target:
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or 80, parts.path)

    def request(self, payment: bytes | None = None, bearer: str | None = None) -> bytes:
        head = f"GET {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n".encode()
        if payment is not None:
            head += b"PAYMENT-SIGNATURE: " + payment + b"\r\n"
        if bearer is not None:
            head += b"Authorization: Bearer " + bearer.encode() + b"\r\n"
        return head + b"\r\n"


async def ask_price(target: Target) -> PaymentRequired:
    answer = await (await Connection.open(target.host, target.port)).send(target.request())
    if answer.status != 402:
        raise SystemExit(f"{target} answered {answer.status}, not 402: {answer.body[:300]!r}")
    return decode_required(answer.headers["payment-required"])


def accepted(required: PaymentRequired, scheme: str) -> Requirements:
    return next(item for item in required.accepts if item.scheme == scheme)


def token_domain(terms: Requirements) -> bytes:
    return domain_separator(
        terms.extra["name"], terms.extra["version"], terms.chain_id, terms.asset_bytes
    )


def channel_payments(
    key: coincurve.PrivateKey, required: PaymentRequired, calls: int
) -> list[bytes]:
    """The deposit that opens a fresh channel and its first call, then `calls` vouchers."""
    terms = accepted(required, "batch-settlement")
    payer, price, chain_id = address_of(key), terms.amount_atoms, terms.chain_id
    authorizer = bytes.fromhex(terms.extra["receiverAuthorizer"][2:])
    config = ChannelConfig(
        payer,
        payer,
        terms.pay_to_bytes,
        authorizer,
        terms.asset_bytes,
        terms.extra["withdrawDelay"],
        secrets.token_bytes(32),
    )
    ident = channel_id(config, chain_id)

    def voucher(cumulative: int) -> tuple[ChannelConfig, bytes, int, bytes]:
        signature = sign_digest(key, voucher_digest(ident, cumulative, chain_id))
        return config, ident, cumulative, signature

    amount = max(price * (calls + 1), int(terms.extra.get("minDeposit", "0")))
    salt, until = secrets.randbits(255), int(time.time()) + 3600
    authorization = TransferAuthorization(
        payer, ERC3009_COLLECTOR, amount, 0, until, deposit_nonce(ident, salt)
    )
    digest = receive_authorization_digest(token_domain(terms), authorization)
    deposit = DepositPayment(*voucher(price), amount, 0, until, salt, sign_digest(key, digest))
    vouchers = [VoucherPayment(*voucher(price * (n + 2))) for n in range(calls)]
    return [
        encode_payment(terms, payload, required.resource, required.extensions)
        for payload in (deposit, *vouchers)
    ]


def exact_payment(key: coincurve.PrivateKey, required: PaymentRequired) -> bytes:
    terms = accepted(required, "exact")
    until = int(time.time()) + 3600
    authorization = TransferAuthorization(
        address_of(key), terms.pay_to_bytes, terms.amount_atoms, 0, until, secrets.token_bytes(32)
    )
    digest = transfer_authorization_digest(token_domain(terms), authorization)
    payload = ExactPayment(authorization, sign_digest(key, digest))
    return encode_payment(terms, payload, required.resource, required.extensions)


async def run(connection: Connection, requests: Sequence[bytes]) -> list[tuple[int, float]]:
    """Send one after the other; (status, seconds) of each."""
    seen = []
    for request in requests:
        started = time.perf_counter()
        answer = await connection.send(request)
        seen.append((answer.status, time.perf_counter() - started))
    return seen


async def prepare(options: argparse.Namespace, target: Target) -> list[list[bytes]]:
    """One list of requests per connection; opens the channels on the way."""
    if options.mode == "bearer":
        return [[target.request(bearer=options.bearer)] * options.calls] * options.connections
    if options.mode == "free":
        return [[target.request()] * options.calls] * options.connections
    required = await ask_price(target)
    key = coincurve.PrivateKey.from_hex(options.key.removeprefix("0x"))
    lanes = []
    for _ in range(options.connections):
        if options.mode == "exact":
            lanes.append([exact_payment(key, required) for _ in range(options.calls)])
            continue
        deposit, *vouchers = channel_payments(key, required, options.calls)
        connection = await Connection.open(target.host, target.port)
        answer = await connection.send(target.request(deposit))
        if answer.status != 200:
            raise SystemExit(f"deposit: {answer.status} {answer.headers} {answer.body[:500]!r}")
        lanes.append(vouchers)
    return [[target.request(payment) for payment in lane] for lane in lanes]


async def main_async(options: argparse.Namespace) -> None:
    target = Target.parse(options.url)
    lanes = await prepare(options, target)
    connections = [await Connection.open(target.host, target.port) for _ in lanes]
    print(json.dumps({"event": "ready"}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    started = time.perf_counter()
    results = await asyncio.gather(
        *(run(connection, lane) for connection, lane in zip(connections, lanes, strict=True))
    )
    seconds = time.perf_counter() - started
    seen = [item for lane in results for item in lane]
    good = sorted(elapsed for status, elapsed in seen if status == 200)
    report = {
        "event": "done",
        "calls": len(good),
        "failed": len(seen) - len(good),
        "statuses": {str(status): sum(1 for s, _ in seen if s == status) for status, _ in seen},
        "seconds": seconds,
        "p50_ms": good[len(good) // 2] * 1000 if good else None,
        "p99_ms": good[int(len(good) * 0.99)] * 1000 if good else None,
    }
    print(json.dumps(report), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--mode", choices=["voucher", "exact", "free", "bearer"], required=True)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--calls", type=int, default=500, help="per connection")
    parser.add_argument("--key", help="payer's private key, hex")
    parser.add_argument("--bearer")
    asyncio.run(main_async(parser.parse_args()))


if __name__ == "__main__":
    main()
