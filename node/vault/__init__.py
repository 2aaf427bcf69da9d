"""Backups of this node: what goes in, when, where to, and whether they can be trusted."""
