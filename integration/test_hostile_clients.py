"""Hostile clients at both sockets of an agent, while it goes on following, minting and answering everybody else.

20,000 requests with bytes that are not as they should be, 1,000 connections that say nothing, and clients that take
their time: all at once. Meanwhile a client mints and verifies, and rotations arrive.
"""

from __future__ import annotations

import http.client
import random
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Self

import pytest

from keydist.adapters.embedded import EmbeddedServer
from keydist.errors import KeydistError
from keydist.signing import Signer, Verifier
from tests.conftest import administrator
from tests.material import Change, extend
from tests.unit.agent_host import Host, eventually
from tests.unit.serving_node import heard

REQUESTS: Final = 20_000
AT_ONCE: Final = 2
THREADS: Final = 8
IDLE: Final = 1_000
SLOW: Final = 40
ROTATIONS: Final = 3
LATE: Final = 5.0
"""Within so many seconds a client is answered and a rotation has arrived, whatever others do."""
MEMORY: Final = 80.0
BUCKET: Final = "hostile"
ISSUER: Final = "https://issuer.example"
WHOLE: Final = (
    b'GET /.well-known/jwks.json HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: "x"\r\n\r\n',
    b"GET /keys/x.jwk HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b'POST /v1/mint HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n{"subject":"s","audience":"a"}',
    b'POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 43\r\n\r\n{"jwt":"a.b.c","audience":"a","issuer":"i"}',
    b"POST /v1/mint HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
)

pytestmark = pytest.mark.alone

Connect = Callable[[], socket.socket]


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """Let this process hold its thousand connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def spoiled(draw: random.Random) -> bytes:
    """Return requests in which some bytes are wrong, missing or too many."""
    sent = bytearray(b"".join(draw.choices(WHOLE, k=AT_ONCE)))
    for _ in range(draw.randint(1, 5)):
        place = draw.randrange(len(sent) + 1)
        match draw.randrange(4):
            case 0:
                sent[place : place + 1] = draw.randbytes(1)
            case 1:
                del sent[place : place + draw.randint(1, 20)]
            case 2:
                sent[place:place] = draw.randbytes(draw.randint(1, 20))
            case _:
                sent[place:place] = draw.choice((b"\r\n", b"\0", b"\xff" * 50, b": ", b"9" * 30, b"x" * 20_000))
    return bytes(sent) or b"\0"


class Hostile:
    """Everybody who means harm, each in a thread of its own, until `stop`."""

    def __init__(self, places: tuple[Connect, ...]) -> None:
        self._places = places
        self._stopped = threading.Event()
        self.sent = 0
        self.odd: list[bytes] = []
        self._lock = threading.Lock()
        works = [lambda number=number: self._spoil(number) for number in range(THREADS)]
        self.senders = [threading.Thread(target=work) for work in works]
        self.others = [threading.Thread(target=self._sit), threading.Thread(target=self._dawdle)]

    def __enter__(self) -> Self:
        for thread in (*self.others, *self.senders):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in (*self.others, *self.senders):
            thread.join()

    def is_over(self) -> bool:
        return not any(thread.is_alive() for thread in self.senders)

    def _spoil(self, number: int) -> None:
        draw = random.Random(number)
        for turn in range(REQUESTS // THREADS // AT_ONCE):
            if self._stopped.is_set():
                return
            answer = b""
            with suppress(OSError), self._places[(turn + number) % len(self._places)]() as connection:
                connection.sendall(spoiled(draw))
                connection.shutdown(socket.SHUT_WR)
                answer = heard(connection)
            with self._lock:
                self.sent += AT_ONCE
                if answer and not answer.startswith(b"HTTP/1.1 "):
                    self.odd.append(answer)

    def _sit(self) -> None:
        """Hold a thousand connections and say nothing, for as long as one is let; then take another."""
        with ExitStack() as closing:
            crowd: list[socket.socket] = []
            while not self._stopped.wait(0.002):
                with suppress(OSError):
                    crowd.append(closing.enter_context(self._places[len(crowd) % len(self._places)]()))
                if len(crowd) > IDLE:
                    crowd.pop(0).close()

    def _dawdle(self) -> None:
        """Send a byte of a request now and then."""
        crowd: dict[socket.socket, int] = {}
        while not self._stopped.wait(0.05):
            while len(crowd) < SLOW:
                crowd[self._places[len(crowd) % len(self._places)]()] = 0
            for connection, place in list(crowd.items()):
                try:
                    connection.send(WHOLE[2][place : place + 1])
                    crowd[connection] = (place + 1) % 60
                except OSError:
                    connection.close()
                    del crowd[connection]
        for connection in crowd:
            connection.close()


class Honest:
    """A client that mints and verifies all the time, and asks for the JWK Set; it notes what it had to wait for."""

    def __init__(self, path: str, port: int) -> None:
        self._path, self._port = path, port
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self.waits: list[float] = []
        self.failures: list[str] = []
        self.kids: set[str] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        with Signer.connect(self._path) as signer, Verifier.connect(self._path) as verifier:
            while not self._stopped.wait(0.01):
                began = time.perf_counter()
                try:
                    jwt = signer.mint({}, subject="s", audience="a")
                    self.kids.add(verifier.verify(jwt, audience="a", issuer=ISSUER).kid)
                    http_get(self._port, "/.well-known/jwks.json")
                except (KeydistError, OSError, http.client.HTTPException) as exc:
                    self.failures.append(repr(exc))
                self.waits.append(time.perf_counter() - began)


def http_get(port: int, path: str) -> bytes:
    """Ask once; what is not answered with 200 raises."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LATE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise http.client.HTTPException(f"{answer.status} {answer.read()!r}")
        return answer.read()
    finally:
        connection.close()


