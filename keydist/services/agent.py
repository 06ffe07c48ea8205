"""The long-running part of a node: one task group that follows the store, tells the fleet, and, on a leader, leads.

What a part cannot do is an alarm, and is tried again; only a cancellation ends an agent, and then it says that it
leaves. The service manager is told READY once a verified keyset is on disk.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keydist.core.restart import OnDisk, Role
from keydist.core.rotation import Situation, overdue
from keydist.services.announce import Announcer, Self, announce, leave
from keydist.services.defect import defect
from keydist.services.fleet import FleetReader
from keydist.services.follow import follow, look
from keydist.services.lead import Leader, lead
from keydist.services.observe import on_disk
from keydist.services.pace import woken
from keydist.services.present import Present
from keydist.services.reconcile import Genesis, Reconciler
from keydist.services.status import clock_behind, rehearsal_alarm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import NoReturn

    from keydist.core.local import Local
    from keydist.errors import KeydistError
    from keydist.ports import Entropy, Journal, Listener, Manager, NodeRecords
    from keydist.services.insight import Insight
    from keydist.services.node import Node
    from keydist.services.reporting import Reporter

_PINGS: Final = 3
"""So often the watchdog is told that the node works, within the time in which once would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """Everything an agent needs. `resync` and `rehearse_every` in seconds.

    `others` run beside it; `own_alarms` is what they, and whoever wired it, have to say at the moment. `reporter` is
    told what there is to report; `insight` is what they see of it and may ask of it.
    """

    node: Node
    records: NodeRecords
    entropy: Entropy
    journal: Journal
    manager: Manager
    genesis: Genesis
    self_: Self
    resync: float
    rehearse_every: int
    listeners: tuple[Listener, ...] = ()
    others: tuple[Callable[[], Awaitable[None]], ...] = ()
    own_alarms: Callable[[], tuple[KeydistError, ...]] = tuple
    reporter: Reporter | None = None
    insight: Insight | None = None


async def run_agent(agent: Agent, local: Local, *, stays: Callable[[], bool]) -> NoReturn:
    """Run until cancelled. Unless `stays()` then, as for a reload, the fleet is told that the node leaves."""
    node, self_ = agent.node, agent.self_
    present = Present(clock=node.clock, disk=node.disk, journal=agent.journal, listeners=agent.listeners)
    reconciler = Reconciler(node, local, agent.genesis)
    announcer = Announcer(node, present, self_, entropy=agent.entropy)
    present.alarm("own", *agent.own_alarms())
    present.take(local, found=None, how="from-disk")
    if agent.reporter is not None:
        agent.reporter.present = present
    try:
        async with asyncio.TaskGroup() as tasks:
            if node.role is Role.LEADER:
                tasks.create_task(_lead(agent, present, reconciler))
            tasks.create_task(
                follow(node, reconciler, present, entropy=agent.entropy, notifier=agent.manager, resync=agent.resync)
            )
            tasks.create_task(announce(announcer, node, agent.records, present, self_, entropy=agent.entropy))
            tasks.create_task(_watch(agent, present, announcer))
            if agent.insight is not None:
                tasks.create_task(agent.insight.run(present, lambda: look(node, reconciler, present), node.clock))
            for number, other in enumerate(agent.others):
                tasks.create_task(_other(other, f"beside {number}", agent, present))
    finally:
        if not stays():
            await leave(announcer, agent.records, self_.name)
    raise AssertionError  # pragma: no cover - the tasks above never end by themselves


async def _other(run: Callable[[], Awaitable[None]], name: str, agent: Agent, present: Present) -> NoReturn:
    """Run what runs beside an agent, again where it ends; what it raised stands as an alarm until it lasts again."""

    async def lasts() -> None:
        await agent.node.clock.sleep(agent.self_.heartbeat)
        present.alarm(name)

    while True:
        try:
            async with asyncio.TaskGroup() as tasks:
                lasting = tasks.create_task(lasts())
                await run()
                lasting.cancel()
        except* Exception as group:  # noqa: BLE001 - a defect, whoever provokes it
            present.alarm(name, defect(group.exceptions[0], while_="something ran beside the agent"))
        await agent.node.clock.sleep(agent.self_.heartbeat)


async def _lead(agent: Agent, present: Present, reconciler: Reconciler) -> None:
    node, wake = agent.node, present.change()
    demands = node.demands
    reader = FleetReader(
        agent.records,
        node.clock,
        place=demands.place,
        tokens=demands.tokens,
        superseded=lambda: present.local.floor.superseded if present.local.floor else frozenset(),
    )
    leader = Leader(
        node,
        present,
        reader,
        records=agent.records,
        reconciler=reconciler,
        entropy=agent.entropy,
        heartbeat=agent.self_.heartbeat,
    )

    if agent.reporter is not None:
        agent.reporter.reader = reader

    def heard(name: str, record: bytes) -> None:
        reader.hear(name, record)
        if agent.reporter is not None:
            agent.reporter.heard()
        if leader.is_waiting:
            wake.set()

    agent.records.listen(heard=heard, answer=None)
    await lead(leader, node, present, entropy=agent.entropy, heartbeat=agent.self_.heartbeat, wake=wake)


async def _watch(agent: Agent, present: Present, announcer: Announcer) -> None:
    """Look after what only time brings about, and tell the service manager that the node works."""
    manager, changed, is_ready, is_listening = agent.manager, present.change(), False, False
    limit = 2 * agent.resync + 60
    while True:
        changed.clear()
        _look_after(agent, present)
        held = present.held
        if not is_listening and on_disk(present.local) is not OnDisk.NOTHING:
            # Not before: a listener that is silent forbids the first key that a node without one may wait for.
            agent.records.listen(heard=None, answer=announcer.answer)
            is_listening = True
        if held is not None:
            text = _summary(present)
            if is_ready:
                manager.status(text)
            else:
                manager.ready(text)
                is_ready = True
        if agent.node.clock.monotonic() - present.turned < limit:
            manager.watchdog()
        seconds = manager.watchdog_seconds
        await woken(changed, within=min(seconds / _PINGS if seconds else limit, agent.self_.heartbeat))


def _look_after(agent: Agent, present: Present) -> None:
    held, node = present.held, agent.node
    present.alarm("own", *agent.own_alarms())
    if held is None:
        return
    now, notes = node.clock.now(), present.notes()
    alarms = [*clock_behind(present.local, now)]
    if node.role is not Role.LEADER:  # a leader knows whom a rotation waits for
        alarms += overdue(Situation(held=held, notes=notes, now=now), leads=False)
    alarms += rehearsal_alarm(notes, now=now, every=agent.rehearse_every)
    present.alarm("time", *alarms)


def _summary(present: Present) -> str:
    held = present.held
    epoch = held.keyset.epoch if held is not None else 0
    alarms = present.alarms
    return f"epoch {epoch}" + (f", {len(alarms)} alarm(s): {alarms[0].message}" if alarms else ", healthy")
