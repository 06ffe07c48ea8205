"""Clients that are slow, idle, many or broken: each is gone in its time, and keeps nobody else out."""

from __future__ import annotations

import os
import random  # noqa: TID251 - seeded: the same bytes in every run
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import perf_counter

import h11
import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from keydist.adapters.clock import SystemClock
from keydist.adapters.http.guard import Crowd, Limits, peer_of
from keydist.serving.local import nowhere
from tests.unit.agent_host import eventually, pause
from tests.unit.serving_node import ServingNode, heard, one_answer

QUICK = Limits(request_seconds=0.4, idle_seconds=1, connections=8, sweep_seconds=0.05)
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/refresh HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingNode]:
    with ServingNode(tmp_path_factory.mktemp("guard"), limits=QUICK) as node:
        yield node


@pytest.fixture(autouse=True)
def others_are_answered(node: ServingNode) -> Iterator[None]:
    """Whatever a test did, the next client is served, and nothing was told as a defect."""
    yield
    assert node.get("/healthz").status == 200
    assert node.post("/v1/status", b"", method="GET").status == 200
    assert node.journal.named("request-failed") == []


# --- slow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["socket", "http"])
@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"", id="silent"),
        pytest.param(b"GET /heal", id="half a line"),
        pytest.param(GET[:-2], id="half a head"),
        pytest.param(POST + b"{", id="half a body"),
        pytest.param(GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx", id="half a chunk"),
    ],
)
def test_a_request_that_does_not_end_is_dropped(node: ServingNode, what: str, begin: bytes) -> None:
    with node.raw(what) as slow:
        slow.sendall(begin)
        began = perf_counter()
        heard(slow)
        assert perf_counter() - began < 1.2


def test_a_client_that_sends_a_byte_now_and_then_gains_no_time(node: ServingNode) -> None:
    began = perf_counter()
    with node.raw("http") as slow:
        while alive(slow):
            assert perf_counter() - began < 5
            pause(0.02)
    assert perf_counter() - began < 1.2


def test_who_does_not_read_its_answer_is_dropped(node: ServingNode) -> None:
    before = descriptors()
    asked = b"GET /.well-known/jwks.json HTTP/1.1\r\nHost: x\r\n\r\n" * 5_000
    with node.raw("http") as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(0.3)
        with suppress(OSError):
            deaf.sendall(asked)
        eventually(lambda: descriptors() <= before + 1, within=30)  # what fits into buffers is answered first


def descriptors() -> int:
    """Return how many files this process has open; the server is in it."""
    return len(list(Path("/proc/self/fd").iterdir()))


def alive(connection: socket.socket) -> bool:
    """Tell whether the other side still takes a byte, or only makes us wait."""
    try:
        connection.send(b"x")
    except TimeoutError:
        return True
    except OSError:
        return False
    return True


def test_an_idle_connection_is_closed_and_a_busy_one_is_kept(node: ServingNode) -> None:
    with node.raw("http") as kept:
        for _ in range(3):
            kept.sendall(GET)
            assert one_answer(kept) == b"200 ok\n"
            pause(0.5)  # longer than a request may take
        began = perf_counter()
        assert kept.recv(65_536) == b""
        assert 0.3 < perf_counter() - began < 2.5


# --- many ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["socket", "http"])
@pytest.mark.parametrize("said", [b"", b"GET /", POST], ids=["silent", "half a head", "no body"])
def test_connections_that_say_nothing_whole_keep_nobody_out(node: ServingNode, what: str, said: bytes) -> None:
    with ExitStack() as crowd:
        for _ in range(100):
            with suppress(OSError):  # gone already
                crowd.enter_context(node.raw(what)).sendall(said)
        path = "/healthz" if what == "http" else "/v1/status"
        began = perf_counter()
        with node.raw(what) as one:
            one.sendall(GET.replace(b"/healthz", path.encode()))
            assert one_answer(one).startswith(b"200 ")
        assert perf_counter() - began < 0.4


SILENT = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
crowd = [socket.socket(socket.AF_UNIX) for _ in range(30)]
for one in crowd:
    one.connect(sys.argv[1])
