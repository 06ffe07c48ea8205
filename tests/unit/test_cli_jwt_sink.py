"""`keydist jwt sink`: one JWT in a file, and the process that holds it, as a service manager runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from keydist.core.own_jwt import own_jwt
from tests.material import Change, extend
from tests.unit.agent_host import eventually
from tests.unit.jwt_node import ISSUER, JwtNode, key_of

SUB = ("--sub", "app", "--aud", "api")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> JwtNode:
    return JwtNode(tmp_path, monkeypatch, capsys)


def test_once_writes_one_and_leaves(node: JwtNode, tmp_path: Path) -> None:
    out = tmp_path / "jwt"
    for _ in range(2):
        answer = node.run("jwt", "sink", "--out", str(out), *SUB, "--renew-at", "1m", "--once")
        assert (answer.code, answer.out, answer.err) == (0, "", "")
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        assert node.verify(out.read_bytes(), "--quiet").code == 0
        assert not out.read_bytes().endswith(b"\n")  # it goes into headers as it is


def test_what_a_redirected_mint_left_is_taken_over(node: JwtNode, tmp_path: Path) -> None:
    out = tmp_path / "jwt"
    out.write_text(node.run("jwt", "mint", *SUB).out, encoding="ascii")
    assert out.read_bytes().endswith(b"\n")
    assert node.run("jwt", "sink", "--out", str(out), *SUB, "--once").code == 0
    assert node.verify(out.read_bytes(), "--quiet").code == 0


MISTAKES: dict[str, tuple[tuple[str, ...], int]] = {
    "no file": (SUB, 2),
    "an empty file name": (("--out", "", *SUB), 2),
    "standard output": (("--out", "-", *SUB), 2),
    "no audience": (("--out", "jwt", "--sub", "app"), 2),
    "renewed too late": (("--out", "jwt", *SUB, "--renew-at", "15m"), 2),
    "renewed at once": (("--out", "jwt", *SUB, "--renew-at", "0"), 2),
    "too long a lifetime": (("--out", "jwt", *SUB, "--lifetime", "2d"), 2),
    "over somebody's file": (("--out", "keydist.yaml", *SUB), 78),
    "over a directory": (("--out", ".", *SUB), 78),
    "over a pipe": (("--out", "pipe", *SUB), 78),
    "over a device": (("--out", "/dev/null", *SUB), 78),
}


@pytest.mark.parametrize(("arguments", "code"), MISTAKES.values(), ids=MISTAKES)
def test_what_cannot_work_ends_at_once(
    node: JwtNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    before = node.config.read_bytes()
    for once in (("--once",), ()):
        answer = node.run("jwt", "sink", *arguments, *once)
        assert (answer.code, answer.out) == (code, "")
        assert answer.err
    assert node.config.read_bytes() == before
    assert Path("/dev/null").is_char_device()


def test_once_says_why_there_is_none(node: JwtNode, tmp_path: Path) -> None:
    (node.state / "confirmed.json").unlink()
    assert node.run("jwt", "sink", "--out", str(tmp_path / "jwt"), *SUB, "--once").code == 75
    assert node.run("jwt", "sink", "--out", "/nowhere/jwt", *SUB, "--once").code == 75
    node.confirm()
    assert node.run("jwt", "sink", "--out", "/nowhere/jwt", *SUB, "--once").code == 73


# --- the process --------------------------------------------------------------------------------


class Process:
    """A sink as a service manager runs it; `said` is what the manager was told."""

    def __init__(self, node: JwtNode, out: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(node.directory / "notify"))
        self._socket.setblocking(False)
        self.log = node.directory / "log"
        self.text = ""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "keydist", "jwt", "sink", "--out", str(out), *SUB],
                env=os.environ | {"NOTIFY_SOCKET": str(node.directory / "notify")},
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
            )

    def said(self) -> str:
        while True:
            try:
                self.text += self._socket.recv(4096).decode() + "\n"
            except BlockingIOError:
                return self.text

    def end(self) -> tuple[int, float]:
        """Return the exit code after SIGTERM, and how long that took."""
        asked = time.monotonic()  # noqa: TID251 - a real process
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=20)
        self.said()
        self._socket.close()
        return code, time.monotonic() - asked  # noqa: TID251


def test_a_sink_is_ready_with_its_file_follows_the_key_and_ends_when_told(node: JwtNode, tmp_path: Path) -> None:
    node.configure(issuer=ISSUER, nats={"servers": ["nats://127.0.0.1:1"]})
    out = tmp_path / "jwt"
    running = Process(node, out)

    def held_by(kid: str) -> Callable[[], bool]:
        return lambda: out.exists() and own_jwt(out.read_text(encoding="ascii")).kid == kid

    try:
        eventually(lambda: "READY=1" in running.said(), within=30)
        assert held_by(key_of(node.held).kid)()
        first = out.read_text(encoding="ascii")
        after = extend(node.held, Change.REVOKE_ACTIVE)
        node.install(after)
        node.held = after
        node.confirm()
        eventually(held_by(key_of(after).kid), within=30)
        assert node.verify(first, "--quiet").code == 65
    finally:
        code, seconds = running.end()
    assert code == 0
    assert seconds < 5
    assert "STOPPING=1" in running.text
    assert out.exists()
    events = [json.loads(line) for line in running.log.read_text(encoding="utf-8").splitlines()]
    assert [event["event"] for event in events] == ["jwt-kept", "jwt-kept"]
    text = running.log.read_text(encoding="utf-8") + running.text
    assert not [part for part in first.split(".") if part in text]


def swap(out: Path, *, link: bool) -> None:
    """Put a copy of a file in its place, or a link to another one."""
    beside = out.with_name("beside")
    if link:
        beside.symlink_to(out.with_name("elsewhere"))
    else:
        shutil.copy2(out, beside)
    beside.rename(out)


SOMEBODY: dict[str, Callable[[Path], object]] = {
    "removes it": lambda out: out.unlink(),
    "writes to it": lambda out: out.write_text("junk", encoding="ascii"),
    "replaces it by its like": lambda out: swap(out, link=False),
    "lets others read it": lambda out: out.chmod(0o644),
    "links it elsewhere": lambda out: swap(out, link=True),
}


def test_a_file_that_somebody_took_is_made_anew(node: JwtNode, tmp_path: Path) -> None:
    node.configure(issuer=ISSUER, nats={"servers": ["nats://127.0.0.1:1"]})
    out = tmp_path / "jwt"
    elsewhere = out.with_name("elsewhere")
    elsewhere.write_text("somebody's", encoding="ascii")
    running = Process(node, out)

    def kept() -> int:
        return running.log.read_text(encoding="utf-8").count('"jwt-kept"')

    try:
        for times, (what, happens) in enumerate(SOMEBODY.items(), start=1):
            eventually(lambda times=times: kept() == times, within=60)  # type: ignore[misc]
            happens(out)
            eventually(lambda times=times: kept() == times + 1, within=60)  # type: ignore[misc]
            assert not out.is_symlink(), what
            assert stat.S_IMODE(out.stat().st_mode) == 0o600, what
            assert node.verify(out.read_bytes(), "--quiet").code == 0, what
    finally:
        code, _ = running.end()
    assert code == 0
    assert elsewhere.read_text(encoding="ascii") == "somebody's"
    events = [json.loads(line) for line in running.log.read_text(encoding="utf-8").splitlines()]
    told = [event["why"].removeprefix("somebody ") for event in events if event["event"] == "jwt-lost"]
    assert told == ["removed the file", *["changed the file"] * (len(SOMEBODY) - 1)]
