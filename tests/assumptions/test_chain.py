"""What `finance.chain` relies on in Vyper, py-evm and the x402 package."""

import inspect
from importlib.metadata import version

from eth.vm.base import VM
from eth.vm.forks.cancun import CancunVM
from x402.mechanisms.evm.batch_settlement import abi as sdk_abi
from x402.mechanisms.evm.batch_settlement import constants as sdk
from x402.mechanisms.evm.constants import MULTICALL3_ADDRESS as SDK_MULTICALL3
from x402.mechanisms.evm.signers import FacilitatorWeb3Signer
from x402.mechanisms.evm.utils import get_evm_chain_id

from finance.chain import addresses
from finance.chain.abi import BATCH_SETTLEMENT_ABI, ERROR_NAMES, USDC_ABI


def test_canonical_addresses_are_the_sdks() -> None:
    assert addresses.BATCH_SETTLEMENT_ADDRESS == sdk.BATCH_SETTLEMENT_ADDRESS
    assert addresses.ERC3009_COLLECTOR_ADDRESS == sdk.ERC3009_DEPOSIT_COLLECTOR_ADDRESS
    assert addresses.MULTICALL3_ADDRESS == SDK_MULTICALL3


def test_our_abi_holds_every_entry_of_the_sdks() -> None:
    ours = {(each["type"], each["name"]): each for each in BATCH_SETTLEMENT_ABI}
    for entry in sdk_abi.BATCH_SETTLEMENT_ABI:
        own = ours[entry["type"], entry["name"]]
        assert _types(own["inputs"]) == _types(entry["inputs"]), entry["name"]
        assert _types(own.get("outputs", [])) == _types(entry.get("outputs", [])), entry["name"]


def test_error_selectors_are_distinct_and_of_four_bytes() -> None:
    assert ERROR_NAMES[bytes.fromhex("c2e5347d")] == "EmptyBatch"
    assert {len(selector) for selector in ERROR_NAMES} == {4}


def test_usdc_offers_both_signature_forms() -> None:
    forms = [each for each in USDC_ABI if each["name"] == "transferWithAuthorization"]
    assert sorted(len(each["inputs"]) for each in forms) == [7, 9]


def test_the_sdk_accepts_any_eip155_network() -> None:
    assert get_evm_chain_id("eip155:31337") == 31337


def test_the_sdks_signer_has_a_fixed_gas_limit_too_low_for_large_claims() -> None:
    limit = inspect.signature(FacilitatorWeb3Signer).parameters["gas_limit"].default
    assert limit == 500_000


def test_vyper_is_the_version_our_sources_name() -> None:
    assert version("vyper") == "0.4.3"


def test_py_evm_lets_a_vm_run_on_a_state_it_is_given() -> None:
    """`devchain.evm` sets `_state`, so that blocks need no canonical chain in a database."""
    assert issubclass(CancunVM, VM)
    assert "if self._state is None" in inspect.getsource(VM.state.fget)  # type: ignore[attr-defined]


def _types(fields: list[dict[str, object]]) -> list[object]:
    return [
        (each["type"], _types(each.get("components", [])), each.get("indexed", False))  # type: ignore[arg-type]
        for each in fields
    ]
