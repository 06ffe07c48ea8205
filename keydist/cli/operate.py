"""What commands that write an epoch share: their options, their ports, and how their waits are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import typer

from keydist.adapters.duration import parse_duration
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.systemd import ServiceManager
from keydist.cli.progress import Progress
from keydist.cli.render import tell
from keydist.core.accept import Held
from keydist.core.restart import Role
from keydist.errors import ConfigError, UsageError
from keydist.services.command import Command, acknowledged
from keydist.services.node import Node
from keydist.wiring import Machine, open_ports

T = TypeVar("T")
NOT_YET: Final = 75
PATIENCE: Final = "2m"

WaitOption = Annotated[bool, typer.Option("--wait", help="Return when every live node has acknowledged.")]
TimeoutOption = Annotated[
    str, typer.Option("--timeout", metavar="TIME", help="How long to wait, for each of its waits, at most.")
]
WithoutOption = Annotated[
    list[str] | None, typer.Option("--without", metavar="NODE", help="Do not wait for this node; may be repeated.")
]


def operate(node: Machine, work: Callable[[Command], Awaitable[T]]) -> T:
    """Run a coroutine that needs the store and the fleet's records, and close both behind it."""
    import asyncio  # noqa: PLC0415 - commands without a store do without

    progress = Progress(ServiceManager({}))

    async def run() -> T:
        store, records = open_ports(node.config)
        ports = Node(store=store, disk=node.disk, clock=node.clock, demands=node.demands, role=Role(node.config.role))
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
        raise UsageError(f"{option} is a time", expected=exc.expected, found=exc.found) from exc


def tell_lacking(lacking: tuple[str, ...], held: Held) -> int:
    """Say who has not acknowledged a keyset, and return the exit code."""
    if not lacking:
        tell(f"keydist: every live node uses epoch {held.keyset.epoch}")
        return 0
    tell(f"keydist: the change is made, but not acknowledged by: {', '.join(lacking)}; see keydist status --fleet")
    return NOT_YET


async def wait_for_all(command: Command, held: Held, *, wanted: bool, seconds: float) -> tuple[str, ...]:
    """Wait for the acknowledgements where that was asked for; return who is missing."""
    return await acknowledged(command, held, seconds=seconds) if wanted else ()
