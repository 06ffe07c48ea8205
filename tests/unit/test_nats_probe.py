"""Whether every server refuses is found out with bare sockets; anything doubtful is left to the client."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from keydist.adapters.nats.probe import refused_by_all


@pytest.fixture
def closed() -> Iterator[int]:
    """A port of this machine that refuses: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_one_closed_port_refuses(closed: int) -> None:
    error = refused_by_all((f"nats://127.0.0.1:{closed}",))
    assert error is not None
    assert error.exit_code == 75
    assert error.found == "connection refused"
    assert str(closed) in error.message


def test_all_of_several_must_refuse(closed: int, listening: int) -> None:
    urls = (f"nats://127.0.0.1:{closed}", f"tls://127.0.0.2:{closed}")
    assert refused_by_all(urls) is not None
    assert refused_by_all((*urls, f"nats://127.0.0.1:{listening}")) is None
    assert refused_by_all((f"nats://127.0.0.1:{listening}", *urls)) is None


@pytest.mark.parametrize("host", ["localhost", "nats.example.com", "127.1.example"])
def test_a_name_is_left_to_the_client(host: str, closed: int) -> None:
    assert refused_by_all((f"nats://{host}:{closed}",)) is None


def test_no_server_at_all_is_no_refusal_by_one() -> None:
    assert refused_by_all(("nats://127.0.0.1:99999999999999999999",)) is None
    assert refused_by_all(("nats://",)) is None


def test_the_default_port_is_that_of_nats(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect_ex(self: socket.socket, address: tuple[str, int]) -> int:
        asked.append(address)
        return 0

    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    for url in ("nats://127.0.0.1", "nats://127.0.0.1/", "nats://[::1]:4222", "nats://[::1]"):
        assert refused_by_all((url,)) is None
    assert asked == [("127.0.0.1", 4222), ("127.0.0.1", 4222), ("::1", 4222), ("::1", 4222)]


def test_a_listener_that_never_accepts_is_no_refusal() -> None:
    with socket.socket() as server, socket.socket() as first:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())  # fills the queue: the next connection waits
        assert refused_by_all((f"nats://127.0.0.1:{server.getsockname()[1]}",)) is None


@pytest.mark.parametrize(
    ("code", "refused"),
    [(111, "connection refused"), (101, "ENETUNREACH"), (113, "EHOSTUNREACH"), (13, None), (110, None)],
)
def test_which_errors_refuse(code: int, refused: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: code)
    error = refused_by_all(("nats://127.0.0.1:4222",))
    assert (error.found if error else None) == refused
