"""ABIs of the contracts Farebox talks to, as plain lists, and the names of their errors.

Written out by hand: several of these functions are dispatched on raw calldata in our
Vyper sources (no overloading, no copying of arrays), so no compiler lists them.
"""

from typing import Any

from eth_utils.crypto import keccak

Abi = list[dict[str, Any]]


def _fields(text: str, components: Abi | None = None) -> Abi:
    """Read `"address to, uint256 amount"`; a tuple takes `components`."""
    fields: Abi = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        *kind, name = part.split(" ") if " " in part else (part, "")
        field: dict[str, Any] = {"name": name, "type": kind[0]}
        if kind[0].startswith("tuple"):
            field["components"] = components
        if kind[-1] == "indexed":
            field["indexed"] = True
        fields.append(field)
    return fields


def _function(
    name: str,
    inputs: str,
    outputs: str = "",
    *,
    view: bool = False,
    payable: bool = False,
    components: Abi | None = None,
    results: Abi | None = None,
) -> dict[str, Any]:
    mutability = "view" if view else "payable" if payable else "nonpayable"
    return {
        "type": "function",
        "name": name,
        "inputs": _fields(inputs, components),
        "outputs": _fields(outputs, results),
        "stateMutability": mutability,
    }


def _event(name: str, inputs: str, components: Abi | None = None) -> dict[str, Any]:
    fields = [{"indexed": False, **field} for field in _fields(inputs, components)]
    return {"type": "event", "name": name, "inputs": fields, "anonymous": False}


def _error(name: str, inputs: str = "") -> dict[str, Any]:
    return {"type": "error", "name": name, "inputs": _fields(inputs)}


CHANNEL_CONFIG: Abi = _fields(
    "address payer, address payerAuthorizer, address receiver, address receiverAuthorizer,"
    "address token, uint40 withdrawDelay, bytes32 salt"
)
_VOUCHER: Abi = _fields("tuple channel, uint128 maxClaimableAmount", CHANNEL_CONFIG)
VOUCHER_CLAIM: Abi = [
    {"name": "voucher", "type": "tuple", "components": _VOUCHER},
    *_fields("bytes signature, uint128 totalClaimed"),
]

_AUTHORIZATION = (
    "address from, address to, uint256 value, uint256 validAfter, uint256 validBefore,"
    "bytes32 nonce,"
)
_VRS = "uint8 v, bytes32 r, bytes32 s"
_SIGNATURE = "bytes signature"
_PERMIT = "address owner, address spender, uint256 value, uint256 deadline,"

USDC_ABI: Abi = [
    _function("name", "", "string", view=True),
    _function("symbol", "", "string", view=True),
    _function("version", "", "string", view=True),
    _function("decimals", "", "uint8", view=True),
    _function("currency", "", "string", view=True),
    _function("totalSupply", "", "uint256", view=True),
    _function("balanceOf", "address account", "uint256", view=True),
    _function("allowance", "address owner, address spender", "uint256", view=True),
    _function("nonces", "address owner", "uint256", view=True),
    _function("DOMAIN_SEPARATOR", "", "bytes32", view=True),
    _function("authorizationState", "address authorizer, bytes32 nonce", "bool", view=True),
    _function("isMinter", "address account", "bool", view=True),
    _function("transfer", "address to, uint256 value", "bool"),
    _function("approve", "address spender, uint256 value", "bool"),
    _function("transferFrom", "address from, address to, uint256 value", "bool"),
    _function("increaseAllowance", "address spender, uint256 increment", "bool"),
    _function("decreaseAllowance", "address spender, uint256 decrement", "bool"),
    _function("mint", "address to, uint256 amount", "bool"),
    _function("permit", _PERMIT + _VRS),
    _function("permit", _PERMIT + _SIGNATURE),
    _function("transferWithAuthorization", _AUTHORIZATION + _VRS),
    _function("transferWithAuthorization", _AUTHORIZATION + _SIGNATURE),
    _function("receiveWithAuthorization", _AUTHORIZATION + _VRS),
    _function("receiveWithAuthorization", _AUTHORIZATION + _SIGNATURE),
    _function("cancelAuthorization", "address authorizer, bytes32 nonce," + _VRS),
    _function("cancelAuthorization", "address authorizer, bytes32 nonce," + _SIGNATURE),
    _event("Transfer", "address indexed from, address indexed to, uint256 value"),
    _event("Approval", "address indexed owner, address indexed spender, uint256 value"),
    _event("AuthorizationUsed", "address indexed authorizer, bytes32 indexed nonce"),
    _event("AuthorizationCanceled", "address indexed authorizer, bytes32 indexed nonce"),
    _event("Mint", "address indexed minter, address indexed to, uint256 amount"),
]

