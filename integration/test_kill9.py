"""kill -9 at any moment of a bootstrap: the old keyset or the new one, whole; a restart finishes; one lineage.

The moments are swept from the first instruction after the gate to beyond the end, then drawn at random.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.nodes import Gate, Node
from keydist.adapters.embedded import EmbeddedServer
from keydist.core.accept import Held
from tests.material import Change, extend, first, hold

KILLS = int(os.environ.get("KEYDIST_TEST_KILLS", "24"))
pytestmark = pytest.mark.timeout(60 + 5 * KILLS)

Ask = Callable[..., dict[str, Any]]


def moments(whole: float) -> Iterator[float]:
    """Yield the seconds after which to kill: a sweep over the `whole` run, then as many at random."""
    for step in range(KILLS // 2):
        yield whole * step / (KILLS // 2 - 1)
    for _ in range(KILLS - KILLS // 2):
        yield random.uniform(0, whole)


def run_killed(node: Node, seconds: float) -> bool:
    """Run a node and kill it after so many seconds; tell whether it was still running."""
    gate = Gate(1)
    run = node.start(gate)
    gate.open()
    time.sleep(seconds)
    return run.kill()


def run_whole(node: Node) -> float:
    """Run a node to its end and return the seconds that it took after the gate."""
    gate = Gate(1)
    run = node.start(gate)
    gate.open()
    start = time.monotonic()
    run.answer()
    return time.monotonic() - start


def history(node: Node) -> tuple[Held, Held]:
    """Return two epochs that belong to a node's store."""
    one = hold(first().keyset, place=node.place)
    return one, hold(extend(one, Change.ROTATE).keyset, place=node.place)


def install(node: Node, *epochs: Held) -> None:
    node.directory.mkdir(parents=True, exist_ok=True)
    for held in epochs:
        node.disk.install(held, based_on=node.load(), now=1_700_000_000)


def held_by(node: Node) -> Held | None:
    """Return what a killed node holds; it must be whole, or there must be none."""
    local = node.load()
    if local.held is None:
        assert not (node.state / "live").is_symlink()
    return local.held


class Tally:
    """How often a kill came before, during and after the work."""

    def __init__(self) -> None:
        self.before = self.after = self.finished = 0

    def count(self, *, changed: bool, was_running: bool) -> None:
        self.before += not changed
        self.after += changed and was_running
        self.finished += not was_running

    def tell(self, what: str) -> None:
        print(f"{what}: {self.before} killed before, {self.after} after the change, {self.finished} had ended")
        assert self.before  # else the sweep says nothing


@pytest.fixture
def make(server: EmbeddedServer, tmp_path: Path) -> Callable[..., Node]:
    """Make nodes; each number has a bucket of its own."""

    def node(number: int, role: str, *, name: str = "node", kind: str) -> Node:
        bucket = f"{kind}-{number}"
        return Node(directory=tmp_path / bucket / name, url=server.url, bucket=bucket, role=role)

    return node


def test_genesis(make: Callable[..., Node], ask: Ask) -> None:
    tally = Tally()
    whole = run_whole(make(-1, "leader", kind="genesis"))
    for number, seconds in enumerate(moments(whole * 1.2)):
        node = make(number, "leader", kind="genesis")
        was_running = run_killed(node, seconds)
        held = held_by(node)
        info = ask("INFO", node.bucket)
        written = info.get("state", {}).get("last_seq", 0)
        assert written <= 1
        if held is not None:
            assert written == 1  # nothing is kept before it is stored
        tally.count(changed=bool(written), was_running=was_running)
        other = make(number, "leader", name="other", kind="genesis").run()
        restarted = node.run()
        assert (other["lineage"], other["kid"]) == (restarted["lineage"], restarted["kid"])
        assert held is None or held.keyset.lineage == restarted["lineage"]
        assert ask("INFO", node.bucket)["state"]["last_seq"] == 1
        assert node.run()["alarms"] == []
    tally.tell("genesis")


@pytest.mark.parametrize("is_first", [True, False], ids=["the first keyset", "a newer keyset"])
def test_acceptance(make: Callable[..., Node], ask: Ask, *, is_first: bool) -> None:
    tally, kind = Tally(), f"accept-{is_first}"
    whole = 0.0
    for number, seconds in enumerate([0.0, *moments(1.2)]):
        node = make(number, "follower", kind=kind)
        old, new = history(node)
        if not is_first:
            install(node, old)
        writer = make(number, "leader", name="writer", kind=kind)
        install(writer, old, new)
        assert writer.run()["outcome"] == "republished"
        if number == 0:
            whole = run_whole(node)
            continue
        was_running = run_killed(node, seconds * whole)
        held = held_by(node)
        assert held in ((None, new) if is_first else (old, new))
        tally.count(changed=held == new, was_running=was_running)
        restarted = node.run()
        assert restarted["epoch"] == 2
        assert node.load().held == new
        assert node.run()["alarms"] == []
        assert ask("INFO", node.bucket)["state"]["last_seq"] == 1
    tally.tell(f"acceptance of {'a first' if is_first else 'a newer'} keyset")


def test_putting_back(make: Callable[..., Node], ask: Ask) -> None:
    tally, whole = Tally(), 0.0
    for number, seconds in enumerate([0.0, *moments(1.2)]):
        node = make(number, "leader", kind="back")
        old, new = history(node)
        install(node, old, new)
        if number == 0:
            whole = run_whole(node)
            continue
        was_running = run_killed(node, seconds * whole)
        assert held_by(node) == new
        written = ask("INFO", node.bucket).get("state", {}).get("last_seq", 0)
        tally.count(changed=bool(written), was_running=was_running)
        restarted = node.run()
        assert restarted["outcome"] == ("unchanged" if written else "republished")
        follower = make(number, "follower", name="follower", kind="back").run()
        assert (follower["epoch"], follower["lineage"]) == (2, new.keyset.lineage)
        assert ask("INFO", node.bucket)["state"]["last_seq"] == 1
    tally.tell("putting back")
