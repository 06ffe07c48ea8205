"""Hosts in network namespaces of their own on one switch, to be cut off and healed; this process is on the switch too.

    with Network(["a", "b"]) as network:
        subprocess.Popen([*network.enter("a"), "nats-server", "-a", network.address("a")])
        network.cut("b")

A cut host is silent to all others, as behind a pulled cable: nothing is refused, nothing arrives. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

import pytest

_NET: Final = 0x40000000  # CLONE_NEWNET
_NAMESPACES: Final = Path("/run/netns")


class Network:
    """The switch, and a host for each name, with addresses from `subnet` (the first three numbers of IPv4)."""

    def __init__(self, hosts: Iterable[str], *, subnet: str = "10.89.7") -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            pytest.skip("network namespaces take root and iproute2")
        self._own = f"kd{os.getpid()}"
        self._numbers = {name: number for number, name in enumerate(hosts, 2)}
        self._subnet = subnet

    def __enter__(self) -> Self:
        try:
            self._make()
        except subprocess.CalledProcessError as exc:
            self.close()
            pytest.skip(f"no network namespaces here: {exc.stderr.strip()}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        _ip("link", "add", self._own, "type", "bridge")
        _ip("address", "add", f"{self._subnet}.1/24", "dev", self._own)
        _ip("link", "set", self._own, "up")
        for name in self._numbers:
            inside, outside = self._namespace(name), self._namespace(name)
            _ip("netns", "add", inside)
            _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", inside)
            _ip("link", "set", outside, "master", self._own, "up")
            _ip("-n", inside, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", inside, "link", "set", "eth0", "up")
            _ip("-n", inside, "link", "set", "lo", "up")

    def close(self) -> None:
        """Remove all of it; processes that still run there keep a namespace without a cable."""
        for name in self._numbers:
            for what in ("link", "netns"):
                subprocess.run(["ip", what, "delete", self._namespace(name)], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self._own], check=False, capture_output=True)

    def address(self, name: str) -> str:
        """Return a host's address."""
        return f"{self._subnet}.{self._numbers[name]}"

    def enter(self, name: str) -> list[str]:
        """Return what a command line begins with that runs on a host."""
        return ["ip", "netns", "exec", self._namespace(name)]

    def place(self, name: str) -> str:
        """Return what `move_to` takes."""
        return str(_NAMESPACES / self._namespace(name))

    def cut(self, *names: str) -> None:
        """Pull the cables of hosts."""
        for name in names:
            _ip("link", "set", self._namespace(name), "down")

    def heal(self, *names: str) -> None:
        """Put the cables of hosts back."""
        for name in names:
            _ip("link", "set", self._namespace(name), "up")

    def _namespace(self, name: str) -> str:
        return f"{self._own}-{self._numbers[name]}"


def move_to(place: str) -> None:
    """Move this process to a host; its threads must not have been started yet."""
    with open(place, "rb") as namespace:  # noqa: PTH123 - its descriptor is what is wanted
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot move to {place}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
