"""What happens to the store, to disks and to keysets: accidents, attacks without the token, an operator's commands."""

from __future__ import annotations

from typing import Final

from keydist.core.accept import Held
from keydist.core.genesis import FreshKeys
from keydist.core.keyset import Keyset, State
from keydist.core.rotation import Situation, activation, room
from keydist.core.successor import resealed, revoked, rotated
from keydist.errors import DiskFullError, KeydistError
from tests.fakes.memory_disk import MemoryFolder
from tests.material import IMPOSTOR as IMPOSTOR_TOKEN
from tests.material import OTHER_TOKEN, altered, hold, noise, pkcs8
from tests.properties.cluster_model.disk import Backup
from tests.properties.cluster_model.node import HEARTBEAT, Machine
from tests.properties.cluster_model.promises import Promises
from tests.properties.cluster_model.world import World

LOSSES: Final = ("roll back", "delete", "purge", "wipe", "drop")
FORGERIES: Final = ("replay", "altered", "spliced", "impostor")
COMMANDS: Final = ("rotate", "revoke active", "revoke next", "revoke retired", "revoke all", "reseal")


# --- the store ----------------------------------------------------------------------------------


def lose(world: World, what: str, states: int = 1) -> None:
    """Let the store forget."""
    world.history.has_forgotten = True
    match what:
        case "roll back":
            world.bucket.roll_back(states)
            return
        case "delete":
            world.bucket.delete()
        case "purge":
            world.bucket.purge()
        case "wipe":
            world.bucket.wipe()
        case _:
            world.bucket.drop()
    world.bucket.remember()


def forge(world: World, what: str, number: int) -> None:
    """Let somebody without the token write."""
    if not world.captured or not world.bucket.exists:
        return
    world.history.has_forgotten = True
    old, latest = world.captured[number % len(world.captured)], world.captured[-1]
    match what:
        case "replay":
            data = old
        case "altered":
            data = altered(latest, len(latest) // 2)
        case "spliced":
            data = b".".join((*latest.split(b".")[:2], *old.split(b".")[2:]))
        case _:
            held = world.history.written[max(world.history.written)].held
            data = hold(resealed(held, now=held.keyset.issued), token=IMPOSTOR_TOKEN).envelope
    world.bucket.put(data)
    world.bucket.remember()


def part_ways(world: World, first: Machine, second: Machine, epochs: int) -> None:
    """Let the store forget what one leader wrote while it is down, and another write something else."""
    command(world, first, "reseal")
    first.crash()
    lose(world, "roll back")
    for _ in range(epochs):
        command(world, second, "reseal")
    first.start()
    world.look(first)


# --- disks --------------------------------------------------------------------------------------


def back_up(world: World, node: Machine) -> None:
    world.backups = [*world.backups, (node.name, node.disk.back_up())][-4:]


def restore(world: World, promises: Promises, number: int) -> None:
    """Put one node's disk back to what a backup of it holds; its processes start anew."""
    if world.backups:
        name, backup = world.backups[number % len(world.backups)]
        _replace(world, promises, world.nodes[name], backup)


def replace_disk(world: World, promises: Promises, node: Machine) -> None:
    """Give a node a new, empty disk."""
    _replace(world, promises, node, Backup(MemoryFolder(), None))


def _replace(world: World, promises: Promises, node: Machine, backup: Backup) -> None:
    world.history.has_forgotten = True
    node.crash()
    node.disk.put_back(backup)
    node.restart_library()
    promises.forget(node)
    node.start()


def fail_disk(node: Machine, *, behind: bool) -> None:
    """Let one write to a node's disk fail, before or after it took effect."""
    if behind:
        node.disk.fail_behind()
    else:
        node.disk.fail(DiskFullError("no space is left"))


def fill_disk(node: Machine) -> None:
    """Let every write to a node's disk fail until it is mended."""
    node.disk.fail(*[DiskFullError("no space is left")] * 1000)


# --- an operator --------------------------------------------------------------------------------


def command(world: World, node: Machine, what: str) -> KeydistError | None:
    """Let an operator give a command on a node."""
    held = node.held
    if held is None or (what == "rotate" and not _may_rotate(world, node, held)):
        return None
    token = OTHER_TOKEN if what == "reseal" else None
    return world.command(node, lambda now_held, now: _built(world, what, now_held, now), token=token)


def _may_rotate(world: World, node: Machine, held: Held) -> bool:
    if node.agent is None:
        return False
    reader = node.agent.reader
    try:
        node._run(reader.refresh())
    except KeydistError:  # pragma: no cover - `_run` returns it
        return False
    situation = Situation(
        held=held, notes=node.disk.notes(), now=node.clock.now(), live=reader.live(), records=reader.records()
    )
    settled = reader.settles_in(HEARTBEAT, since=0) <= 0
    return settled and activation(situation).is_open and room(situation) is None


def _fresh(world: World) -> FreshKeys:
    number = len(world.history.written) * 2 + len(world.keepsakes)
    name = f"operator {number} {world.time.passed}"
    return FreshKeys(pkcs8=pkcs8(name), secret=noise(f"secret {name}", 32), secret_kid=noise(f"kid {name}", 16))


def _built(world: World, what: str, held: Held, now: int) -> Keyset:
    fresh = _fresh(world)
    if what == "reseal":
        return resealed(held, now=now)
    if what == "rotate":
        return rotated(held, now=now, alg="EdDSA", fresh=fresh)
    state = {"revoke active": State.ACTIVE, "revoke next": State.NEXT, "revoke retired": State.RETIRED}.get(what)
    kids = {key.kid for key in held.keyset.keys if state is None or key.state is state}
    second = FreshKeys(
        pkcs8=pkcs8(f"second {fresh.secret_kid.hex()}"),
        secret=noise(f"second {fresh.secret_kid.hex()}", 32),
        secret_kid=noise(f"second kid {fresh.secret_kid.hex()}", 16),
    )
    return revoked(held, now=now, kids=kids, reason="model", alg="EdDSA", fresh=(fresh, second))
