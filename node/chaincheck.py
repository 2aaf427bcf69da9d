"""Before a node starts: does the RPC serve the chain that the settings name?"""

from __future__ import annotations

import asyncio
import logging

import httpx

from finance.networks import Network
from node.errors import WrongChain

ASK_SECONDS = 5.0

_log = logging.getLogger(__name__)


async def require_chain(network: Network) -> None:
    """Raise WrongChain when every RPC that answers serves another chain.

    None answering is no reason not to start: known channels can be served, and the
    chain is asked again by itself.
    """
    async with httpx.AsyncClient(timeout=ASK_SECONDS) as client:
        served = await asyncio.gather(*(_chain_id(client, url) for url in network.rpc_urls))
    answers = [chain_id for chain_id in served if chain_id is not None]
    if not answers:
        hosts = ", ".join(httpx.URL(url).host for url in network.rpc_urls)
        _log.warning("no RPC answers (%s); the node starts and keeps trying", hosts)
    elif network.chain_id not in answers:
        raise WrongChain(
            f"The RPC serves chain {answers[0]}, but {network.name} is chain {network.chain_id}."
            " Change FAREBOX_RPC_URLS or FAREBOX_NETWORK (on devnet, FAREBOX_CHAIN_ID)."
        )


async def _chain_id(client: httpx.AsyncClient, url: str) -> int | None:
    question = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
    try:
        answer = (await client.post(url, json=question)).json()
        return int(answer["result"], 16)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError):
        return None
