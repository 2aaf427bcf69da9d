"""Where the contracts stand, checksummed (payments.md, "Canonical contracts").

The first three are the same on every chain; USDC stands where the network's
own USDC does, and on the development chain where Base's does.
"""

BATCH_SETTLEMENT_ADDRESS = "0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003"
ERC3009_COLLECTOR_ADDRESS = "0x4020806089470a89826cB9fB1f4059150b550004"
MULTICALL3_ADDRESS = "0xcA11bde05977b3631167028862bE2a173976CA11"

USDC_ADDRESS = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
