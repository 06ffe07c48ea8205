"""What a process says to an agent over HTTP, at its socket and at its port, and what an agent says to the library.

The bytes go through all that reads them: h11, uvicorn's protocol, the guard, the router and the applications.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import socket
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from fuzz.nats_client import LOOP, run
from fuzz.of_core import JWT
from fuzz.target import Target
from keydist.adapters.http.guard import Crowd, Limits
from keydist.errors import KeydistError
from keydist.signing.remote import Agent, RemoteSigner, RemoteVerifier
from tests.fakes.virtual_loop import LoopClock
from tests.unit.serving_node import ISSUER, ServingNode

if TYPE_CHECKING:
    from keydist.adapters.http.guard import GuardedProtocol
    from keydist.serving.answers import App
    from keydist.signing.remote import _Connection

_GONE_SECONDS: Final = 3600.0
"""By then every deadline of a connection is over; on this loop it takes no time."""
_BYTES: Final = 256
_UNREADY: Final = b"503"
_LENGTH: Final = b"Content-Length: *"


class _Socket:
    """A connection as the kernel describes it: from root at the Unix socket, or from this machine."""

    def __init__(self, family: int) -> None:
        self.family = family

    def getsockopt(self, _level: int, name: int, _size: int) -> bytes:
        return struct.pack("=iII", 1, 0, 0) if name == socket.SO_PEERCRED else b""

    def setsockopt(self, *_: object) -> None:
        """Set nothing."""

    def getpeername(self) -> object:
        return ("127.0.0.1", 40_000) if self.family == socket.AF_INET else ""

    def getsockname(self) -> object:
        return ("127.0.0.1", 7447) if self.family == socket.AF_INET else "/run/keydist/agent.sock"


class _Transport(asyncio.Transport):
    """What a protocol writes to; closed, it says so in the next turn, as a real one does."""

    def __init__(self, protocol: GuardedProtocol, family: int) -> None:
        super().__init__({"socket": _Socket(family)})
        self._protocol = protocol
        self._is_closing = False
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        assert not self._is_closing or not data, "nothing is written behind the end"
        self.written.append(bytes(data))

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self.may_read.set()
            LOOP.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self.may_read.clear()

    def resume_reading(self) -> None:
        self.may_read.set()


@cache
def _node() -> ServingNode:
    return ServingNode(Path("/nowhere"))


@cache
def _apps() -> tuple[App, App]:
    node = _node()
    return node.local.app(node.journal), node.public.app(node.journal, with_metrics=True)


async def _talk(app: App, family: int, parts: tuple[bytes, bytes], *, half_close: bool) -> list[bytes]:
    """Say two things one after the other, and perhaps that no more comes; return what was written till the end."""
    crowd = Crowd(app, LoopClock(), Limits())
    protocol = crowd.protocol()
    transport = _Transport(protocol, family)
    protocol.connection_made(transport)
    for part in parts:
        await transport.may_read.wait()
        if part and not transport.is_closing():
            protocol.data_received(part)
        await asyncio.sleep(0)
    if half_close and not transport.is_closing() and not protocol.eof_received():
        transport.close()
    await asyncio.sleep(_GONE_SECONDS)
    assert not (transport.is_closing() and crowd._open), "who is gone takes no place"
    crowd.sweep()
    await asyncio.sleep(1)
    assert transport.is_closing(), "every connection comes to its end"
    assert not crowd.state.tasks, "nobody is left who answers"
    return transport.written


def _http(number: int, family: int, raw: bytes) -> None:
    """Say an input to an application: its first byte is where it is cut, and whether the client's side is closed."""
    failures = list[dict[str, Any]]()
    LOOP.set_exception_handler(lambda _loop, context: failures.append(context))
    node, how, said = _node(), raw[0] if raw else 0, _measured(raw[1:])
    cut = len(said) * how // _BYTES
    written = run(_talk(_apps()[number], family, (said[:cut], said[cut:]), half_close=how % 2 == 1))
    assert not failures, failures[0]
    assert not node.journal.named("request-failed"), "no request is a defect"
    for piece in written:
        if piece.startswith(b"HTTP/1.1 5"):
            assert piece[9:12] == _UNREADY, "no request makes it fail"
    for kept in (node.journal.events, node.minted.expiries, node.trail.mints, node.disbelieved):
        kept.clear()


