"""Convergence: once everything is healed, all nodes come to one keyset, and it is rotated again.

Where it is a person's turn, nothing is asked: two histories, or a latest keyset that no leader and no store holds.
"""

from __future__ import annotations

from collections.abc import Callable

from keydist.core.accept import Demands, Held, open_held
from keydist.errors import KeydistError
from tests.material import PLACE
from tests.properties.cluster_model.node import TOKENS
from tests.properties.cluster_model.world import World

_ROUNDS = 16
_MOST_PATIENCE = 50


def heal(world: World) -> None:
    """End every fault, start every node, and let an administrator remove what is no keyset from the store."""
    world.records.arrive()
    world.records.exists = True
    for node in world.all:
        node.heal()
        if node.agent is None:
            node.start()
    if world.bucket.content() is not None and stored(world) is None:
        world.bucket.delete()
        world.bucket.remember()
        world.history.has_forgotten = True


def stored(world: World) -> Held | None:
    """Return the keyset in the store; None where there is nothing that opens."""
    content = world.bucket.content()
    if content is None:
        return None
    try:
        return open_held(content, Demands(place=PLACE, tokens=TOKENS))
    except KeydistError:
        return None


def expected(world: World) -> Held | None:
    """Return the keyset that every node must come to, or to a descendant of it; None where a person has to decide."""
    on_disk = [node.held for node in world.all]
    there = [held for held in (*on_disk, stored(world)) if held is not None]
    if not there:
        return None
    latest = max(there, key=lambda held: held.keyset.epoch)
    line = {latest.digest, *latest.keyset.ancestors}
    if any(held.digest not in line for held in there):
        return None
    at_hand = [stored(world), *(node.held for node in world.leaders)]
    is_at_hand = any(held is not None and held.digest == latest.digest for held in at_hand)
    return latest if is_at_hand else None


def converge(world: World, check: Callable[[], None]) -> None:
    """Heal everything and assert that the nodes come to one keyset, and rotate it."""
    heal(world)
    goal = expected(world)
    for _ in range(_ROUNDS):
        _second(world, check)
    if goal is None:
        return
    _assert_one(world, goal)
    kid = _active(world)
    for _ in range(_MOST_PATIENCE):
        if _active(world) != kid:
            break
        _second(world, check)
    assert _active(world) != kid, "nobody rotates any more"
    for _ in range(2):
        _second(world, check)
    _assert_one(world, goal)


def _active(world: World) -> str:
    held = world.all[0].held
    return "" if held is None else held.keyset.active.kid


def _second(world: World, check: Callable[[], None]) -> None:
    world.time.advance(1)
    world.round()
    check()


def _assert_one(world: World, goal: Held) -> None:
    for node in world.all:  # a leader may have written something a moment ago
        world.look(node)
    found = {node.name: node.held for node in world.all}
    digests = {held.digest if held is not None else b"" for held in (*found.values(), stored(world))}
    epochs = {name: held.keyset.epoch if held is not None else None for name, held in found.items()}
    assert len(digests) == 1, f"the nodes do not come to one keyset: {epochs}"
    held = next(iter(found.values()))
    assert held is not None
    assert goal.digest in (held.digest, *held.keyset.ancestors), "what all nodes hold does not descend from the latest"
