"""Backups: archive, verify, restore. Imports nothing of ours."""
