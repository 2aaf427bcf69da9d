"""The official x402 seller, as its documentation builds it: the yardstick of the benchmarks.

FastAPI with the `x402` middleware, both schemes, the official facilitator in the same
process, vouchers verified locally; the handler forwards to the upstream with httpx.
Prints `ready` once it serves.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from eth_account import Account
from fastapi import FastAPI, Request, Response
from x402 import x402Facilitator, x402ResourceServer
from x402.http.middleware.fastapi import payment_middleware
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner
from x402.mechanisms.evm.batch_settlement.facilitator.scheme import BatchSettlementEvmFacilitator
from x402.mechanisms.evm.batch_settlement.server.scheme import (
    BatchSettlementEvmScheme,
    BatchSettlementEvmSchemeServerConfig,
)
from x402.mechanisms.evm.exact.facilitator import ExactEvmScheme as ExactFacilitator
from x402.mechanisms.evm.exact.server import ExactEvmScheme as ExactServer
from x402.mechanisms.evm.signers import FacilitatorWeb3Signer

from finance.chain.addresses import USDC_ADDRESS


class LocalFacilitator:
    """The facilitator without HTTP in between."""

    def __init__(self, facilitator: x402Facilitator) -> None:
        self._facilitator = facilitator

    def get_supported(self):
        return self._facilitator.get_supported()

    async def verify(self, payload, requirements):
        return await self._facilitator.verify(payload, requirements)

    async def settle(self, payload, requirements):
        return await self._facilitator.settle(payload, requirements)


def build(rpc_url: str, key: str, network: str, upstream: str, price_atoms: int) -> FastAPI:
    """The app; `key` pays gas, receives and authorizes."""
    account = Account.from_key(key)
    authorizer = LocalAuthorizerSigner(account)
    signer = FacilitatorWeb3Signer(private_key=key, rpc_url=rpc_url)
    facilitator = x402Facilitator()
    facilitator.register([network], ExactFacilitator(signer))
    facilitator.register([network], BatchSettlementEvmFacilitator(signer, authorizer))
    server = x402ResourceServer(LocalFacilitator(facilitator))
    server.register(network, ExactServer())
    config = BatchSettlementEvmSchemeServerConfig(receiver_authorizer_signer=authorizer)
    server.register(network, BatchSettlementEvmScheme(account.address, config))
    token = {"name": "USD Coin", "version": "2"}
    price = {"amount": str(price_atoms), "asset": USDC_ADDRESS, "extra": token}
    accepts = [
        {"scheme": scheme, "price": price, "network": network, "payTo": account.address}
        for scheme in ("batch-settlement", "exact")
    ]
    client = httpx.AsyncClient(base_url=upstream)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        print("ready", flush=True)
        yield
        await client.aclose()

    app = FastAPI(lifespan=lifespan)
    app.middleware("http")(payment_middleware({"/paid/*": {"accepts": accepts}}, server))

    @app.api_route("/paid/{path:path}", methods=["GET", "POST"])
    async def forward(path: str, request: Request) -> Response:
        answer = await client.request(request.method, "/" + path, content=await request.body())
        return Response(answer.content, answer.status_code, media_type="application/json")

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rpc", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--network", default="eip155:31337")
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--price", type=int, default=1000)
    options = parser.parse_args()
    app = build(options.rpc, options.key, options.network, options.upstream, options.price)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
