"""Sockets: how they are made, what they take the place of, and what happens where one cannot be had."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from keydist.adapters.clock import SystemClock
from keydist.adapters.http.guard import Crowd, Limits
from keydist.adapters.http.listener import Listener, Places, TcpAddress, UnixAddress, listen
from keydist.errors import ListenError
from keydist.serving import servers as servers_module
from keydist.serving.local import nowhere
from keydist.serving.servers import Served, Servers
from tests.fakes.journal import RecordingJournal
from tests.unit.serving_node import ServingNode, heard
from tests.unit.test_http_guard import GET
from tests.unit.test_nats_credentials import certificate


def crowd() -> Crowd:
    return Crowd(nowhere, SystemClock(), Limits())


def names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not what():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)  # noqa: TID251 - real time


async def opened(path: Path, mode: int = 0o660, gid: int | None = None) -> Listener:
    return listen(UnixAddress(str(path), mode, gid), crowd())


async def test_a_unix_socket_has_its_mode_and_group_and_goes_with_its_listener(tmp_path: Path) -> None:
    path, before = tmp_path / "a.sock", os.umask(0o077)
    try:
        listener = await opened(path, 0o660, os.getegid())
    finally:
        os.umask(before)
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, os.getegid())
    assert names(tmp_path) == ["a.sock"]
    listener.close()
    assert names(tmp_path) == []


async def test_what_a_dead_process_left_is_replaced_and_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    (tmp_path / ".a.sock.new").touch()
    first = await opened(path)
    path.unlink()
    second = await opened(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def occupy(path: Path) -> Callable[[], object]:
    taken = socket.socket(socket.AF_UNIX)
    taken.bind(str(path))
    taken.listen()
    return taken.close


def fill(path: Path) -> Callable[[], object]:
    taken = socket.socket(socket.AF_UNIX)
    taken.bind(str(path))
    taken.listen(0)
    waiting = socket.socket(socket.AF_UNIX)
    waiting.connect(str(path))

    def close() -> None:
        waiting.close()
        taken.close()

    return close


def put_file(path: Path) -> Callable[[], object]:
    path.write_text("precious")
    return lambda: None


@pytest.mark.parametrize(
    ("spoil", "found"),
    [(occupy, "another process"), (fill, "another process"), (put_file, "not a socket")],
    ids=["a living process", "a busy process", "a file"],
)
async def test_what_is_in_use_is_not_replaced(
    tmp_path: Path, spoil: Callable[[Path], Callable[[], object]], found: str
) -> None:
    path = tmp_path / "a.sock"
    mend = spoil(path)
    before = path.lstat().st_ino
    with pytest.raises(ListenError, match=found):
        await opened(path)
    assert path.lstat().st_ino == before
    mend()


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(UnixAddress("/no/such/directory/a.sock", 0o600), id="no directory"),
        pytest.param(UnixAddress("/tmp/" + "a" * 120, 0o600), id="too long a path"),
        pytest.param(TcpAddress("192.0.2.1", 0), id="an address of another machine"),
        pytest.param(TcpAddress("127.0.0.1", 0, "/no/such.pem", "/no/such.key"), id="no certificate"),
        pytest.param(TcpAddress("127.0.0.1", 0, __file__, __file__), id="no certificate in it"),
    ],
)
async def test_what_cannot_be_had_says_why(address: UnixAddress | TcpAddress) -> None:
    with pytest.raises(ListenError, match="cannot listen at") as caught:
        listen(address, crowd())
    assert caught.value.found


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_who_connects_while_nobody_serves_is_answered_by_who_serves_next(tmp_path: Path, kind: str) -> None:
    places = Places()
    address = UnixAddress(str(tmp_path / "a.sock"), 0o600) if kind == "unix" else TcpAddress("127.0.0.1", 0)
    first = listen(address, crowd(), places)
    name = first.name
    first.close()
    with connected(name) as client:
        client.sendall(GET)
        second = listen(address, crowd(), places)
        assert second.name == name
        assert await asyncio.to_thread(client.recv, 9) == b"HTTP/1.1 "
    second.close()
    places.leave()
    with pytest.raises(OSError, match=r"refused|No such file"):
        connected(name)
    assert left_in(tmp_path) == []


def connected(name: str) -> socket.socket:
    host, _, port = name.rpartition(":")
    if host:
        return socket.create_connection((host, int(port)), 5)
    client = socket.socket(socket.AF_UNIX)
    try:
        client.settimeout(5)
        client.connect(name)
    except OSError:
        client.close()
        raise
    return client


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)  # noqa: TID251 - a turn of the event loop


@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_whoever_is_still_being_connected_is_not_served_by_the_rules_of_before(
    tmp_path: Path, kind: str, count: int
) -> None:
    address = UnixAddress(str(tmp_path / "a.sock"), 0o600) if kind == "unix" else TcpAddress("127.0.0.1", 0)
    listener = listen(address, crowd())
    with connected(listener.name) as client:
        await turns(count)
        listener.close()
        await turns(6)
        with suppress(OSError):
            client.sendall(GET)
        assert await asyncio.to_thread(all_of, client) == b""


def all_of(client: socket.socket) -> bytes:
    with suppress(ConnectionError):
        return client.recv(100)
    return b""


@pytest.mark.parametrize(("mode", "gid"), [(0o777, None), (0o600, None), (0o640, None), (0o640, 1)])
async def test_a_kept_socket_that_somebody_changed_is_made_again(tmp_path: Path, mode: int, gid: int | None) -> None:
    if gid is not None and os.geteuid() != 0:
        pytest.skip("only root gives files to any group")
    places, path = Places(), tmp_path / "a.sock"
    address = UnixAddress(str(path), 0o640, gid)
    listen(address, crowd(), places).close()
    if mode != address.mode:
        path.chmod(mode)
    if gid is not None:
        os.chown(path, -1, 2)
    again = listen(address, crowd(), places)
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), gid in (None, found.st_gid)) == (0o640, True)
    again.close()
    places.leave()


async def test_a_kept_socket_that_was_removed_is_made_again_and_one_of_no_use_is_closed(tmp_path: Path) -> None:
    places, path, other = Places(), tmp_path / "a.sock", tmp_path / "b.sock"
    for at in (path, other):
        listen(UnixAddress(str(at), 0o600), crowd(), places).close()
    path.unlink()
    again = listen(UnixAddress(str(path), 0o600), crowd(), places)
    assert path.is_socket()
    places.leave(but=[UnixAddress(str(other), 0o660)])  # with another mode it is another socket
    assert left_in(tmp_path) == [path]
    again.close()
    places.leave()
    assert left_in(tmp_path) == []


def left_in(path: Path) -> list[Path]:
    return list(path.iterdir())


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_what_cannot_be_served_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def full(_: socket.socket) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    path = tmp_path / "a.sock"
    monkeypatch.setattr(socket.socket, "dup", full)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ListenError, match="too many open files"):
        listen(UnixAddress(str(path), 0o600) if kind == "unix" else TcpAddress("127.0.0.1", port), crowd())
    assert left_in(tmp_path) == []
    monkeypatch.undo()
    listen(TcpAddress("127.0.0.1", port), crowd()).close()


async def test_an_address_is_named_as_it_turned_out() -> None:
    for host, name in (("127.0.0.1", "127.0.0.1:"), ("localhost", "127.0.0.1:"), ("::1", "[::1]:")):
        listener = listen(TcpAddress(host, 0), crowd())
        assert listener.name.startswith(name)
        assert not listener.name.endswith(":0")
        listener.close()


async def test_an_address_in_use_is_an_alarm_until_it_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "_RETRY_SECONDS", 0.05)
    taken = socket.create_server(("127.0.0.1", 0))
    port, log, limits = taken.getsockname()[1], RecordingJournal(), Limits(sweep_seconds=0.02)
    served = (
        Served("http", TcpAddress("127.0.0.1", port), nowhere),
        Served("socket", UnixAddress(str(tmp_path / "a.sock"), 0o600), nowhere),
    )
    servers = Servers(served, clock=SystemClock(), log=log, limits=limits)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(servers.run())
        await until(lambda: log.named("serving"))
        [alarm] = servers.alarms()
        assert (alarm.code, alarm.found) == ("cannot-listen", "address already in use")
        assert log.named("serving") == [{"what": "socket", "at": str(tmp_path / "a.sock")}]
        taken.close()
        await until(lambda: not servers.alarms())
        assert [event["what"] for event in log.named("serving")] == ["socket", "http"]
        running.cancel()
    assert names(tmp_path) == []


def remove(path: Path) -> None:
    path.unlink()


def replace_by_a_socket_that_is_dead(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def remove_the_directory(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize("spoil", [remove, replace_by_a_socket_that_is_dead, remove_the_directory])
async def test_a_socket_that_was_removed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(servers_module, "_RETRY_SECONDS", 0.05)
    path, log, limits = tmp_path / "run" / "a.sock", RecordingJournal(), Limits(sweep_seconds=0.02)
    served = (Served("socket", UnixAddress(str(path), 0o600), nowhere),)
    servers = Servers(
        served, clock=SystemClock(), log=log, limits=limits, prepare=lambda: path.parent.mkdir(exist_ok=True)
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(servers.run())
        await until(lambda: log.named("serving"))
        spoil(path)
        await until(lambda: len(log.named("serving")) == 2)
        connection = socket.socket(socket.AF_UNIX)
        await asyncio.get_running_loop().run_in_executor(None, connection.connect, str(path))
        connection.close()
        assert not servers.alarms()
        running.cancel()
    assert names(path.parent) == []


async def test_what_takes_the_place_of_a_socket_is_an_alarm_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers_module, "_RETRY_SECONDS", 0.05)
    path, log, limits = tmp_path / "a.sock", RecordingJournal(), Limits(sweep_seconds=0.02)
    served = (Served("socket", UnixAddress(str(path), 0o600), nowhere),)
    servers = Servers(served, clock=SystemClock(), log=log, limits=limits)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(servers.run())
        await until(lambda: log.named("serving"))
        path.unlink()
        path.mkdir()
        await until(servers.alarms)
        path.rmdir()
        await until(lambda: len(log.named("serving")) == 2)
        assert not servers.alarms()
        running.cancel()


# --- TLS ----------------------------------------------------------------------------------------


def test_tls_is_spoken_and_nothing_but_tls(tmp_path: Path) -> None:
    tls = certificate(tmp_path, "web")
    limits = Limits(request_seconds=0.5, sweep_seconds=0.05)
    with ServingNode(tmp_path, certificate=(str(tls.cert_file), str(tls.key_file)), limits=limits) as node:
        trusting = ssl.create_default_context(cafile=tls.cert_file)
        with trusting.wrap_socket(node.raw("http"), server_hostname="127.0.0.1") as secure:
            secure.sendall(GET[:-2] + b"Connection: close\r\n\r\n")
            assert heard(secure).startswith(b"HTTP/1.1 200")
            assert secure.version() in ("TLSv1.2", "TLSv1.3")
        with node.raw("http") as plain:
            plain.sendall(GET)
            assert not heard(plain).startswith(b"HTTP")
        with trusting.wrap_socket(node.raw("http"), server_hostname="127.0.0.1") as slow:
            assert heard(slow) == b""  # dropped at its deadline, as without TLS


async def test_a_handshake_over_a_reload_is_made_with_who_serves_next(tmp_path: Path) -> None:
    tls = certificate(tmp_path, "web")
    address = TcpAddress("127.0.0.1", 0, tls.cert_file, tls.key_file)
    listener = listen(address, crowd())
    with connected(listener.name) as client:
        await turns(6)
        listener.close()
        trusting = ssl.create_default_context(cafile=tls.cert_file)
        with pytest.raises(OSError, match=r".*"):
            await asyncio.to_thread(trusting.wrap_socket, client, server_hostname="127.0.0.1")


def test_strangers_that_shake_no_hands_keep_nobody_out_and_take_no_more_than_their_places(tmp_path: Path) -> None:
    tls = certificate(tmp_path, "web")
    limits = Limits(connections=20)
    with ServingNode(tmp_path, certificate=(str(tls.cert_file), str(tls.key_file)), limits=limits) as node:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - of this process
        with ExitStack() as closing:
            crowd_of = [closing.enter_context(node.raw("http")) for _ in range(200)]
            trusting = ssl.create_default_context(cafile=tls.cert_file)
            for _ in range(3):
                with trusting.wrap_socket(node.raw("http"), server_hostname="127.0.0.1") as secure:
                    secure.sendall(GET[:-2] + b"Connection: close\r\n\r\n")
                    assert heard(secure).startswith(b"HTTP/1.1 200")
            there = len(os.listdir("/proc/self/fd")) - len(crowd_of)  # noqa: PTH208 - as above
            assert there <= before + limits.connections + 5


def test_a_certificate_that_cannot_be_used_leaves_the_one_of_before_in_place(tmp_path: Path) -> None:
    tls, places = certificate(tmp_path, "web"), Places()
    key = Path(tls.key_file or "")
    address = TcpAddress("127.0.0.1", 0, tls.cert_file, str(key))
    good = key.read_bytes()
    for spoilt in (False, True, False):
        key.write_bytes(b"" if spoilt else good)
        asyncio.run(served_with(address, places, ca=tls.cert_file, in_trouble=spoilt))
    key.write_bytes(b"")
    places.leave()
    with pytest.raises(ListenError, match="its certificate cannot be used"):
        places.certified(address)


async def served_with(address: TcpAddress, places: Places, *, ca: str | None, in_trouble: bool) -> None:
    """Serve for a moment, at which somebody shakes hands."""
    served, log = (Served("http", address, nowhere),), RecordingJournal()
    servers = Servers(served, clock=SystemClock(), log=log, limits=Limits(sweep_seconds=0.02), places=places)
    trusting = ssl.create_default_context(cafile=ca)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(servers.run())
        await until(lambda: log.named("serving"))
        assert bool(servers.alarms()) is in_trouble
        with connected(str(log.named("serving")[0]["at"])) as client:
            (await asyncio.to_thread(trusting.wrap_socket, client, server_hostname="127.0.0.1")).close()
        running.cancel()


async def test_a_handshake_that_does_not_end_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keydist.adapters.http.accepting.HANDSHAKE_SECONDS", 0.1)
    tls = certificate(tmp_path, "web")
    listener = listen(TcpAddress("127.0.0.1", 0, tls.cert_file, tls.key_file), crowd())
    reader, writer = await asyncio.open_connection("127.0.0.1", int(listener.name.rpartition(":")[2]))
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    listener.close()


_ENCRYPTED = """
import asyncio, sys
from keydist.adapters.clock import SystemClock
from keydist.adapters.http.guard import Crowd, Limits
from keydist.adapters.http.listener import TcpAddress, listen
from keydist.errors import ListenError
from keydist.serving.local import nowhere
async def main():
    listen(TcpAddress("127.0.0.1", 0, *sys.argv[1:]), Crowd(nowhere, SystemClock(), Limits()))
try:
    asyncio.run(main())
except ListenError as exc:
    print(exc.code)
"""


def test_a_key_file_with_a_password_asks_nobody_at_the_terminal(tmp_path: Path) -> None:
    tls = certificate(tmp_path, "web")
    key = serialization.load_pem_private_key(Path(tls.key_file or "").read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    leader, follower = os.openpty()  # a controlling terminal, which OpenSSL would ask
    arguments = [sys.executable, "-c", _ENCRYPTED, str(tls.cert_file), str(encrypted)]
    try:
        with subprocess.Popen(
            ["setsid", "--ctty", "--wait", *arguments], stdin=follower, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.communicate(timeout=20)[0] == "cannot-listen\n"
            finally:
                process.kill()
    finally:
        os.close(leader)
        os.close(follower)
