"""What commands that write an epoch share: their options, their ports, and how their waits are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import typer

from keydist import wiring
from keydist.adapters.duration import parse_duration
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.systemd import ServiceManager
from keydist.cli.command import tell_trouble
from keydist.cli.progress import Progress
from keydist.cli.render import tell
from keydist.core.accept import Held
from keydist.core.restart import Role
from keydist.errors import ConfigError, KeydistError, UsageError
from keydist.services.command import Command
from keydist.services.node import Node
from keydist.services.waiting import Acknowledgement
from keydist.wiring import Machine

T = TypeVar("T")
NOT_YET: Final = 75
PATIENCE: Final = "2m"
_NAMED: Final = 4

WaitOption = Annotated[bool, typer.Option("--wait", help="Return when every live node has acknowledged.")]
TimeoutOption = Annotated[
    str, typer.Option("--timeout", metavar="TIME", help="How long to wait, for each of its waits, at most.")
]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="NODE", help="Do not wait for this node, and leave it behind; may be repeated."),
]


def operate(node: Machine, work: Callable[[Command], Awaitable[T]]) -> T:
    """Run a coroutine that needs the store and the fleet's records, and close both behind it.

    Raises first why the token file cannot be used: what would come of that later names a token that is not missing.
    """
    if node.token_error is not None:
        raise node.token_error
    import asyncio  # noqa: PLC0415 - commands without a store do without

    progress = Progress(ServiceManager({}))

    async def run() -> T:
        store, records = wiring.open_ports(node.config)[:2]
        ports = Node(
            store=store,
            disk=node.disk,
            clock=node.clock,
            demands=node.demands,
            role=Role(node.config.role),
            audit=wiring.auditor(node, tell_trouble),
        )
        command = Command(
            node=ports,
            records=records,
            entropy=SystemEntropy(),
            heartbeat=node.config.heartbeat,
            told=lambda what, left: progress.waiting(what, seconds_left=left),
        )
        try:
            return await work(command)
        finally:
            progress.done()
            await store.close()

    return asyncio.run(run())


def seconds_of(text: str, option: str) -> float:
    """Return the seconds of a duration that the command line gives. Raises `UsageError`."""
    try:
        return float(parse_duration(text))
    except ConfigError as exc:
        raise UsageError(
            f"{option} is a time", expected=exc.expected, found=exc.found, fix=f"write it as {option}=90s, 15m or 30d"
        ) from exc


def tell_behind(behind: int | None, held: Held) -> None:
    """Say that a plan is made on a keyset that this node does not have yet."""
    if behind is not None:
        has = f"has epoch {behind}" if behind else "has no keyset"
        tell(f"keydist: this node {has}, the store epoch {held.keyset.epoch}: the command takes that first")


def tell_unreadable(names: tuple[str, ...]) -> None:
    """Say whose records cannot be opened: whether they follow is not known."""
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        tell(
            f"keydist: warning: records that cannot be opened do not count: {', '.join(names[:_NAMED])}{more};"
            " compare the token files (keydist token inspect), or remove a dead node's: keydist node forget NAME"
        )


def tell_acknowledged(found: Acknowledgement, what: str) -> int:
    """Say who follows `what`, such as "epoch 7", and who does not; return the exit code of a change that was made."""
    if found.blind is not None:
        tell(f"keydist: the change is made, but who follows cannot be seen: {found.blind}")
    if found.lacking:
        tell(
            f"keydist: the change is made, but not acknowledged by: {', '.join(found.lacking)};"
            " see keydist status --fleet; nothing is to be repeated: they take it when they can"
        )
    if found.blind is not None or found.lacking:
        return NOT_YET
    if found.by:
        tell(f"keydist: every live node uses {what}: {', '.join(found.by)}")
    else:
        tell(f"keydist: nobody acknowledged {what}: no node says that it lives (keydist agent runs nowhere)")
    return 0


def alarms_json(*alarms: KeydistError) -> list[dict[str, str]]:
    """Return alarms as a program reads them."""
    return [alarm.as_json() for alarm in alarms]
