"""The embedded nats-server: found, started on a free loopback port, stopped, killed, restarted, wiped."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import sysconfig
from pathlib import Path

import pytest

from keydist.adapters import embedded
from keydist.adapters.embedded import EmbeddedServer, find_server
from keydist.errors import ConfigError, UnreachableError


def accepts(server: EmbeddedServer) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


def test_a_server_starts_stops_and_keeps_its_port(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "deep" / "nats")
    server.start()
    try:
        port, pid = server.port, server.pid or 0
        assert server.url == f"nats://127.0.0.1:{port}"
        assert accepts(server)
        assert os.getpgid(pid) not in (0, os.getpgid(0))  # Ctrl-C does not reach it
        server.stop()
        assert (server.pid, accepts(server)) == (None, False)
        server.start()
        assert (server.port, accepts(server)) == (port, True)
        assert server.pid not in (None, pid)
        server.stop(kill=True)
        assert not accepts(server)
    finally:
        server.stop()


def test_two_servers_do_not_meet(tmp_path: Path) -> None:
    one, two = EmbeddedServer(tmp_path / "one"), EmbeddedServer(tmp_path / "two", jetstream=False)
    one.start()
    two.start()
    try:
        assert one.port != two.port
        assert (tmp_path / "one" / "store").is_dir()
        assert not (tmp_path / "two" / "store").exists()
    finally:
        one.stop()
        two.stop()


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    try:
        tables = [Path(f"/proc/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6")]
        sockets = [line.split()[1] for table in tables for line in table.splitlines()[1:] if line.split()[3] == "0A"]
        assert [one for one in sockets if one.endswith(f":{server.port:04X}")] == [f"0100007F:{server.port:04X}"]
    finally:
        server.stop()


def test_wiping_removes_what_was_stored(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.wipe()  # nothing there yet
    server.start()
    server.stop()
    assert (tmp_path / "store").exists()
    server.wipe()
    assert not (tmp_path / "store").exists()


def test_a_configuration_that_is_refused_is_told_at_once(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, extra="no_such_setting { ")
    with pytest.raises(UnreachableError, match="did not start") as caught:
        server.start()
    assert str(tmp_path) in caught.value.fix
    assert server.pid is None


def test_a_server_that_never_listens_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n", encoding="ascii")
    sleeper.chmod(stat.S_IRWXU)
    monkeypatch.setattr(embedded, "find_server", lambda: str(sleeper))
    monkeypatch.setattr(embedded, "_START_SECONDS", 0.1)
    server = EmbeddedServer(tmp_path / "nats")
    with pytest.raises(UnreachableError):
        server.start()
    assert server.pid is None


def test_a_server_that_ignores_the_request_to_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_STOP_SECONDS", 0.1)
    server = EmbeddedServer(tmp_path)
    server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert not accepts(server)


def test_the_server_beside_python_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nats-server").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert find_server() == str(tmp_path / "nats-server")


def test_else_the_one_on_path_and_else_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: "/nowhere")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert find_server() == "/usr/bin/nats-server"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError) as caught:
        find_server()
    assert "keydist[embedded]" in caught.value.fix


@pytest.mark.parametrize("text", ["", "{", "{}", '{"nats": []}', '{"nats": ["nats://127.0.0.1:x"]}'])
def test_a_ports_file_that_is_not_complete_yet_is_read_again(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.ports").write_text(text, encoding="utf-8")
    assert embedded._written_port(tmp_path) == 0
