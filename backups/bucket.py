"""Where copies go: S3-compatible storage."""

from __future__ import annotations

import msgspec


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """`endpoint_url` empty: Amazon's own."""

    endpoint_url: str
    region: str
    name: str
    access_key_id: str
    secret_key: str
