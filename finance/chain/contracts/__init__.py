"""Our Vyper contracts: compiled once per machine, and where each of them stands.

None has a constructor or immutables: the runtime code can be put into a genesis
state or placed with `anvil_setCode` as it is. Every address is the canonical one.
"""

import hashlib
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

from eth_utils.crypto import keccak

from finance.chain.addresses import (
    BATCH_SETTLEMENT_ADDRESS,
    ERC3009_COLLECTOR_ADDRESS,
    MULTICALL3_ADDRESS,
    USDC_ADDRESS,
)

_FOLDER = Path(__file__).parent
_CONTRACTS = {
    USDC_ADDRESS: "usdc.vy",
    BATCH_SETTLEMENT_ADDRESS: "batch_settlement.vy",
    ERC3009_COLLECTOR_ADDRESS: "erc3009_collector.vy",
    MULTICALL3_ADDRESS: "multicall3.vy",
}
_USDC_TOTAL_SUPPLY_SLOT = 0
_USDC_BALANCE_SLOT = 1


def runtime_code() -> dict[str, bytes]:
    """Return the runtime code of every contract by its address.

    Compiled with the installed Vyper the first time (some seconds), then read from
    `$XDG_CACHE_HOME/farebox` (or `~/.cache/farebox`); a cache that cannot be read or
    written costs only the time.
    """
    cache = _cache_file()
    try:
        stored: dict[str, str] = json.loads(cache.read_text())
    except (OSError, ValueError):
        stored = {name: compile_vyper(_FOLDER / name).hex() for name in _CONTRACTS.values()}
        _write_cache(cache, stored)
    return {address: bytes.fromhex(stored[name]) for address, name in _CONTRACTS.items()}


def compile_vyper(source: Path) -> bytes:
    """Return the runtime code of one Vyper file; imports are looked up beside it."""
    from vyper.cli.vyper_compile import compile_files

    output = compile_files([str(source)], ["bytecode_runtime"], paths=[str(_FOLDER)])
    ((_, artefacts),) = output.items()
    return bytes.fromhex(artefacts["bytecode_runtime"].removeprefix("0x"))


def usdc_storage(balances: dict[str, int]) -> dict[int, int]:
    """Return USDC's storage (slot to word) in which these addresses hold these atoms."""
    slots = {usdc_balance_slot(address): atoms for address, atoms in balances.items()}
    return {_USDC_TOTAL_SUPPLY_SLOT: sum(balances.values()), **slots}


def usdc_balance_slot(address: str) -> int:
    """Return the storage slot of our USDC that holds the balance of `address`.

    Vyper hashes (slot, key), where Solidity hashes (key, slot).
    """
    key = bytes.fromhex(address.removeprefix("0x")).rjust(32, b"\0")
    return int.from_bytes(keccak(_USDC_BALANCE_SLOT.to_bytes(32, "big") + key), "big")


def _cache_file() -> Path:
    digest = hashlib.sha256(version("vyper").encode())
    for source in sorted(_FOLDER.glob("*.vy")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "farebox" / f"contracts-{digest.hexdigest()[:16]}.json"


def _write_cache(cache: Path, stored: dict[str, str]) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=cache.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(stored, file)
        os.replace(temporary, cache)
    except OSError:
        return
