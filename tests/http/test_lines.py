"""Lines to other people's servers: what they answer arrives as it was sent, or is an error.

The servers are sockets that write the very bytes a test gives them.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.egress import EgressPolicy, EgressRefused
from node.lines.connection import HIGH_WATER
from node.lines.errors import Broken, LineError, NotConnected, Silent
from node.lines.pool import Answer, Lines, Origin, Request

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HOST = (b"Host", b"here")
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


class Server:
    """Answers each request on a connection with the next of `answers`; None hangs up."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                self.bodies.append(await _body(head, reader))
                answer = self.answers.pop(0) if self.answers else OK
                if answer is None:
                    writer.transport.abort()
                    return
                writer.write(answer)
                await writer.drain()
                if b"until-end" in answer or b"cut" in answer:
                    writer.close()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return body
    if b"content-length: " in lowered:
        length = lowered.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return await reader.readexactly(int(length))
    return b""


@asynccontextmanager
async def listening(
    server: Script, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Lines, Origin]]:
    listener = await asyncio.start_server(server, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    lines = Lines(EgressPolicy(["127.0.0.1", "localhost"]), 2, 0.5, max_head_bytes=2048)
    host = "localhost" if tls else "127.0.0.1"
    try:
        yield lines, Origin(tls is not None, host, port)
    finally:
        await lines.close()
        listener.close()


async def read(answer: Answer) -> bytes:
    async with answer:
        body = b""
        while chunk := await answer.read():
            body += chunk
        return body


def get(method: str = "GET", target: bytes = b"/") -> Request:
    return Request(method, target, [HOST])


async def test_requests_one_after_the_other_share_a_connection() -> None:
    server = Server()
    async with listening(server) as (lines, origin):
        for _ in range(3):
            assert await read(await lines.request(origin, get())) == b"ok"
    assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n",
            b"ok",
        ),
        (b"HTTP/1.1 200 OK\r\nx: until-end\r\n\r\nall of it", b"all of it"),
        (b"HTTP/1.0 200 OK\r\nx: until-end\r\n\r\nold", b"old"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
    ],
)
async def test_an_answer_of_any_framing_arrives_whole(answer: bytes, body: bytes) -> None:
    server = Server(answer)
    async with listening(server) as (lines, origin):
        got = await lines.request(origin, get())
        assert b"link" not in [name.lower() for name, _ in got.raw_headers]
        assert await read(got) == body
        assert await read(await lines.request(origin, get())) == b"ok"


async def test_head_has_a_length_and_no_body_and_keeps_the_connection() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n")
    async with listening(server) as (lines, origin):
        answer = await lines.request(origin, get("HEAD"))
        assert answer.length == 99
        assert await read(answer) == b""
        assert await read(await lines.request(origin, get())) == b"ok"
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ncut\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\ncut",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\ncut",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\ncut",
        b"HTTP/1.1 600 cut\r\ncontent-length: 3\r\n\r\ncut",
        b"SSH-2.0-nonsense cut\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 4096 + b"\r\ncut: 1\r\n\r\n",
    ],
)
async def test_an_answer_that_breaks_off_or_is_none_is_an_error(answer: bytes) -> None:
    server = Server(answer)
    async with listening(server) as (lines, origin):
        with pytest.raises(Broken):
            got = await lines.request(origin, get())
            await read(got)
            raise Broken(str(got.status)) if got.status == 101 else AssertionError(got.status)
        assert await read(await lines.request(origin, get())) == b"ok"
    assert server.connections == 2


