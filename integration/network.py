"""Hosts in network namespaces of their own on one switch, to be cut off and healed; this process is on the switch too.

    with Network(["a", "b", "c"]) as network:
        subprocess.Popen([*network.enter("a"), "nats-server", "-a", network.address("a")])
        network.cut("a", "b")
        network.heal()

The switch drops what it should not let through, and tells nobody: nothing is refused, nothing arrives, and every cable
looks plugged in. Needs root, and nftables with its bridge family.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from integration.opened import Opened

_NET: Final = 0x40000000  # CLONE_NEWNET
_NAMESPACES: Final = Path("/run/netns")
_RULES: Final = "bridge switch passing"
_DROP: Final = "ether type != arp drop"
"""ARP passes, as behind a router: else a kernel finds out by itself after three seconds that nobody is there."""


class Network(Opened):
    """The switch, and a host for each name, with addresses that no other process's network has."""

    def __init__(self, hosts: Iterable[str]) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nft") is None:
            pytest.skip("network namespaces take root, iproute2 and nftables")
        self._own = f"kd{os.getpid()}"
        self._numbers = {name: number for number, name in enumerate(hosts, 2)}
        self._subnet = f"10.{100 + os.getpid() // 250 % 100}.{os.getpid() % 250}"

    def start(self) -> None:
        """Make all of it. Skips the test where the kernel or the container does not let it."""
        try:
            self._make()
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"no network namespaces here: {exc.stderr.strip()}")

    def _make(self) -> None:
        # In a namespace of its own: what filters this machine's packets filters those of its bridges too.
        _ip("netns", "add", self._own)
        _ip("-n", self._own, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._own, "link", "set", "switch", "up")
        _ip("link", "add", self._own, "type", "veth", "peer", "name", "port1", "netns", self._own)
        _ip("address", "add", f"{self.here}/24", "dev", self._own)
        _ip("link", "set", self._own, "up")
        _ip("-n", self._own, "link", "set", "port1", "master", "switch", "up")
        for name, number in self._numbers.items():
            host, port = self._namespace(name), f"port{number}"
            _ip("netns", "add", host)
            _ip("-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self._own)
            _ip("-n", self._own, "link", "set", port, "master", "switch", "up")
            _ip("-n", host, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "link", "set", "lo", "up")
        self._filter("add table bridge switch", f"add chain {_RULES} {{ type filter hook forward priority 0; }}")

    def close(self) -> None:
        """Remove all of it; processes that still run there keep a namespace without a cable."""
        subprocess.run(["ip", "link", "delete", self._own], check=False, capture_output=True)
        for name in (self._own, *map(self._namespace, self._numbers)):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    @property
    def here(self) -> str:
        """The address of this process."""
        return f"{self._subnet}.1"

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
        """Part these hosts, which reach each other as before, from all the others and from this process."""
        self.deafen(*names)
        self.mute(*names)

    def deafen(self, *names: str) -> None:
        """Let nothing arrive at these hosts but what they send each other; what they send arrives."""
        inside = self._ports(names)
        self._filter(f"add rule {_RULES} iifname != {inside} oifname {inside} {_DROP}")

    def mute(self, *names: str) -> None:
        """Let nothing that these hosts send arrive but at each other; what is sent to them arrives."""
        inside = self._ports(names)
        self._filter(f"add rule {_RULES} iifname {inside} oifname != {inside} {_DROP}")

    def heal(self) -> None:
        """Let everything through again."""
        self._filter(f"flush chain {_RULES}")

    def _ports(self, names: Iterable[str]) -> str:
        return "{ " + ", ".join(f"port{self._numbers[name]}" for name in names) + " }"

    def _filter(self, *commands: str) -> None:
        """Carry out all of these at once, or none."""
        nft = ["ip", "netns", "exec", self._own, "nft", "-f", "-"]
        subprocess.run(nft, input="\n".join(commands), check=True, capture_output=True, text=True)

    def _namespace(self, name: str) -> str:
        return f"{self._own}-{self._numbers[name]}"


def move_to(place: str) -> None:
    """Move this process to a host; its threads must not have been started yet."""
    with open(place, "rb") as namespace:  # noqa: PTH123 - its descriptor is what is wanted
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _NET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot move to {place}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