def _measured(said: bytes) -> bytes:
    """Return a request whose body is as long as it says, where it leaves that open."""
    head, mark, rest = said.partition(_LENGTH)
    return head + b"Content-Length: %d" % len(rest.partition(b"\r\n\r\n")[2]) + rest if mark else said


class _Said(http.client.HTTPConnection):
    """A connection to an agent that says what it says."""

    def __init__(self, raw: bytes) -> None:
        super().__init__("localhost")
        self._raw = raw

    def connect(self) -> None:
        self.sock = cast("socket.socket", _Answer(self._raw))


class _Answer:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def sendall(self, data: bytes) -> None:
        """Send nothing."""

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)

    def close(self) -> None:
        """Close nothing."""


class _Told(Agent):
    """An agent that answers each request with the same bytes."""

    def __init__(self, raw: bytes) -> None:
        super().__init__("/nowhere")
        self._raw = raw

    def _answer(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        return self._ask(cast("_Connection", _Said(self._raw)), method, path, body)


def _remote(raw: bytes) -> None:
    """Ask an agent that may answer anything: the library returns what it promises, or raises what it promises."""
    agent = _Told(raw)
    for ask in (
        lambda: RemoteSigner(agent).jwks()["keys"],
        lambda: RemoteSigner(agent).mint({}, subject="s", audience="a"),
        lambda: RemoteVerifier(agent).verify(JWT, audience="a", issuer="i").all,
    ):
        try:
            assert ask() is not None
        except KeydistError as exc:
            exc.as_json()


def _request(line: str, body: bytes = b"", *headers: str) -> bytes:
    length = (_LENGTH.decode(),) if body else ()
    return "\r\n".join((f"{line} HTTP/1.1", "Host: localhost", *headers, *length, "", "")).encode() + body


def _seeds(*several: bytes) -> tuple[bytes, ...]:
    return tuple(bytes((how,)) + said for how, said in zip((0, 128, 255, 64, 1), several * 5, strict=False))


_MINT: Final = b'{"subject":"s","audience":["a"],"claims":{"x":[1]},"issuer":"i","lifetime":60,"typ":"JWT"}'
_VERIFY: Final = f'{{"jwt":"{JWT}","audience":"a","issuer":"{ISSUER}","leeway":5}}'.encode()
_SOCKET: Final = (
    _request("POST /v1/mint", _MINT),
    _request("POST /v1/verify", _VERIFY, "Connection: close"),
    _request("GET /v1/status") + _request("GET /v1/jwks") + _request("POST /v1/refresh", b"{}"),
    _request("POST /v1/mint", b"", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
    _request("POST http://localhost/v1/refresh", b"{}", "Expect: 100-continue"),
)
_KID: Final = "A" * 43
_PORT: Final = (
    _request("GET /.well-known/jwks.json", b"", 'If-None-Match: W/"x", *') + _request("GET /readyz"),
    _request("GET /.well-known/openid-configuration") + _request("GET /healthz"),
    _request(f"GET /keys/{_KID}.jwk") + _request(f"HEAD /keys/{_KID}.pem"),
    _request("GET /metrics", b"", "Accept: application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.5"),
    _request("GET http://127.0.0.1:7447/?x=%2f"),
)
_FAILED: Final = (
    b"HTTP/1.1 422 x\r\nContent-Length: 81\r\n\r\n"
    b'{"error":{"code":"invalid-jwt","family":"trust","reason":"expired","message":""}}'
)

TARGETS: Final[dict[str, Target]] = {
    "socket": Target(lambda raw: _http(0, socket.AF_UNIX, raw), _seeds(*_SOCKET)),
    "port": Target(lambda raw: _http(1, socket.AF_INET, raw), _seeds(*_PORT)),
    "agent": Target(
        _remote,
        (
            _FAILED,
            b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"jwt":"a.b.c","keys":[]}',
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            b'HTTP/1.1 200 OK\r\n\r\n{"claims":{"iss":"i","sub":"s","aud":"a","exp":2,"iat":1},"kid":"k"}',
        ),
    ),
}