def memory(pid: int) -> float:
    """Return the resident MiB of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def connects(path: str, port: int) -> tuple[Connect, Connect]:
    """Return what connects to the Unix socket, and to the port."""

    def unix() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(15)
        connection.connect(path)
        return connection

    def tcp() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=15)

    return unix, tcp


@pytest.mark.timeout(180)
async def test_hostile_clients_stop_neither_following_nor_minting(tmp_path: Path, server: EmbeddedServer) -> None:
    host = Host(tmp_path / "a", server.url, BUCKET, issuer=ISSUER, http={"listen": "127.0.0.1:0"})
    agent = host.start()
    try:
        agent.wait_for("READY=1")
        eventually(lambda: len(agent.events("serving")) > 1)
        places = {event["what"]: event["at"] for event in agent.events("serving")}
        port, began = int(places["http"].rpartition(":")[2]), time.perf_counter()
        held, late = host.held, []
        assert held is not None
        with Honest(places["socket"], port) as honest, Hostile(connects(places["socket"], port)) as hostile:
            for turn in range(1, ROTATIONS + 1):
                eventually(lambda turn=turn: hostile.sent > turn * REQUESTS // (ROTATIONS + 1), within=90)  # type: ignore[misc]
                held = host.sealed(extend(held, Change.ROTATE))
                async with administrator(server, BUCKET) as admin:
                    await admin.publish(held.envelope)
                kid = held.keyset.active.kid
                late.append(eventually(lambda kid=kid: kid in honest.kids, within=LATE))  # type: ignore[misc]
            eventually(hostile.is_over, within=90)
        seconds, used = time.perf_counter() - began, memory(agent.process.pid)
        waits = sorted(honest.waits)
        print(
            f"{hostile.sent} hostile requests in {seconds:.1f} s; {len(waits)} honest turns, median"
            f" {1000 * waits[len(waits) // 2]:.0f} ms, longest {1000 * waits[-1]:.0f} ms; a rotation arrived after"
            f" {', '.join(f'{one:.1f}' for one in late)} s; {used:.1f} MiB"
        )
        assert hostile.sent == REQUESTS
        assert hostile.odd == []
        assert honest.failures == []
        assert waits[-1] < LATE
        assert used < MEMORY
        assert http_get(port, "/readyz") == b"ready\n"
        eventually(lambda: len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir())) < 40)
        assert not agent.events("request-failed") + agent.events("library") + agent.events("failed")
        assert agent.stop() == 0
    finally:
        agent.end()
