"""`keydist status`: this node's epoch, keys, ages and alarms; healthy is exit code 0."""

from __future__ import annotations

from time import sleep as _pause  # noqa: TID251 - a person watches
from typing import TYPE_CHECKING, Annotated

import typer

from keydist.cli.command import ConfigOption, JsonOption, TokenOption, finish, no_keyset, this_node, with_store
from keydist.cli.operate import seconds_of
from keydist.cli.render import print_json, print_line, tell_alarms
from keydist.cli.times import age, ago, date
from keydist.core.restart import Role
from keydist.core.rotation import SCHEDULE
from keydist.errors import UsageError
from keydist.services.facts import Who, node_facts
from keydist.services.status import Schedule, Standing, by_time, schedule, standing

if TYPE_CHECKING:
    from keydist.core.local import Local
    from keydist.core.notes import Notes
    from keydist.core.record import Record
    from keydist.errors import KeydistError
    from keydist.services.node import Node
    from keydist.wiring import Machine

_WATCH_SECONDS = 2.0


def status(
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the store.")] = False,
    fleet: Annotated[bool, typer.Option("--fleet", help="Show every node; run it on a leader.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --fleet: what one reading shows, heard of or not.")
    ] = False,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", metavar="TIME", help="With --fleet: how long to listen, at most (default: as needed)."
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again, until Ctrl-C.")] = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show this node: its epoch, keys, ages and alarms. Exit 0 where healthy, else as the worst alarm says.

    With --fleet, every node: who lives answers within two seconds, whoever does not is waited for one heartbeat.

    Example: keydist status --fleet --watch
    """

    def work() -> int:
        _check(fleet=fleet, only_here=offline, only_fleet=quick or listen is not None)
        if fleet:
            from keydist.cli import fleet as fleets  # noqa: PLC0415 - it shows this node as well

            seconds = 0.0 if quick else fleets.MOST_SECONDS if listen is None else seconds_of(listen, "--listen")
            options = fleets.FleetOptions(seconds=seconds, watch=watch, as_json=as_json)
            return fleets.run(this_node(config, token_file), options)
        code = _once(this_node(config, token_file), offline=offline, as_json=as_json)
        while watch:
            _pause(_WATCH_SECONDS)
            code = _once(this_node(config, token_file), offline=offline, as_json=as_json)
        return code

    finish(work, as_json=as_json)


def _check(*, fleet: bool, only_here: bool, only_fleet: bool) -> None:
    if fleet and only_here:
        raise UsageError("--offline asks nobody, and --fleet asks everybody", fix="leave one of them out")
    if only_fleet and not fleet:
        raise UsageError("--quick and --listen are about the fleet", fix="give --fleet with them")


def _once(node: Machine, *, offline: bool, as_json: bool) -> int:
    local = node.load()
    if local.held is None and local.damage is None:
        raise no_keyset(node)
    notes, now = node.disk.notes(), node.clock.now()
    own = own_alarms(node, local, notes)

    async def ask(ports: Node) -> Standing:
        return await standing(ports, local, *own)

    is_alone = offline or not node.tokens
    found = Standing(found=None, alarms=(*local.alarms, *own)) if is_alone else with_store(node, ask)
    tell_alarms(found.alarms)
    if as_json:
        print_json(facts(node, local, notes, found))
    elif local.held is not None:
        _show(node, local, found, schedule(local.held, notes, now=now))
    return found.exit_code


def own_alarms(
    node: Machine, local: Local, notes: Notes, *, live: tuple[Record, ...] = (), records: tuple[Record, ...] = ()
) -> tuple[KeydistError, ...]:
    """Return what is wrong with a node, as far as it can tell without the store; see `by_time`."""
    now, every, leads = node.clock.now(), node.config.rehearse_every, Role(node.config.role) is Role.LEADER
    late = by_time(local, notes, now=now, rehearse_every=every, leads=leads, live=live, records=records)
    return (*(alarm for alarm in (local.damage, node.token_error) if alarm is not None), *late)


def facts(node: Machine, local: Local, notes: Notes, found: Standing) -> dict[str, object]:
    """Return what `keydist status --json` tells of this node."""
    who = Who(node=node.config.node, role=node.config.role, cluster=node.config.cluster)
    return node_facts(who, local, notes, found=found.found, alarms=found.alarms, now=node.clock.now())


def _show(node: Machine, local: Local, found: Standing, rotation: Schedule) -> None:
    if local.held is None:  # pragma: no cover - the caller asked
        return
    keyset, confirmed = local.held.keyset, local.confirmation
    now, skew = node.clock.now(), keyset.policy.skew
    rows = [
        ("node", f"{node.config.node}, {node.config.role} of {node.config.cluster}"),
        ("epoch", f"{keyset.epoch} of lineage {keyset.lineage}, issued {ago(now - keyset.issued, skew=skew)}"),
        ("token", local.held.token_id),
        ("store", found.found.value if found.found else "not asked"),
        ("confirmed", ago(now - confirmed.at, skew=skew) if confirmed else "never"),
        ("rotation", when(rotation, now=now)),
        ("health", "healthy" if not found.alarms else f"{len(found.alarms)} alarm(s)"),
    ]
    for name, value in rows:
        print_line(f"{name:<10} {value}")
    for key in keyset.keys:
        print_line(f"{key.use} {key.state:<8} {key.kid:<43}  {key.alg:<7}  created {date(key.created)}")


def when(rotation: Schedule, *, now: int) -> str:
    """Return when a rotation is due, for people."""
    if rotation.due is None:
        return "none by schedule"
    why = "" if rotation.why in (None, SCHEDULE) else f", because {rotation.why}"
    far = f"in {age(rotation.due - now)}" if rotation.due > now else f"since {age(now - rotation.due)}"
    gate = f"; not before {date(rotation.opens)}" if rotation.opens > max(rotation.due, now) else ""
    return f"due {date(rotation.due)} ({far}){why}{gate}"
