"""Broken builds."""
