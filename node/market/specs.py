"""Specifications from outside: fetched through the guard, checked in a process of their own.

A document may be made to cost: endless regular expressions, references that fan out. The
process that checks it has limits of time and memory and knows nothing worth stealing.
"""

from __future__ import annotations

import asyncio
import os
import sys

import aiohttp
import msgspec
from yarl import URL

from catalog.errors import ListingInvalid
from catalog.reading import MAX_BYTES
from catalog.specs import CheckedSpec, Problem
from node.egress import EgressPolicy, EgressRefused, open_session

CHECK_SECONDS = 30
FETCH_SECONDS = 15
_FIELD = "spec_url"


async def check_apart(text: str, slots: asyncio.Semaphore) -> CheckedSpec:
    """`catalog.specs.check_spec` without risk for this process; as many at once as `slots`."""
    async with slots:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "catalog.specs"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            # No secret of the node's environment, and one and the same library for all.
            env={
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "OPENAPI_SPEC_VALIDATOR_SCHEMA_VALIDATOR_BACKEND": "jsonschema",
            },
        )
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                output, _ = await process.communicate(text.encode("utf-8", "replace"))
        except TimeoutError:
            return _too_costly()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode != 0:
        return _too_costly()
    return msgspec.json.decode(output, type=CheckedSpec)


async def fetch_spec(egress: EgressPolicy, address: str) -> str:
    """The document at an address, at most 2 MB. Raises ListingInvalid (`spec_url`)."""
    timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
    try:
        url = URL(address)
        egress.check_url(url)
        if url.user or url.password:
            raise ListingInvalid(_FIELD, "Give an address without a name or password in it.")
        async with (
            open_session(egress, timeout=timeout) as session,
            session.get(
                url, headers={"Accept-Encoding": "identity"}, allow_redirects=False
            ) as answer,
        ):
            if answer.status != 200:
                raise ListingInvalid(_FIELD, _not_ok(answer.status))
            return await _read(answer)
    except EgressRefused as error:
        raise ListingInvalid(_FIELD, f"{error} Allow it in Settings > Network first.") from None
    except aiohttp.ClientConnectorError as error:
        why = error.os_error if isinstance(error.os_error, EgressRefused) else "Nothing answers."
        raise ListingInvalid(_FIELD, f"The address cannot be reached: {why}") from None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        raise ListingInvalid(_FIELD, "The address cannot be reached; check it.") from None


async def _read(answer: aiohttp.ClientResponse) -> str:
    chunks, size = [], 0
    async for chunk in answer.content.iter_chunked(65536):
        size += len(chunk)
        if size > MAX_BYTES:
            raise ListingInvalid(_FIELD, "The document there is larger than 2 MB.")
        chunks.append(chunk)
    return decode(b"".join(chunks), _FIELD)


def decode(content: bytes, field: str = "spec") -> str:
    """A file as text. Raises ListingInvalid."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ListingInvalid(field, "The document is not UTF-8 text.") from None


def _not_ok(status: int) -> str:
    if 300 <= status < 400:
        return "The address leads elsewhere; give the one it leads to."
    return f"The address answers {status} instead of a document."


def _too_costly() -> CheckedSpec:
    message = "Checking it takes too long or too much memory; make it smaller or simpler."
    return CheckedSpec("", (Problem(message),))
