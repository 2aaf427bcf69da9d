"""The `farebox` command, one module per group of subcommands."""
