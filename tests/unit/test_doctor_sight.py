"""What the doctor looks at, hostile or odd as it may be: mounts, greetings, dates, streams, unreadable files."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from keydist.adapters.clock import SystemClock
from keydist.adapters.config import TlsConfig
from keydist.adapters.doctor import files
from keydist.adapters.doctor.files import acting_as, below, file_at, filesystem_of, room_at
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.nats import monitoring
from keydist.adapters.nats.connection import Connection, Server
from keydist.adapters.nats.expiry import term_of_authorities, term_of_chain, term_of_creds, term_of_der
from keydist.adapters.nats.greeting import address_of, greeting, is_local
from keydist.adapters.nats.rights import Names
from keydist.adapters.nats.sight import describe_stream, last_stored, unix_of, wanted_streams
from keydist.adapters.nats.store import NatsKeysetStore
from keydist.core.doctor.times import Term
from keydist.errors import ConfigError, DiskError
from tests.unit.test_nats_credentials import USER, certificate, creds, creds_text, write

START: Final = 1_577_836_800

# --- files --------------------------------------------------------------------------------------


def test_a_tree_is_seen_without_following_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/c").touch(mode=0o640)
    (root / "link").symlink_to(outside)
    os.mkfifo(root / "pipe")
    found = {one.path.removeprefix(str(root)): one.kind for one in below(str(root))}
    assert found == {"/a": "directory", "/a/b": "directory", "/a/b/c": "file", "/link": "link", "/pipe": "other"}


def test_a_tree_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "/".join("x" * 30)
    deep.mkdir(parents=True)
    assert len(below(str(tmp_path))) == 7
    monkeypatch.setattr(files, "_MOST", 3)
    assert len(below(str(tmp_path))) == 3
    assert below(str(tmp_path / "absent")) == ()


def test_a_path_that_cannot_be_examined(tmp_path: Path) -> None:
    assert file_at(str(tmp_path / "absent")) is None
    (tmp_path / "file").touch()
    assert file_at(str(tmp_path / "file/below")) is None
    with pytest.raises(DiskError, match="too long"):
        file_at(str(tmp_path / ("x" * 300)))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(DiskError):
        file_at(str(tmp_path / "loop"), follow=True)
    with pytest.raises(DiskError):
        room_at(str(tmp_path / "file/below"))


def test_room_is_that_of_the_nearest_directory_that_is_there(tmp_path: Path) -> None:
    assert abs(room_at(str(tmp_path / "a/b")).free - room_at(str(tmp_path)).free) < 1 << 30
    assert room_at("/proc/sys").read_only in (True, False)


MOUNTS: Final = """\
21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
22 21 0:20 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
23 22 0:21 / /run/with\\040blank rw - ramfs none rw
24 21 0:22 / /runner rw - xfs /dev/sdb rw
nonsense
25 21
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib/x", "ext4"),
        ("/run", "tmpfs"),
        ("/run/keydist", "tmpfs"),
        ("/run/with blank/x", "ramfs"),
        ("/runner/x", "xfs"),
        ("/runners", "ext4"),
    ],
)
def test_what_a_path_is_on(path: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOUNTS", write(tmp_path / "mounts", MOUNTS))
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    assert filesystem_of(path) == kind


def test_what_a_path_is_on_where_that_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert filesystem_of("/") != ""
    monkeypatch.setattr(files, "_MOUNTS", str(tmp_path / "absent"))
    assert filesystem_of("/") == ""


def test_who_acts_as_another_is_back_afterwards_whatever_happens() -> None:
    me = os.geteuid()

    def fails() -> None:
        with acting_as(me or 65_534):
            assert os.geteuid() == (me or 65_534)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert os.geteuid() == me


# --- greetings ----------------------------------------------------------------------------------


@contextmanager
def speaking(words: bytes) -> Iterator[str]:
    """Listen, say something to who connects, and hang up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(words)

        ear = threading.Thread(target=talk, daemon=True)
        ear.start()
        yield f"nats://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        ear.join()


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"INFO\r\n",
        b"INFO []\r\n",
        b"INFO " + b"[" * 60_000 + b"\r\n",
        b'INFO {"tls_required":1}\r\n',
        b"\xff" * 200_000,
    ],
)
def test_a_server_may_say_anything(words: bytes) -> None:
    with speaking(words) as url:
        plain = greeting(url, None)
        assert (plain.in_clear, plain.offers, plain.tls) == (True, False, "")
        asked = greeting(url, TlsConfig())
        assert (asked.offers, asked.tls) == (False, "")
        assert asked.error


@pytest.mark.parametrize(("name", "offers", "demands"), [("tls_required", True, True), ("tls_available", True, False)])
def test_what_a_greeting_says_of_tls(name: str, *, offers: bool, demands: bool) -> None:
    with speaking(b'INFO {"%s":true}\r\n' % name.encode()) as url:
        found = greeting(url, None)
        assert (found.in_clear, found.offers, found.demands) == (True, offers, demands)


@contextmanager
def trickling(begin: bytes) -> Iterator[int]:
    """Listen, and say something to who connects, then one byte after the other, for ever."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    with peer, suppress(OSError):
                        peer.sendall(begin)
                        while not ended.wait(0.05):
                            peer.sendall(b"x")

        ear = threading.Thread(target=talk, daemon=True)
        ear.start()
        yield server.getsockname()[1]
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        ear.join()


def test_a_server_that_says_a_byte_now_and_then_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "_SECONDS", 0.5)
    with trickling(b"INFO {") as port:
        assert "timed out" in greeting(f"nats://127.0.0.1:{port}", None, seconds=0.5).error
    for begin in (b"", b"HTTP/1.0 200 OK\r\nX: ", b"HTTP/1.0 200 OK\r\n\r\n"):
        with trickling(begin) as port:
            assert "timed out" in monitoring.synced(f"http://127.0.0.1:{port}").error


