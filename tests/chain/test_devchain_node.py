"""The development chain as a node: pool, mining, time, reorganisations, errors."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from eth_account import Account
from web3 import Web3

from finance.chain.addresses import USDC_ADDRESS
from tests.chain_fixtures import DevchainProcess, RpcError

ETHER = 10**18
SILENT_BLOCKS = 3600  # a chain that mines only when told to


@pytest.fixture
def node(devchain: DevchainProcess) -> Iterator[DevchainProcess]:
    snapshot = devchain.rpc("evm_snapshot")
    yield devchain
    devchain.rpc("evm_revert", snapshot)


@pytest.fixture(scope="module")
def manual_process() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=SILENT_BLOCKS) as process:
        yield process


@pytest.fixture
def manual(manual_process: DevchainProcess) -> Iterator[DevchainProcess]:
    snapshot = manual_process.rpc("evm_snapshot")
    yield manual_process
    manual_process.rpc("evm_revert", snapshot)


def signed(node: DevchainProcess, nonce: int, **changed: Any) -> tuple[str, str]:
    """Return hash and raw form of a signed payment of 1 wei by account 0."""
    usual = {
        "to": node.addresses[1],
        "value": 1,
        "nonce": nonce,
        "gas": 21_000,
        "maxFeePerGas": 10 * 10**9,
        "maxPriorityFeePerGas": 10**9,
        "chainId": node.chain_id,
        "type": 2,
    }
    made = Account.from_key(node.keys[0]).sign_transaction(usual | changed)
    return Web3.to_hex(made.hash), Web3.to_hex(made.raw_transaction)


def send(node: DevchainProcess, nonce: int, **changed: Any) -> str:
    _, raw = signed(node, nonce, **changed)
    return str(node.rpc("eth_sendRawTransaction", raw))


def nonce(node: DevchainProcess, tag: str) -> int:
    return int(node.rpc("eth_getTransactionCount", node.addresses[0], tag), 16)


def refusal(node: DevchainProcess, *arguments: Any, **changed: Any) -> str:
    with pytest.raises(RpcError) as caught:
        send(node, *arguments, **changed)
    return caught.value.message


def receipt(node: DevchainProcess, transaction: str) -> Any:
    return node.rpc("eth_getTransactionReceipt", transaction)


def test_accounts_are_anvils_and_hold_ether_and_usdc(devchain: DevchainProcess) -> None:
    assert devchain.addresses[0] == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    data = "0x70a08231" + devchain.addresses[9][2:].rjust(64, "0")
    call = {"to": USDC_ADDRESS, "data": data}
    assert int(devchain.rpc("eth_call", call, "latest"), 16) == 10**12
    assert int(devchain.rpc("eth_getBalance", devchain.addresses[9], "0x0"), 16) == 10**4 * ETHER


def test_every_kind_of_transaction_is_mined_at_once(node: DevchainProcess) -> None:
    start = nonce(node, "latest")
    fees = {"gasPrice": 10**10, "maxFeePerGas": None, "maxPriorityFeePerGas": None, "type": None}
    account = Account.from_key(node.keys[0])
    base = {"to": node.addresses[1], "value": 1, "gas": 30_000, "chainId": node.chain_id}
    legacy = base | {"nonce": start, "gasPrice": fees["gasPrice"]}
    listed = legacy | {"nonce": start + 1, "type": 1, "accessList": []}
    for transaction in (legacy, listed):
        raw = Web3.to_hex(account.sign_transaction(transaction).raw_transaction)
        mined = receipt(node, node.rpc("eth_sendRawTransaction", raw))
        assert mined["status"] == "0x1"
    mined = receipt(node, send(node, start + 2))
    assert (mined["type"], mined["gasUsed"]) == ("0x2", hex(21_000))
    shown = node.rpc("eth_getTransactionByHash", mined["transactionHash"])
    assert shown["from"] == node.addresses[0]
    assert shown["blockHash"] == mined["blockHash"]
    block = node.rpc("eth_getBlockByHash", mined["blockHash"], True)
    assert block["transactions"] == [shown]
    assert node.rpc("eth_getBlockByNumber", "latest")["transactions"] == [shown["hash"]]


def test_web3_decodes_blocks_transactions_and_fees(node: DevchainProcess) -> None:
    w3 = Web3(Web3.HTTPProvider(node.rpc_url))
    mined = w3.eth.wait_for_transaction_receipt(send(node, nonce(node, "latest")))
    block: Any = w3.eth.get_block(mined["blockNumber"], full_transactions=True)
    assert block["transactions"][0]["hash"] == mined["transactionHash"]
    history = w3.eth.fee_history(4, "latest", [10.0, 90.0])
    assert history["baseFeePerGas"][-1] > 0
    assert history["reward"][-1] == [10**9, 10**9]
    for tag in ("latest", "pending", "safe", "finalized", "earliest"):
        assert w3.eth.get_block(tag)["number"] >= 0
    assert w3.eth.chain_id == node.chain_id
    assert w3.net.version == str(node.chain_id)
    assert w3.eth.syncing is False
    assert w3.is_connected()


def test_refusals_are_worded_as_geth_does(node: DevchainProcess) -> None:
    start = nonce(node, "latest")
    send(node, start)
    assert refusal(node, start).startswith("nonce too low")
    assert refusal(node, start + 1, value=10**6 * ETHER).startswith("insufficient funds for gas")
    assert refusal(node, start + 1, gas=20_999).startswith("intrinsic gas too low")
    assert refusal(node, start + 1, gas=30_000_001) == "exceeds block gas limit"
    assert refusal(node, start + 1, chainId=1).startswith("invalid chain id")
    assert refusal(node, start + 1, maxPriorityFeePerGas=11 * 10**9).startswith(
        "max priority fee per gas higher"
    )
    with pytest.raises(RpcError, match="invalid transaction"):
        node.rpc("eth_sendRawTransaction", "0x02c0ffee")


def test_a_nonce_gap_waits_until_it_is_filled(node: DevchainProcess) -> None:
    start = nonce(node, "latest")
    later = send(node, start + 1)
    assert receipt(node, later) is None
    assert node.rpc("eth_getTransactionByHash", later)["blockHash"] is None
    assert nonce(node, "pending") == start
    send(node, start)
    assert receipt(node, later)["status"] == "0x1"
    assert nonce(node, "latest") == start + 2


def test_pending_until_the_block_and_mined_together_in_nonce_order(manual: DevchainProcess) -> None:
    start = nonce(manual, "latest")
    second = send(manual, start + 1)
    first = send(manual, start)
    assert receipt(manual, first) is None
    assert (nonce(manual, "latest"), nonce(manual, "pending")) == (start, start + 2)
    manual.rpc("evm_mine")
    block = manual.rpc("eth_getBlockByNumber", "latest")
    assert block["transactions"] == [first, second]
    assert receipt(manual, second)["transactionIndex"] == "0x1"


def test_stuck_transaction_is_replaced_only_by_ten_percent_more(manual: DevchainProcess) -> None:
    start = nonce(manual, "latest")
    stuck = send(manual, start)
    assert refusal(manual, start) == "already known"
    too_little = {"maxFeePerGas": 10_900_000_000, "maxPriorityFeePerGas": 1_090_000_000}
    assert refusal(manual, start, **too_little) == "replacement transaction underpriced"
    only_one = {"maxFeePerGas": 20 * 10**9}
    assert refusal(manual, start, **only_one) == "replacement transaction underpriced"
    replaced = send(manual, start, maxFeePerGas=11 * 10**9, maxPriorityFeePerGas=11 * 10**8)
    manual.rpc("evm_mine")
    assert receipt(manual, replaced)["status"] == "0x1"
    assert receipt(manual, stuck) is None
    assert manual.rpc("eth_getTransactionByHash", stuck) is None


def test_too_cheap_a_transaction_stays_pending_and_can_be_dropped(manual: DevchainProcess) -> None:
    start = nonce(manual, "latest")
    cheap = send(manual, start, maxFeePerGas=1, maxPriorityFeePerGas=1)
    manual.rpc("evm_mine")
    assert receipt(manual, cheap) is None
    assert manual.rpc("anvil_dropTransaction", cheap) == cheap
    assert manual.rpc("eth_getTransactionByHash", cheap) is None
    assert nonce(manual, "pending") == start


def test_blocks_come_by_themselves() -> None:
    with DevchainProcess(block_seconds=0.5) as node:
        waiting = send(node, 0)
        assert receipt(node, waiting) is None
        deadline = time.monotonic() + 5
        while receipt(node, waiting) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert int(node.rpc("eth_blockNumber"), 16) >= 1


def test_mining_modes_can_be_changed(node: DevchainProcess) -> None:
    start = nonce(node, "latest")
    node.rpc("evm_setAutomine", False)
    waiting = send(node, start)
    assert receipt(node, waiting) is None
    node.rpc("evm_setAutomine", True)
    assert receipt(node, waiting) is not None
    head = int(node.rpc("eth_blockNumber"), 16)
    node.rpc("anvil_mine", "0x5")
    assert int(node.rpc("eth_blockNumber"), 16) == head + 5


def test_time_travel_moves_the_clock_of_blocks_and_calls(node: DevchainProcess) -> None:
    before = int(node.rpc("eth_getBlockByNumber", "latest")["timestamp"], 16)
    node.rpc("evm_increaseTime", 86_400)
    node.rpc("evm_mine")
    after = int(node.rpc("eth_getBlockByNumber", "latest")["timestamp"], 16)
    assert after >= before + 86_400
    node.rpc("evm_setNextBlockTimestamp", after + 1000)
    node.rpc("evm_mine")
    exact = int(node.rpc("eth_getBlockByNumber", "latest")["timestamp"], 16)
    assert exact == after + 1000
    with pytest.raises(RpcError, match="timestamp is lower"):
        node.rpc("evm_setNextBlockTimestamp", exact - 1)


def test_snapshot_and_revert_make_a_reorganisation(node: DevchainProcess) -> None:
    start = nonce(node, "latest")
    snapshot = node.rpc("evm_snapshot")
    gone = send(node, start)
    lost = receipt(node, gone)
    assert node.rpc("evm_revert", snapshot) is True
    assert receipt(node, gone) is None
    assert nonce(node, "latest") == start
    assert node.rpc("eth_getBlockByHash", lost["blockHash"]) is None
    node.rpc("evm_mine")
    assert node.rpc("eth_getBlockByNumber", lost["blockNumber"])["hash"] != lost["blockHash"]
    assert receipt(node, send(node, start))["status"] == "0x1"
    assert node.rpc("evm_revert", snapshot) is False


def test_reorg_replaces_the_newest_blocks(node: DevchainProcess) -> None:
    start = nonce(node, "latest")
    kept, gone = send(node, start), send(node, start + 1)
    head = node.rpc("eth_getBlockByNumber", "latest")
    node.rpc("anvil_reorg", 1)
    assert receipt(node, kept) is not None
    assert receipt(node, gone) is None
    replaced = node.rpc("eth_getBlockByNumber", head["number"])
    assert replaced["hash"] != head["hash"]
    assert replaced["parentHash"] == head["parentHash"]


def test_state_can_be_set_and_read_at_old_blocks(node: DevchainProcess) -> None:
    address = Account.create().address
    node.rpc("anvil_setBalance", address, hex(5))
    node.rpc("evm_mine")
    block = node.rpc("eth_blockNumber")
    node.rpc("anvil_setBalance", address, hex(6))
    node.rpc("anvil_setCode", address, "0x00")
    node.rpc("anvil_setStorageAt", address, "0x1", "0x" + "00" * 31 + "2a")
    assert node.rpc("eth_getBalance", address, "latest") == "0x6"
    assert node.rpc("eth_getCode", address, "latest") == "0x00"
    assert int(node.rpc("eth_getStorageAt", address, "0x1", "latest"), 16) == 42
    node.rpc("evm_mine")
    assert node.rpc("eth_getBalance", address, block) == "0x5"
    with pytest.raises(RpcError, match="header not found"):
        node.rpc("eth_getBalance", address, "0xffffff")


def test_reverts_carry_their_data(node: DevchainProcess) -> None:
    data = "0xa9059cbb" + node.addresses[1][2:].rjust(64, "0") + "ff".rjust(64, "f")
    call = {"from": node.addresses[0], "to": USDC_ADDRESS, "data": data}
    for method in ("eth_call", "eth_estimateGas"):
        with pytest.raises(RpcError) as caught:
            node.rpc(method, call, "latest")
        assert caught.value.code == 3
        assert caught.value.message == (
            "execution reverted: ERC20: transfer amount exceeds balance"
        )
        assert caught.value.data is not None
        assert caught.value.data.startswith("0x08c379a0")


def test_estimated_gas_is_enough_and_not_one_too_much(node: DevchainProcess) -> None:
    data = "0xa9059cbb" + Account.create().address[2:].rjust(64, "0") + "5".rjust(64, "0")
    call = {"from": node.addresses[0], "to": USDC_ADDRESS, "data": data}
    gas = int(node.rpc("eth_estimateGas", call), 16)
    start = nonce(node, "latest")
    short = {"to": USDC_ADDRESS, "value": 0, "data": data}
    assert receipt(node, send(node, start, gas=gas - 1, **short))["status"] == "0x0"
    assert receipt(node, send(node, start + 1, gas=gas, **short))["status"] == "0x1"


def test_logs_are_found_by_address_topic_and_range(node: DevchainProcess) -> None:
    data = "0xa9059cbb" + node.addresses[1][2:].rjust(64, "0") + "5".rjust(64, "0")
    start = nonce(node, "latest")
    mined = receipt(node, send(node, start, to=USDC_ADDRESS, data=data, value=0, gas=100_000))
    (log,) = mined["logs"]
    block = {"fromBlock": mined["blockNumber"], "toBlock": mined["blockNumber"]}
    find = lambda **query: node.rpc("eth_getLogs", block | query)  # noqa: E731
    transfer, sender, _ = log["topics"]
    assert find() == find(address=USDC_ADDRESS) == [log]
    assert find(address=[node.addresses[0], USDC_ADDRESS.lower()]) == [log]
    assert find(address=node.addresses[0]) == []
    assert find(topics=[transfer, None, [sender, log["topics"][2]]]) == [log]
    assert find(topics=[None, "0x" + "00" * 32]) == []
    assert find(topics=[None, None, None, None]) == []
    by_hash = node.rpc("eth_getLogs", {"blockHash": mined["blockHash"]})
    assert by_hash == [log]


def test_contracts_can_be_created(node: DevchainProcess) -> None:
    # Runtime code: one STOP, returned by the creation code.
    creation = "0x600160005360016000f3"
    sent = send(node, nonce(node, "latest"), to="", data=creation, value=0, gas=100_000)
    created = receipt(node, sent)["contractAddress"]
    assert node.rpc("eth_getCode", created, "latest") == "0x01"


def test_batches_and_faults_are_answered_in_json_rpc(devchain: DevchainProcess) -> None:
    asked = [
        {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []},
        {"jsonrpc": "2.0", "id": 2, "method": "eth_unheardOf", "params": []},
        {"jsonrpc": "2.0", "id": 3, "method": "eth_getBalance", "params": ["0x12"]},
        {"jsonrpc": "2.0", "id": 4, "method": "eth_getBalance", "params": []},
        7,
    ]
    codes = [each.get("error", {}).get("code") for each in _post(devchain, asked)]
    assert codes == [None, -32601, -32602, -32602, -32600]
    assert _post(devchain, b"{")["error"]["code"] == -32700


def test_port_in_use_is_a_sentence_and_exit_code_4() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "finance.chain.devchain", "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 4
    assert f"port {port} on 127.0.0.1 is already in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_interval_can_be_changed_while_it_runs(manual: DevchainProcess) -> None:
    head = int(manual.rpc("eth_blockNumber"), 16)
    manual.rpc("evm_setIntervalMining", 1)
    deadline = time.monotonic() + 5
    while int(manual.rpc("eth_blockNumber"), 16) == head:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    manual.rpc("evm_setIntervalMining", SILENT_BLOCKS)


def test_impossible_port_is_a_sentence_and_exit_code_3() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "finance.chain.devchain", "--port", "70000"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 3
    assert "70000 is no port" in ended.stderr
    assert "Traceback" not in ended.stderr


def _post(node: DevchainProcess, asked: Any) -> Any:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    with urllib.request.urlopen(urllib.request.Request(node.rpc_url, body)) as answer:
        return json.load(answer)
