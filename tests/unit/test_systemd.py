"""What the service manager is told: whole datagrams, never an error, nothing where it does not listen."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keydist.adapters.systemd import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager that listens, and where."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = str(tmp_path / "notify") if request.param == "path" else f"@keydist-test-{tmp_path.name}"
        listening.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listening.settimeout(5)
        yield listening, name


def test_a_wait_shows_why_and_asks_for_time(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager
    ServiceManager({"NOTIFY_SOCKET": name}).waiting("no server\nREADY=1", seconds_left=29.5)
    assert listening.recv(4096) == b"STATUS=waiting: no server READY=1\nEXTEND_TIMEOUT_USEC=39500000"


def test_readiness_is_told_with_a_status(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager
    ServiceManager({"NOTIFY_SOCKET": name}).ready("holds epoch 1\n(generated)")
    assert listening.recv(4096) == b"READY=1\nSTATUS=holds epoch 1 (generated)"


@pytest.mark.parametrize(
    ("tell", "expected"),
    [
        (lambda manager: manager.status("epoch 2\nREADY=1"), b"STATUS=epoch 2 READY=1"),
        (ServiceManager.stopping, b"STOPPING=1"),
        (ServiceManager.watchdog, b"WATCHDOG=1"),
    ],
    ids=["status", "stopping", "watchdog"],
)
def test_what_a_running_service_tells(
    manager: tuple[socket.socket, str], tell: Callable[[ServiceManager], None], expected: bytes
) -> None:
    listening, name = manager
    tell(ServiceManager({"NOTIFY_SOCKET": name}))
    assert listening.recv(4096) == expected


def test_a_reload_says_when_it_began(manager: tuple[socket.socket, str]) -> None:
    listening, name = manager
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    ServiceManager({"NOTIFY_SOCKET": name}).reloading()
    first, _, told = listening.recv(4096).decode().partition("\nMONOTONIC_USEC=")
    assert first == "RELOADING=1"
    assert before <= int(told) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "³"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
    ],
)
def test_the_watchdog_is_for_the_process_that_it_names(environ: dict[str, str], seconds: float | None) -> None:
    assert ServiceManager(environ).watchdog_seconds == seconds


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1", "/nowhere/notify", "@nobody", "/" + "x" * 200])
def test_a_manager_that_does_not_listen_stops_nobody(address: str | None) -> None:
    manager = ServiceManager({} if address is None else {"NOTIFY_SOCKET": address})
    manager.waiting("something", seconds_left=1)
    manager.ready("something")


def test_text_that_is_not_text_is_told_all_the_same(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")}).ready("a lone \udcff")
        assert listening.recv(4096) == b"READY=1\nSTATUS=a lone ?"