class Endless(Server):
    """Answers with what it was given, and goes on with it for ever."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer)
        self.sent = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answers[0] or b"")
        with contextlib.suppress(ConnectionError):
            while self.sent < 256 * 2**20:
                writer.write(b"y" * 65_536)
                await writer.drain()
                self.sent += 65_536
        writer.close()


@pytest.mark.parametrize("rest", [b"2\r\nok\r\n0\r\nx: ", b"2;x="])
async def test_what_is_no_body_does_not_go_on_for_ever(rest: bytes) -> None:
    """A trailer would be kept in memory until it ends."""
    server = Endless(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + rest)
    async with listening(server) as (lines, origin):
        with pytest.raises(Broken):
            await read(await lines.request(origin, get()))
    assert server.sent < 64 * 2**20


async def test_bytes_nobody_asked_for_are_not_the_next_answer() -> None:
    server = Server(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
    async with listening(server) as (lines, origin):
        assert await read(await lines.request(origin, get())) == b"ok"
        await asyncio.sleep(0.05)
        assert await read(await lines.request(origin, get())) == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(("method", "sent"), [("GET", 3), ("POST", 2)])
async def test_only_a_safe_request_is_sent_again_when_a_kept_connection_ends(
    method: str, sent: int
) -> None:
    server = Server(OK, None)
    async with listening(server) as (lines, origin):
        assert await read(await lines.request(origin, get())) == b"ok"
        try:
            assert await read(await lines.request(origin, get(method))) == b"ok"
            assert method == "GET"
        except Broken:
            assert method == "POST"
    assert len(server.heads) == sent


async def test_a_new_connection_that_ends_without_an_answer_is_not_tried_again() -> None:
    server = Server(None)
    async with listening(server) as (lines, origin):
        with pytest.raises(Broken):
            await lines.request(origin, get())
    assert len(server.heads) == 1


async def test_silence_ends_after_the_time_allowed() -> None:
    for answer in (b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome"):
        async with listening(Server(answer)) as (lines, origin):
            with pytest.raises(Silent):
                await read(await lines.request(origin, get()))


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 102 Processing\r\n\r\n"])
async def test_a_head_that_comes_drop_by_drop_is_not_waited_for(interim: bytes) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"" if interim else b"HTTP/1.1 200 OK\r\nx: ")
        while not writer.is_closing():
            writer.write(interim or b"x")
            await asyncio.sleep(0.05)

    async with listening(drip) as (lines, origin), asyncio.timeout(10):
        with pytest.raises(Silent):
            await lines.request(origin, get())


async def test_who_does_not_read_slows_the_other_side_down() -> None:
    size = 40 * HIGH_WATER
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
    async with listening(server) as (lines, origin):
        answer = await lines.request(origin, get())
        await asyncio.sleep(0.7)  # longer than silence is borne: it is we who do not read
        held = answer._connection
        assert held is not None and held._waiting_bytes < 4 * HIGH_WATER
        assert len(await read(answer)) == size


async def _parts() -> AsyncIterator[bytes]:
    for part in (b"one ", b"", b"two"):
        await asyncio.sleep(0)
        yield part


@pytest.mark.parametrize("length", [7, None])
async def test_a_streamed_body_arrives_whole(length: int | None) -> None:
    server = Server()
    async with listening(server) as (lines, origin):
        request = Request("POST", b"/", [HOST], _parts(), length)
        assert await read(await lines.request(origin, request)) == b"ok"
    assert server.bodies == [b"one two"]


async def test_a_caller_that_breaks_off_breaks_the_request_off() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise ValueError("the caller is gone")

    server = Server()
    async with listening(server) as (lines, origin):
        with pytest.raises(Broken):
            await lines.request(origin, Request("POST", b"/", [HOST], broken(), None))
    assert server.bodies == []


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET", b"/", [HOST, (b"x", b"1\r\nevil: 1")]),
        Request("GET", b"/", [HOST, (b"x\n", b"1")]),
        Request("GET", b"/a b HTTP/1.1", [HOST]),
        Request("GET", b"/\r\n", [HOST]),
        Request("GET", b"/", [HOST, (b"x", b"\0")]),
    ],
)
async def test_nothing_can_be_slipped_into_a_head(request_: Request) -> None:
    server = Server()
    async with listening(server) as (lines, origin):
        with pytest.raises(ValueError, match="may not be there"):
            await lines.request(origin, request_)
    assert server.heads == []


async def test_nobody_listens_and_inside_are_different_errors() -> None:
    lines = Lines(EgressPolicy(["127.0.0.1"]), 1, 1)
    with pytest.raises(NotConnected):
        await lines.request(Origin(False, "127.0.0.1", 1), get())
    with pytest.raises(EgressRefused):
        await lines.request(Origin(False, "127.0.0.2", 1), get())
    with pytest.raises(EgressRefused):
        await lines.request(Origin(False, "localhost", 1), get())
    await lines.close()


async def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    server = Server()
    async with listening(server, _tls(tmp_path)) as (lines, origin):
        with pytest.raises(NotConnected):
            await lines.request(origin, get())
        trusting = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
        lines._tls = trusting
        assert await read(await lines.request(origin, get())) == b"ok"
        with pytest.raises(LineError):
            await lines.request(origin._replace(host="127.0.0.1"), get())
    assert len(server.heads) == 1


def _tls(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate of its own for `localhost`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return context
