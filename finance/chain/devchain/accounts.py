"""The funded accounts: those anvil and hardhat derive, so that keys are known to all tools."""

from dataclasses import dataclass

from eth_account import Account

MNEMONIC = "test test test test test test test test test test test junk"
ETH_WEI = 10_000 * 10**18
USDC_ATOMS = 1_000_000 * 10**6


@dataclass(frozen=True, slots=True)
class DevAccount:
    """One funded account; `key_hex` is public knowledge and must never hold real money."""

    address: str
    key_hex: str


def derive_accounts(count: int) -> tuple[DevAccount, ...]:
    """Return the first `count` accounts of the development mnemonic (BIP-44, coin 60)."""
    Account.enable_unaudited_hdwallet_features()
    derived = (
        Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")
        for index in range(count)
    )
    return tuple(DevAccount(each.address, "0x" + bytes(each.key).hex()) for each in derived)
