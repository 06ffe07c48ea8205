"""`keydist status --fleet`: who lives, what they hold, what is wrong with them; read once, or watched."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.systemd import ServiceManager
from keydist.cli.command import held_local
from keydist.cli.fleet_table import Frame
from keydist.cli.fleet_words import row_facts
from keydist.cli.operate import operate
from keydist.cli.progress import Progress
from keydist.cli.render import print_json, print_line, tell_alarms
from keydist.cli.screen import open_screen
from keydist.cli.status import facts, own_alarms
from keydist.cli.times import date
from keydist.errors import TransientError
from keydist.services.status import Standing, standing, worst
from keydist.services.survey import Survey

if TYPE_CHECKING:
    from keydist.cli.screen import Screen
    from keydist.core.accept import Held
    from keydist.errors import KeydistError
    from keydist.services.command import Command
    from keydist.services.survey import Look
    from keydist.wiring import Machine

MOST_SECONDS: Final = 120.0
_DRAW_SECONDS: Final = 1.0
_APPEND_SECONDS: Final = 10.0
_READ_AGAIN: Final = 5.0


class FleetOptions(NamedTuple):
    """How to look: `seconds` to listen at most, 0 for the first sight alone."""

    seconds: float
    watch: bool
    as_json: bool


def run(node: Machine, options: FleetOptions) -> int:
    """Show the fleet, and return the exit code of the worst that was found."""
    node.token()
    held_local(node)

    async def work(command: Command) -> int:
        view = _View(node, command)
        await view.survey.begin()
        if options.watch:
            await _watch(view, as_json=options.as_json)
        return await _once(view, options)

    return operate(node, work)


class _View:
    """One node's look at the fleet, and at itself."""

    def __init__(self, node: Machine, command: Command) -> None:
        self.node = node
        self.command = command
        self.survey = Survey(command.node, command.records)
        self.local = held_local(node)
        self.stands = Standing(found=None, alarms=())

    @property
    def held(self) -> Held:
        """What the fleet is measured by."""
        if self.local.held is None:  # pragma: no cover - held_local raises
            raise AssertionError
        return self.local.held

    async def measure(self, *alarms: KeydistError) -> None:
        """See how this node stands now, with what the fleet says about overdue phases."""
        self.local = held_local(self.node)
        survey = self.survey
        own = own_alarms(self.node, self.local, self.node.disk.notes(), live=survey.live(), records=survey.records())
        self.stands = await standing(self.command.node, self.local, *own, *alarms)

    def frame(self, look: Look) -> Frame:
        """Return what is to be shown."""
        config = self.node.config
        now = self.node.clock.now()
        return Frame(look=look, held=self.held, now=now, title=f"fleet of {config.cluster}, seen by {config.node}")

    def facts(self, look: Look) -> dict[str, object]:
        """Return what `--json` tells."""
        own = facts(self.node, self.local, self.node.disk.notes(), self.stands)
        healthy = not self.exit_code(look)
        fleet = {"live": len(look.living), "states": dict(look.states()), "not_heard": list(look.pending)}
        return own | {"fleet": fleet, "nodes": [row_facts(row) for row in look.rows], "healthy": healthy}

    def exit_code(self, look: Look) -> int:
        """Return the code of the worst that was found, here or elsewhere."""
        return worst((self.stands.exit_code, look.exit_code))


async def _once(view: _View, options: FleetOptions) -> int:
    screen = open_screen(sys.stdout, os.environ)
    is_drawn = screen.is_live and not options.as_json
    progress = Progress(ServiceManager({}))

    def shown(look: Look, left: float) -> None:
        heard = len(look.rows) - len(look.pending)
        if is_drawn:
            screen.show(view.frame(look), note=f"listening, {left:.0f} s left at most; without waiting: --quick")
        elif sys.stderr is not None and sys.stderr.isatty():
            progress.waiting(
                f"listening: {heard} of {len(look.rows)} heard; without waiting: --quick", seconds_left=left
            )

    if options.seconds > 0:
        with screen if is_drawn else nullcontext():
            await view.survey.listen(view.held, seconds=options.seconds, shown=shown)
    progress.done()
    await view.measure()
    look = view.survey.look(view.held)
    tell_alarms(view.stands.alarms)
    if options.as_json:
        print_json(view.facts(look))
    else:
        screen.keep(view.frame(look))
    return view.exit_code(look)


async def _watch(view: _View, *, as_json: bool) -> None:
    """Show the fleet again and again, until it is interrupted; a store that does not answer is an alarm."""
    screen, clock = open_screen(sys.stdout, os.environ), view.node.clock
    is_drawn = screen.is_live and not as_json
    with screen if is_drawn else nullcontext():
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(view.survey.ask())
            if not is_drawn:  # what is printed stays: not before there are answers
                await asking
            read_at = clock.monotonic()
            await view.measure()
            while True:
                if clock.monotonic() >= read_at + _READ_AGAIN:
                    await view.measure(*await _again(view.survey))
                    read_at = clock.monotonic()
                look = view.survey.look(view.held)
                if as_json:
                    print_json(view.facts(look))
                elif is_drawn:
                    screen.show(view.frame(look), alarms=view.stands.alarms, note=f"{date(clock.now())}; Ctrl-C ends")
                else:
                    _append(view, look, screen)
                await clock.sleep(_DRAW_SECONDS if is_drawn else _APPEND_SECONDS)


async def _again(survey: Survey) -> tuple[KeydistError, ...]:
    try:
        await survey.again()
    except TransientError as exc:
        return (exc,)
    return ()


def _append(view: _View, look: Look, screen: Screen) -> None:
    print_line(date(view.node.clock.now()))
    tell_alarms(view.stands.alarms)
    screen.keep(view.frame(look))
    print_line("")
