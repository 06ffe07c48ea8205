"""The hosts that tests cut off: who hears whom, with everything let through, parted, deaf and mute."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest

from integration.network import Network, move_to

HOSTS = ("a", "b", "c")
HERE = "here"
PORT = 4000
SECONDS = 0.1
ALL = set(permutations((*HOSTS, HERE), 2))


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network(HOSTS) as made:
        yield made


@pytest.fixture(scope="module")
def sockets(network: Network) -> Iterator[dict[str, socket.socket]]:
    def bound(name: str) -> socket.socket:
        if name != HERE:
            move_to(network.place(name))  # a socket stays where it was made, whoever uses it
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", PORT))  # noqa: S104 - of a host of its own
        made.settimeout(SECONDS)
        return made

    found = {}
    for name in (*HOSTS, HERE):
        with ThreadPoolExecutor(1) as thread:  # only that thread is moved
            found[name] = thread.submit(bound, name).result()
    yield found
    for one in found.values():
        one.close()


def heard(network: Network, sockets: dict[str, socket.socket]) -> set[tuple[str, str]]:
    """Return who is heard by whom, as pairs."""
    addresses = {name: network.address(name) for name in HOSTS} | {HERE: network.here}
    for sender, to in ALL:
        sockets[sender].sendto(sender.encode(), (addresses[to], PORT))
    found = set()
    for name, one in sockets.items():
        try:
            while True:
                found.add((one.recv(16).decode(), name))
        except TimeoutError:
            pass
    return found


def between(names: set[str], others: set[str]) -> set[tuple[str, str]]:
    return {(one, other) for one, other in ALL if one in names and other in others}


def test_a_switch_parts_hosts_together_alone_and_in_one_direction(
    network: Network, sockets: dict[str, socket.socket]
) -> None:
    def now() -> set[tuple[str, str]]:
        return heard(network, sockets)

    assert now() == ALL
    network.cut("a", "b")
    assert now() == ALL - between({"a", "b"}, {"c", HERE}) - between({"c", HERE}, {"a", "b"})
    network.heal()
    assert now() == ALL
    network.cut("a")
    network.cut("b")
    assert now() == ALL - between({"a"}, {*HOSTS, HERE}) - between({"b"}, {*HOSTS, HERE}) - {
        (one, other) for one, other in ALL if other in "ab"
    }
    network.heal()
    network.deafen("a")
    assert now() == ALL - between({*HOSTS, HERE}, {"a"})
    network.heal()
    network.mute("a")
    assert now() == ALL - between({"a"}, {*HOSTS, HERE})
    network.heal()
    assert now() == ALL
