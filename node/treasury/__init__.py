"""The operator's hand on the money: balances, thresholds, withdrawals, channels, history."""
