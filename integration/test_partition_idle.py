"""Followers that ask nothing for half a minute, as configured by default, behind a network that swallows everything.

Nothing tells them, and what the servers sent meanwhile comes again later and later. A revocation that was written while
they were cut off reaches them within 5 s of the healing all the same; and where only their server was cut off, they
find another one by themselves.

`KEYDIST_TEST_PARTITION_SECONDS` (15) is for how long a follower is cut off: "5,10,20" for all three.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from integration import monitor
from integration.parted import SERVERS, Parted
from keydist.cli.operate import NOT_YET

SECONDS: Final = tuple(int(text) for text in os.environ.get("KEYDIST_TEST_PARTITION_SECONDS", "15").split(","))
LEADER: Final = "lead-1"
FOLLOWERS: Final = ("f-1", "f-2")
_HEALED: Final = 5.0
_GIVEN_UP: Final = 8.0
"""A link over which nothing is asked."""
_CONNECT: Final = 5.0
_TRIES: Final = 4
_SLACK: Final = 2.0
"""For a busy machine."""

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parted]:
    directory = tmp_path_factory.mktemp("idle")
    with Parted.made(directory, leaders=[LEADER], followers=FOLLOWERS, settings={}) as made:
        yield made


def revoke(parted: Parted) -> int:
    """Revoke the key that signs, and return the epoch that says so.

    As an operator does, who runs the command again where NATS elected for longer than a command waits.
    """
    kid = parted.held(LEADER).keyset.active.kid

    def command() -> tuple[int, dict[str, Any]]:
        process = parted.command(LEADER, "key", "revoke", kid, "--reason", "a test", "--yes")
        answer = json.loads(process.communicate()[0])
        return process.returncode, answer

    tries = (command() for _ in range(_TRIES))
    code, answer = next((one for one in tries if one[0] != NOT_YET), (NOT_YET, {}))
    assert (code, answer.get("revoked")) == (0, [kid]), answer
    epoch: int = answer["epoch"]
    return epoch


def quiet(parted: Parted) -> None:
    """Return when everybody has looked at the store just now, and has no reason to look again soon."""
    revoke(parted)
    parted.fleet.wait_same()


def server_of(parted: Parted, node: str) -> str:
    """Return the server that a node is connected to."""
    for name in SERVERS:
        answer = monitor.ask(parted.secured.monitor_port, "connz", host=parted.network.address(name)) or {}
        if any(one.get("name") == f"keydist {node}" for one in answer.get("connections", [])):
            return name
    raise AssertionError(node)


@pytest.mark.parametrize("seconds", SECONDS)
def test_a_revocation_reaches_an_idle_follower_soon_after_it_was_cut_off(seconds: int, parted: Parted) -> None:
    quiet(parted)
    parted.network.cut("f-1")
    began = time.time()
    epoch = revoke(parted)
    parted.fleet.until(lambda: time.time() > began + seconds, "the cut to last", seconds=seconds + 30)
    assert parted.fleet.epochs() == {LEADER: epoch, "f-1": epoch - 1, "f-2": epoch}
    parted.network.heal()
    found = parted.fleet.until(lambda: parted.fleet.epochs()["f-1"] == epoch, "the revocation")
    alarms = [after for name, code, after in parted.alarms_since(began) if (name, code) == ("f-1", "unreachable")]
    print(f"revoked at an idle follower {found:.1f} s after a cut of {seconds} s, of which it told at", end=" ")
    print(", ".join(f"{after:.1f} s" for after in alarms[:1]) or "no time")
    assert found <= _HEALED
    within = _GIVEN_UP + _CONNECT + _SLACK
    assert seconds < within or any(after <= within for after in alarms), "who is cut off says so"


def test_an_idle_follower_whose_server_is_cut_off_finds_another_one(parted: Parted) -> None:
    quiet(parted)
    server = server_of(parted, "f-1")
    parted.network.cut(server)
    began = time.monotonic()
    try:
        epoch = revoke(parted)
        written = time.monotonic() - began
        parted.fleet.until(lambda: set(parted.fleet.epochs().values()) == {epoch}, "the revocation everywhere")
        found = time.monotonic() - began
    finally:
        parted.network.heal()
    print(f"written {written:.1f} s and revoked everywhere {found:.1f} s after a server was cut off")
    assert found <= max(written, _GIVEN_UP) + _CONNECT + _SLACK