@pytest.mark.parametrize(
    "answer", [b"", b"\r\n\r\n", b"HTTP/1.0 abc\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n[" + b"[" * 60_000]
)
def test_a_monitor_may_say_anything(answer: bytes) -> None:
    with speaking(answer) as url:
        assert monitoring.synced(url.replace("nats", "http")).error


def test_a_server_that_never_speaks_is_not_waited_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"nats://127.0.0.1:{server.getsockname()[1]}"
        assert "TLS handshake" in greeting(url, None, seconds=0.5).error
        assert "timed out" in greeting(url, TlsConfig(), seconds=0.5).error


@pytest.mark.parametrize(
    ("url", "address", "local"),
    [
        ("nats://127.0.0.1:4333", ("127.0.0.1", 4333), True),
        ("tls://[::1]:4333", ("::1", 4333), True),
        ("tls://[::1]", ("::1", 4222), True),
        ("nats://localhost", ("localhost", 4222), True),
        ("nats://n1.example", ("n1.example", 4222), False),
        ("nats://10.0.0.1:1", ("10.0.0.1", 1), False),
    ],
)
def test_an_address(url: str, address: tuple[str, int], *, local: bool) -> None:
    assert address_of(url) == address
    assert is_local(url) == local


# --- dates --------------------------------------------------------------------------------------


def test_until_when_files_are_good(tmp_path: Path) -> None:
    short, long = (certificate(tmp_path, name, days=days) for name, days in (("short", 10), ("long", 99)))
    both = write(tmp_path / "both", Path(str(short.cert_file)).read_text() + Path(str(long.cert_file)).read_text())
    assert term_of_chain(both, "x") == (START, START + 10 * 86_400)
    assert term_of_authorities(both, "x") == (START, START + 99 * 86_400)
    assert term_of_creds(write(tmp_path / "creds", creds(USER, expires=START))) == (None, START)
    assert term_of_creds(write(tmp_path / "creds", creds(USER))) == (None, None)
    assert term_of_der(b"junk") is None