print("there", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's name: needs root")
def test_one_user_takes_no_connection_of_another(tmp_path: Path) -> None:
    directory = reachable(tmp_path)
    limits = Limits(request_seconds=30, connections=8, sweep_seconds=0.05)
    with ServingNode(directory, limits=limits) as node, node.raw() as mine:
        mine.sendall(POST)
        child = subprocess.Popen(
            [sys.executable, "-c", SILENT, node.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        mine.sendall(b"{}")
        assert one_answer(mine).startswith(b"200 ")
        child.communicate()


def reachable(directory: Path) -> Path:
    """Let other users into a test's directory, as far as the folders above are its own."""
    for folder in (directory, *directory.parents):
        folder.chmod(0o711)
        if folder.name.startswith("pytest-of-"):
            return directory
    raise AssertionError(f"not a test's directory: {directory}")


class Stub:
    """A connection as the crowd sees it."""

    def __init__(self, owner: str, *, answered: bool = False) -> None:
        self.owner, self.is_answered, self.is_dropped = owner, answered, False

    def drop(self) -> None:
        self.is_dropped = True


@pytest.mark.parametrize(
    ("before", "new", "gone"),
    [
        pytest.param("a b c d", "e", "a", id="the oldest"),
        pytest.param("A b c d", "e", None, id="one of each, of whom the first is being answered"),
        pytest.param("a b b c", "c", "b", id="the oldest of who has most"),
        pytest.param("a B b c", "c", "b", id="one that waits for no answer"),
        pytest.param("a B B c", "c", "B", id="one that is being answered, for somebody else"),
        pytest.param("a B B B", "b", "new", id="not for itself"),
        pytest.param("a b B B", "b", "b", id="its own that is idle"),
        pytest.param("A A A A", "a", "new", id="one alone"),
    ],
)
def test_who_goes_where_one_too_many_comes(before: str, new: str, gone: str | None) -> None:
    crowd = Crowd(nowhere, SystemClock(), Limits(connections=4))
    there = [Stub(name.lower(), answered=name.isupper()) for name in before.split()]
    for one in there:
        assert crowd.enter(one)  # type: ignore[arg-type]
    entered = crowd.enter(Stub(new))  # type: ignore[arg-type]
    dropped = [name for name, one in zip(before.split(), there, strict=True) if one.is_dropped]
    assert (dropped or ["new"])[0] == gone or gone is None
    assert entered is bool(dropped)


def test_where_all_are_being_answered_the_next_one_is_refused(tmp_path: Path) -> None:
    whole = POST + b"{}"
    with ServingNode(tmp_path, limits=Limits(connections=2)) as node, ExitStack() as closing:
        node.post("/v1/refresh", {})
        one, other = (closing.enter_context(node.raw()) for _ in range(2))
        for waiting in (one, other):
            waiting.sendall(whole)  # the next look is a second away
        pause(0.1)
        with node.raw() as refused:
            assert heard(refused) == b""
        assert [one_answer(waiting)[:3] for waiting in (one, other)] == [b"200", b"200"]


# --- broken -------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["socket", "http"])
@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400", id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"4", id="HTTP/2"),
        pytest.param(b"GET /\r\n\r\n", b"400", id="HTTP/0.9"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", b"400", id="no host"),
        pytest.param(GET[:-2] + b"Host: y\r\n\r\n", b"400", id="two hosts"),
        pytest.param(GET[:-2] + b"A b: c\r\n\r\n", b"400", id="a name with a space"),
        pytest.param(GET[:-2] + b"X: \x00\r\n\r\n", b"400", id="a zero byte"),
        pytest.param(GET[:-2] + b"Content-Length: -1\r\n\r\n", b"400", id="a negative length"),
        pytest.param(GET[:-2] + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", b"400", id="two lengths"),
        pytest.param(GET[:-2] + b"Transfer-Encoding: gzip\r\n\r\n", b"400", id="a coding"),
        pytest.param(GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"", id="a chunk that is none"),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", b"404", id="a proxy's request"),
        pytest.param(b"GET /%2e%2e/%00 HTTP/1.1\r\nHost: a\r\n\r\n", b"404", id="odd escapes"),
        pytest.param(GET[:-2] + b"X: " + b"y" * 20_000 + b"\r\n\r\n", b"431", id="a long head in one piece"),
        pytest.param(b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431", id="a long path"),
        pytest.param(b"GET /" + b"y" * 400_000, b"400", id="a path without end"),
        pytest.param(GET.replace(b"GET", b"UPGRADE"), b"4", id="an unknown method"),
        pytest.param(GET[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", b"", id="a web socket"),
        pytest.param(POST.replace(b" 2", b" 99999") + b"{", b"", id="a long body"),
    ],
)
def test_what_is_not_of_this_protocol_is_refused(node: ServingNode, what: str, sent: bytes, answer: bytes) -> None:
    with node.raw(what) as odd:
        try:
            odd.sendall(sent)
            odd.shutdown(socket.SHUT_WR)
        except OSError:  # refused before it was all sent
            pass
        got = heard(odd)
    assert got[:9] in (b"", b"HTTP/1.1 ")
    assert got[9:].startswith(answer) or not answer or len(sent) > 100_000, got[:200]


def test_a_body_that_nobody_reads_ends_the_connection(node: ServingNode) -> None:
    with node.raw("http") as odd:
        odd.sendall(GET[:-2] + b"Content-Length: 500000\r\n\r\n")
        got = heard(odd)
        assert got.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in got


def test_a_small_body_is_taken_before_its_request_is_refused(node: ServingNode) -> None:
    with node.raw() as slow:
        slow.sendall(b"POST /v2/mint HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{")
        slow.settimeout(0.1)
        with pytest.raises(TimeoutError):
            slow.recv(1)
        slow.settimeout(10)
        slow.sendall(b"}")
        assert heard(slow).startswith(b"HTTP/1.1 404")


def test_a_body_that_is_too_large_is_answered_before_it_is_sent(node: ServingNode) -> None:
    with node.raw() as large:
        large.sendall(b"POST /v1/mint HTTP/1.1\r\nHost: x\r\nContent-Length: 16385\r\nExpect: 100-continue\r\n\r\n")
        assert heard(large).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_has_the_same_limit(node: ServingNode) -> None:
    with node.raw() as large:
        large.sendall(b"POST /v1/mint HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        large.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        large.sendall((b"1000\r\n" + b"x" * 4096 + b"\r\n") * 4)
        assert heard(large).startswith(b"HTTP/1.1 413")


def test_requests_behind_each_other_are_answered_in_their_order(node: ServingNode) -> None:
    with node.raw("http") as hasty:
        hasty.sendall(GET + GET.replace(b"healthz", b"nowhere") + GET[:-2] + b"Connection: close\r\n\r\n")
        got = heard(hasty)
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


@pytest.mark.parametrize("what", ["socket", "http"])
def test_who_closes_its_own_side_behind_its_requests_still_gets_the_answers(node: ServingNode, what: str) -> None:
    for requests, answers in ((GET, 1), (GET + GET, 2)):
        with node.raw(what) as client:
            client.sendall(requests)
            client.shutdown(socket.SHUT_WR)
            assert heard(client).count(b"HTTP/1.1 ") == answers


def test_who_closes_its_own_side_within_a_request_is_not_waited_for(node: ServingNode) -> None:
    for begin in (GET[:-2], b"POST /v1/mint HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"):
        with node.raw() as client:
            client.sendall(begin)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(QUICK.request_seconds / 2)
            assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://localhost:1/healthz", b"x", b"200"),
        (b"HTTP://localhost/", b"evil.example", b"200"),
        (b"http://evil.example/", b"localhost", b"421"),
        (b"http://localhost", b"localhost", b"200"),
        (b"ftp://localhost/healthz", b"localhost", b"404"),
        (b"*", b"localhost", b"404"),
    ],
)
def test_a_target_may_be_a_whole_address_whose_host_counts(
    node: ServingNode, target: bytes, host: bytes, status: bytes
) -> None:
    with node.raw("http") as client:
        client.sendall(b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (target, host))
        assert heard(client)[9:12] == status


def test_garbage_behind_a_request_ends_the_connection_and_nothing_else(node: ServingNode) -> None:
    for what in ("socket", "http"):
        with node.raw(what) as odd:
            odd.sendall(GET + b"\x00\x01\x02\r\n\r\n" + GET)
            assert heard(odd).count(b"HTTP/1.1 200") <= 1


def test_a_state_that_the_server_did_not_think_of_ends_the_connection(
    node: ServingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbles(_self: object, _message: str) -> None:
        raise h11.LocalProtocolError("no answer fits here")

    monkeypatch.setattr(H11Protocol, "send_400_response", stumbles)
    with node.raw("http") as odd:
        odd.sendall(b"\0\r\n\r\n")
        assert heard(odd) == b""


@pytest.mark.parametrize("what", ["socket", "http"])
def test_random_bytes_harm_nobody(node: ServingNode, what: str) -> None:
    draw = random.Random(7)  # noqa: S311 - not for secrets
    whole = [GET, POST + b"{}", GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
    for _ in range(150):
        sent = bytearray(draw.choice(whole) * draw.randint(1, 3))
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(sent))
            match draw.randrange(3):
                case 0:
                    sent[place] = draw.randrange(256)
                case 1:
                    del sent[place : place + draw.randint(1, 9)]
                case _:
                    sent[place:place] = draw.randbytes(draw.randint(1, 9))
            sent = sent or bytearray(b"x")
        with node.raw(what) as odd:
            with suppress(OSError):  # it may have been dropped already
                odd.sendall(sent)
                odd.shutdown(socket.SHUT_WR)
            assert heard(odd)[:9] in (b"", b"HTTP/1.1 ")


# --- who it is ----------------------------------------------------------------------------------


def test_the_kernel_says_who_the_peer_is() -> None:
    one, other = socket.socketpair()
    with one, other:
        peer = peer_of(one)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert peer.gids == {os.getegid(), *os.getgroups()}


def test_of_a_peer_in_more_groups_than_can_be_told_only_the_first_counts() -> None:
    class Many:
        def getsockopt(self, _level: int, option: int, size: int) -> bytes:
            if option == socket.SO_PEERCRED:
                return struct.pack("=iII", 1, 2, 3)
            raise OSError(34, "result too large")

    assert peer_of(Many()).gids == {3}  # type: ignore[arg-type]


def test_nothing_is_left_of_connections_that_are_over(node: ServingNode) -> None:
    for _ in range(20):
        node.get("/healthz")
    before = descriptors()
    for _ in range(50):
        node.raw("http").close()
        node.get("/healthz")
    eventually(lambda: descriptors() <= before)