BATCH_SETTLEMENT_ABI: Abi = [
    _function("multicall", "bytes[] data", "bytes[]"),
    _function(
        "deposit",
        "tuple config, uint128 amount, address collector, bytes collectorData",
        components=CHANNEL_CONFIG,
    ),
    _function("claim", "tuple[] voucherClaims", components=VOUCHER_CLAIM),
    _function(
        "claimWithSignature",
        "tuple[] voucherClaims, bytes authorizerSignature",
        components=VOUCHER_CLAIM,
    ),
    _function("settle", "address receiver, address token"),
    _function("initiateWithdraw", "tuple config, uint128 amount", components=CHANNEL_CONFIG),
    _function("finalizeWithdraw", "tuple config", components=CHANNEL_CONFIG),
    _function("refund", "tuple config, uint128 amount", components=CHANNEL_CONFIG),
    _function(
        "refundWithSignature",
        "tuple config, uint128 amount, uint256 nonce, bytes receiverAuthorizerSignature",
        components=CHANNEL_CONFIG,
    ),
    _function("getChannelId", "tuple config", "bytes32", view=True, components=CHANNEL_CONFIG),
    _function("channels", "bytes32 channelId", "uint128 balance, uint128 totalClaimed", view=True),
    _function(
        "pendingWithdrawals", "bytes32 channelId", "uint128 amount, uint40 initiatedAt", view=True
    ),
    _function(
        "receivers",
        "address receiver, address token",
        "uint128 totalClaimed, uint128 totalSettled",
        view=True,
    ),
    _function("refundNonce", "bytes32 channelId", "uint256", view=True),
    _function(
        "getVoucherDigest", "bytes32 channelId, uint128 maxClaimableAmount", "bytes32", view=True
    ),
    _function(
        "getRefundDigest",
        "bytes32 channelId, uint256 nonce, uint128 amount",
        "bytes32",
        view=True,
    ),
    _function(
        "getClaimBatchDigest",
        "tuple[] voucherClaims",
        "bytes32",
        view=True,
        components=VOUCHER_CLAIM,
    ),
    _function("MIN_WITHDRAW_DELAY", "", "uint40", view=True),
    _function("MAX_WITHDRAW_DELAY", "", "uint40", view=True),
    _function("CHANNEL_CONFIG_TYPEHASH", "", "bytes32", view=True),
    _function("VOUCHER_TYPEHASH", "", "bytes32", view=True),
    _function("REFUND_TYPEHASH", "", "bytes32", view=True),
    _function("CLAIM_ENTRY_TYPEHASH", "", "bytes32", view=True),
    _function("CLAIM_BATCH_TYPEHASH", "", "bytes32", view=True),
    _function(
        "eip712Domain",
        "",
        "bytes1 fields, string name, string version, uint256 chainId,"
        "address verifyingContract, bytes32 salt, uint256[] extensions",
        view=True,
    ),
    _event("ChannelCreated", "bytes32 indexed channelId, tuple config", CHANNEL_CONFIG),
    _event("ChannelClosed", "bytes32 indexed channelId, tuple config", CHANNEL_CONFIG),
    _event(
        "Deposited",
        "bytes32 indexed channelId, address indexed sender, uint128 amount, uint128 newBalance",
    ),
    _event(
        "Claimed",
        "bytes32 indexed channelId, address indexed sender, uint128 claimAmount,"
        "uint128 newTotalClaimed",
    ),
    _event(
        "Settled",
        "address indexed receiver, address indexed token, address indexed sender, uint128 amount",
    ),
    _event("Refunded", "bytes32 indexed channelId, address indexed sender, uint128 amount"),
    _event("WithdrawInitiated", "bytes32 indexed channelId, uint128 amount, uint40 finalizeAfter"),
    _event(
        "WithdrawFinalized", "bytes32 indexed channelId, address indexed sender, uint128 amount"
    ),
]

COLLECTOR_ABI: Abi = [
    _function("x402BatchSettlement", "", "address", view=True),
    _function(
        "collect",
        "address payer, address token, uint256 amount, bytes32 channelId, bytes collectorData",
    ),
]

_RESULTS: Abi = _fields("bool success, bytes returnData")

MULTICALL3_ABI: Abi = [
    _function(
        "aggregate3",
        "tuple[] calls",
        "tuple[] returnData",
        payable=True,
        components=_fields("address target, bool allowFailure, bytes callData"),
        results=_RESULTS,
    ),
    _function(
        "aggregate3Value",
        "tuple[] calls",
        "tuple[] returnData",
        payable=True,
        components=_fields("address target, bool allowFailure, uint256 value, bytes callData"),
        results=_RESULTS,
    ),
    _function(
        "tryAggregate",
        "bool requireSuccess, tuple[] calls",
        "tuple[] returnData",
        payable=True,
        components=_fields("address target, bytes callData"),
        results=_RESULTS,
    ),
    _function("getBlockNumber", "", "uint256", view=True),
    _function("getCurrentBlockTimestamp", "", "uint256", view=True),
    _function("getChainId", "", "uint256", view=True),
    _function("getBasefee", "", "uint256", view=True),
    _function("getEthBalance", "address addr", "uint256", view=True),
]

_PLAIN_ERRORS = (
    "InvalidChannel",
    "ZeroDeposit",
    "DepositOverflow",
    "InvalidSignature",
    "NotReceiverAuthorizer",
    "NotAuthorizedToClaim",
    "NotAuthorizedToRefund",
    "ClaimExceedsCeiling",
    "ClaimExceedsBalance",
    "WithdrawalAlreadyPending",
    "WithdrawalNotPending",
    "NotAuthorizedToFinalizeWithdraw",
    "WithdrawDelayNotElapsed",
    "NothingToWithdraw",
    "WithdrawAmountExceedsAvailable",
    "WithdrawDelayOutOfRange",
    "EmptyBatch",
    "DepositCollectionFailed",
    "InvalidCollector",
    "InvalidRefundNonce",
    "ZeroRefund",
    "OnlyX402BatchSettlement",
    "ECDSAInvalidSignature",
    "ReentrancyGuardReentrantCall",
)
ERRORS_ABI: Abi = [
    *(_error(name) for name in _PLAIN_ERRORS),
    _error("ECDSAInvalidSignatureLength", "uint256 length"),
    _error("ECDSAInvalidSignatureS", "bytes32 s"),
    _error("SafeERC20FailedOperation", "address token"),
]


def _signature(error: dict[str, Any]) -> str:
    return f"{error['name']}({','.join(field['type'] for field in error['inputs'])})"


ERROR_NAMES: dict[bytes, str] = {
    bytes(keccak(text=_signature(error))[:4]): error["name"] for error in ERRORS_ABI
}
"""The first four bytes of revert data to the error's name."""