LOOKS: Final[dict[str, Callable[[str], Term]]] = {
    "chain": lambda path: term_of_chain(path, "x"),
    "authorities": lambda path: term_of_authorities(path, "x"),
    "creds": term_of_creds,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("text", ["", "junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é"])
def test_files_that_say_no_date(text: str, look: Callable[[str], Term], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        look(write(tmp_path / "file", text))


@pytest.mark.parametrize(
    ("here", "there"),
    [
        pytest.param(b"\x18\x0f2119", b"\x18\x0f0000", id="a year that no calendar has"),
        pytest.param(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x0a", id="a version that no standard has"),
    ],
)
def test_a_certificate_that_cannot_be(here: bytes, there: bytes, tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert(Path(str(certificate(tmp_path, "until-2119").cert_file)).read_text())
    impossible = der.replace(here, there)
    assert impossible != der
    assert term_of_der(impossible) is None
    for look in (term_of_chain, term_of_authorities):
        with pytest.raises(ConfigError, match="no certificate that can be read"):
            look(write(tmp_path / "file", ssl.DER_cert_to_PEM_cert(impossible)), "x")


def test_a_certificate_with_a_serial_number_below_zero_is_read_in_silence(tmp_path: Path) -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(Path(str(certificate(tmp_path, "x", days=9).cert_file)).read_text()))
    serial = der.index(b"\xa0\x03\x02\x01\x02") + 7
    der[serial] |= 0x80
    assert term_of_der(bytes(der)) == (START, START + 9 * 86_400)
    assert term_of_chain(write(tmp_path / "file", ssl.DER_cert_to_PEM_cert(bytes(der))), "x") == term_of_der(bytes(der))


@pytest.mark.parametrize("jwt", ["x", "a.b.c", "a.W10.c", "a." + "W" * 40_000 + ".c"])
def test_a_jwt_of_nats_that_cannot_be_read(jwt: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no JWT that can be read"):
        term_of_creds(write(tmp_path / "creds", creds_text(jwt, "SU")))


@pytest.mark.parametrize(
    ("stamp", "at"),
    [
        ("2020-01-01T00:00:00Z", START),
        ("2020-01-01T00:00:00.5Z", START + 0.5),
        ("2020-01-01T01:00:00.123456789+01:00", START + 0.123456),
        ("2020-01-01T00:00:00", None),
        ("junk", None),
        (None, None),
        (7, None),
    ],
)
def test_a_servers_time(stamp: object, at: float | None) -> None:
    assert unix_of(stamp) == at


# --- streams ------------------------------------------------------------------------------------


async def test_streams_as_a_server_describes_them(nats_server: EmbeddedServer, bucket: str) -> None:
    connection, clock = Connection(Server(urls=(nats_server.url,), node="n1")), SystemClock()
    names = Names(bucket, "signing-key", "n1")
    try:
        wanted = wanted_streams(bucket, trail=True)
        assert list(wanted) == [f"KV_{bucket}", f"KV_{bucket}-nodes", f"{bucket}-audit"]
        assert list(wanted_streams(bucket, trail=False)) == list(wanted)[:2]
        name = f"KV_{bucket}"
        assert (await describe_stream(connection, clock, name, wanted[name])).seen is None
        assert await last_stored(connection, names) is None
        store = NatsKeysetStore(connection, bucket=bucket, entry="signing-key")
        await store.create_bucket()
        found = await describe_stream(connection, clock, name, wanted[name])
        assert found.seen is not None
        assert (found.seen.problems, found.seen.replicas, found.seen.peers) == ((), 1, ())
        assert found.offset is not None
        assert abs(found.offset.ahead) <= found.offset.error + 0.05
        before = clock.now()
        await store.write_first(b"x")
        at = await last_stored(connection, names)
        assert at is not None
        assert before <= at <= clock.now()
    finally:
        await connection.close()
