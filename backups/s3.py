"""Copies in S3-compatible storage: put there, read back, kept by rule."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from backups.archive import Progress
from backups.bucket import Bucket
from backups.errors import BackupError, DestinationFailed
from backups.folder import time_of
from backups.header import HEADER_BYTES, read_header
from backups.retention import Keeping, Kept, superfluous_copies

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

_CHUNK = 1 << 20
_PART = 16 << 20


def put(bucket: Bucket, key: str, path: Path, sha256: str, progress: Progress) -> None:
    """Upload a file, then read it back and compare. Raises DestinationFailed."""
    size, sent = path.stat().st_size, 0

    def count(octets: int) -> None:
        nonlocal sent
        sent += octets
        progress("uploading", sent, size)

    with _client(bucket) as client:
        transfer = TransferConfig(
            multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=2
        )
        client.upload_file(
            str(path),
            bucket.name,
            key,
            ExtraArgs={"Metadata": {"sha256": sha256}},
            Callback=count,
            Config=transfer,
        )
        if _digest(client, bucket, key, size, progress) != sha256:
            client.delete_object(Bucket=bucket.name, Key=key)
            raise DestinationFailed(
                f"What the storage gave back for {key} is not what was put there. Check the"
                " storage; the local backup is good, and the copy was removed."
            )


@dataclass(frozen=True, slots=True)
class Known:
    """What the history says of copies: key to time, of those that were `good` when they were
    read back, and of `unsure` ones. Others are ours where one of `recipients` stands in front."""

    good: Mapping[str, int]
    unsure: Mapping[str, int]
    recipients: Sequence[str]


def prune(
    bucket: Bucket, prefix: str, known: Known, now: int, rule: Keeping
) -> tuple[list[str], list[str]]:
    """Let go of our copies below `prefix` that the rule does not keep. Those of other nodes stay,
    and whatever is no backup. Keys of what was let go, and of good copies that are not there,
    let go by somebody else, or by this node before it ended. Raises DestinationFailed."""
    with _client(bucket) as client:
        there = dict(_backups_in(client, bucket, prefix))
        good = [Kept(key, at) for key, at in known.good.items() if key in there]
        unsure = [key for key in there if key in known.unsure]
        strange = [key for key in there if key not in known.good and key not in known.unsure]
        ours = [key for key in strange if _recipient(client, bucket, key) in known.recipients]
        others = [Kept(key, known.unsure.get(key, there[key])) for key in (*unsure, *ours)]
        gone = sorted(superfluous_copies(good, others, now, rule))
        for key in gone:
            client.delete_object(Bucket=bucket.name, Key=key)
    return gone, [key for key in known.good if key.startswith(prefix) and key not in there]


def _backups_in(client: S3Client, bucket: Bucket, prefix: str) -> Iterator[tuple[str, int]]:
    """Key and time of everything that is called like a backup."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix=prefix)
    for page in pages:
        for each in page.get("Contents", []):
            key = each.get("Key", "")
            at = time_of(key.removeprefix(prefix))
            if at is not None:
                yield key, at


def _recipient(client: S3Client, bucket: Bucket, key: str) -> str:
    """Whose key stands in front of a copy; empty where none does."""
    reach = f"bytes=0-{HEADER_BYTES - 1}"
    body = client.get_object(Bucket=bucket.name, Key=key, Range=reach)["Body"]
    try:
        return read_header(io.BytesIO(body.read(HEADER_BYTES))).recipient
    except BackupError:
        return ""


def _digest(client: S3Client, bucket: Bucket, key: str, size: int, progress: Progress) -> str:
    digest, seen = hashlib.sha256(), 0
    body = client.get_object(Bucket=bucket.name, Key=key)["Body"]
    for piece in body.iter_chunks(_CHUNK):
        digest.update(piece)
        seen += len(piece)
        progress("reading back", seen, size)
    return digest.hexdigest()


@contextmanager
def _client(bucket: Bucket) -> Iterator[S3Client]:
    """Only with what was handed in: nothing of the machine's own configuration."""
    try:
        session = boto3.session.Session(
            aws_access_key_id=bucket.access_key_id,
            aws_secret_access_key=bucket.secret_key,
            region_name=bucket.region,
        )
        config = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 3})
        yield session.client("s3", endpoint_url=bucket.endpoint_url or None, config=config)
    except ClientError as error:
        told = error.response.get("Error", {})
        raise DestinationFailed(
            f"The storage refused: {told.get('Code', '')} {told.get('Message', '')}".strip()[:300]
        ) from None
    except RecursionError:  # botocore asks where the bucket is, is redirected, and asks again
        raise DestinationFailed(
            "The storage redirects, and does not say to which region. Check its address, which may"
            " have to begin with https://, and the region."
        ) from None
    except (BotoCoreError, Boto3Error, ValueError) as error:
        raise DestinationFailed(f"The storage cannot be used: {str(error)[:300]}") from None
