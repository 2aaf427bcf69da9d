"""A storage that answers what no storage should is said to be one."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from backups.bucket import Bucket
from backups.client import run_task
from backups.errors import DestinationFailed
from backups.retention import Keeping
from backups.tasks import Done, Prune, Pruned, Upload


class _Redirect(BaseHTTPRequestHandler):
    """As a web server does that wants every address to begin with https."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(301)
        self.send_header("location", "https://127.0.0.1:9/")
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_PUT = do_HEAD = _answer

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def redirecting() -> Iterator[Bucket]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Redirect)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Bucket(
        endpoint_url=f"http://127.0.0.1:{server.server_address[1]}",
        region="us-east-1",
        name="bucket",
        access_key_id="id",
        secret_key="key",
    )
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_storage_that_redirects_is_said_to_do_so(
    redirecting: Bucket, tmp_path: Path
) -> None:
    """Not that the work ended for no reason, and should be tried again."""
    path = tmp_path / "one.farebox"
    path.write_bytes(b"backup")
    digest = hashlib.sha256(b"backup").hexdigest()
    with pytest.raises(DestinationFailed, match="redirects"):
        await run_task(Upload(bucket=redirecting, key="k", path=str(path), sha256=digest), Done)
    prune = Prune(
        bucket=redirecting, prefix="", keeping=Keeping(), now=1, good={}, unsure={}, recipients=[]
    )
    with pytest.raises(DestinationFailed, match="redirects"):
        await run_task(prune, Pruned)
