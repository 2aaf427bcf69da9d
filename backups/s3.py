"""Copies in S3-compatible storage: put there, read back, removed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from backups.archive import Progress
from backups.bucket import Bucket
from backups.errors import DestinationFailed

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
            raise DestinationFailed(
                f"What the storage gave back for {key} is not what was put there. Check the"
                " storage; the local backup is good."
            )


def remove(bucket: Bucket, key: str) -> None:
    """Remove a copy; one that is not there is no failure. Raises DestinationFailed."""
    with _client(bucket) as client:
        client.delete_object(Bucket=bucket.name, Key=key)


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
    except (BotoCoreError, Boto3Error, ValueError) as error:
        raise DestinationFailed(f"The storage cannot be used: {str(error)[:300]}") from None
