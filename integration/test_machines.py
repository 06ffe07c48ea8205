"""Machines on one network: they know and reach each other, go on and off, and nothing of them is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from integration.machine import children, skip_unless_possible
from integration.machines import Machines

_REPOSITORY: Final = Path(__file__).parent.parent
_LISTEN: Final = """
import socket
with socket.create_server(("", 7000)) as server:
    while True:
        with server.accept()[0] as peer:
            peer.sendall(socket.gethostname().encode())
"""
_LISTENING: Final[dict[str, str | bytes]] = {
    "/root/listen": f"#!/usr/bin/python3\n{_LISTEN}",
    "/etc/systemd/system/listen.service": "[Service]\nExecStart=/root/listen\n",
    "/etc/systemd/system/machine.target.d/listen.conf": "[Unit]\nWants=listen.service\n",
}
_ASK: Final = "import socket, sys; print(socket.create_connection((sys.argv[1], 7000), 1).recv(99).decode())"
_MAKE: Final = """
import sys, time
from pathlib import Path
from integration.machines import Machines

with Machines(Path(sys.argv[1]), {"a": {}, "b": {}}, off=["b"]):
    print("booted", flush=True)
    time.sleep(60)
"""

pytestmark = pytest.mark.timeout(90)


def test_they_reach_each_other_by_name_as_far_as_they_are_on(tmp_path: Path) -> None:
    skip_unless_possible()
    with Machines(tmp_path, {"a": _LISTENING, "b": _LISTENING}, off=["b"]) as machines:
        a, b = machines["a"], machines["b"]

        def who_answers(name: str) -> str:
            return a.run("python3", "-c", _ASK, name, check=False).stdout.strip()

        def until_answers(name: str) -> None:
            a.until(lambda: who_answers(name) == name, f"{name} to answer")

        until_answers("a")
        assert who_answers("b") == ""
        b.write("/etc/motd", "written while it was off")
        b.switch_on()
        until_answers("b")
        here = [*machines.enter, sys.executable, "-c", _ASK, machines.address("b")]
        assert subprocess.run(here, capture_output=True, check=True).stdout == b"b\n"
        for off in (b.switch_off, b.lose_power):
            off()
            assert who_answers("b") == ""
            b.switch_on()
            until_answers("b")
            assert b.read("/etc/motd") == b"written while it was off"


def test_nothing_is_left_of_them_when_who_made_them_is_killed(tmp_path: Path) -> None:
    skip_unless_possible()
    command = [sys.executable, "-c", _MAKE, str(tmp_path)]
    with subprocess.Popen(command, cwd=_REPOSITORY, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "booted\n"
        made = _descendants(maker.pid)
        assert len(made) > 3
        assert len(_control_groups(maker.pid)) == 1  # the other machine is off
        maker.kill()
    deadline = time.monotonic() + 10
    while left := [f"process {pid}" for pid in made if Path(f"/proc/{pid}").exists()] + _control_groups(maker.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    own = children(pid)
    return [*own, *(below for child in own for below in _descendants(child))]


def _control_groups(maker: int) -> list[str]:
    look = f"mount -t cgroup2 machine /sys/fs/cgroup && find /sys/fs/cgroup -maxdepth 1 -name 'keydist-{maker}-*'"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", look], capture_output=True, check=True, text=True)
    return done.stdout.split()
