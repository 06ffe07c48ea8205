"""The demo from its first line to its verdict, with nothing left behind.

Ctrl-C, SIGTERM and a closed terminal cancel the one main task, which stops and removes everything on its way out.
Signals are only seen between steps of the event loop, so none comes between making something and knowing of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from keydist.adapters.clock import SystemClock
from keydist.cli.demo.cluster import DemoCluster
from keydist.cli.demo.play import Play
from keydist.cli.demo.screen import open_screen
from keydist.cli.demo.story import Scene, problems
from keydist.cli.render import fail, print_json, tell
from keydist.errors import DiskError, KeydistError, UsageError

_LEAST, _MOST = 2, 50
_SIGNALLED: Final = 128
_TRUST: Final = 65


def run_demo(*, nodes: int, as_json: bool = False) -> int:
    """Take a cluster of `nodes` through a first start, a stopped NATS and a lost store; return the exit code.

    0 only where every node held the same key throughout. With `as_json`, standard output is one JSON object.
    """
    demo = _Demo(nodes, as_json=as_json)
    try:
        return asyncio.run(demo.run())
    except asyncio.CancelledError:
        tell("keydist: interrupted; what the demo started is stopped and removed")
        return _SIGNALLED + demo.caught
    except KeydistError as exc:
        return fail(exc, as_json=as_json)
    except (OSError, BaseExceptionGroup) as exc:
        cause = _os_error(exc)
        if cause is None:
            raise
        if isinstance(cause, BrokenPipeError):  # `keydist demo | head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _SIGNALLED + signal.SIGPIPE
        return fail(
            DiskError(
                f"the demo stopped: {os.strerror(cause.errno or 0)}",
                fix="look at where its output goes, and at TMPDIR: that disk needs room",
            ),
            as_json=as_json,
        )


def _os_error(exc: BaseException) -> OSError | None:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc if isinstance(exc, OSError) else None


class _Demo:
    """One run; `caught` is the signal that ended it."""

    def __init__(self, nodes: int, *, as_json: bool) -> None:
        self._nodes = nodes
        self._as_json = as_json
        self._clock = SystemClock()
        self.caught = 0

    async def run(self) -> int:
        """Play every act, clean up, give the verdict, and return the exit code."""
        if not _LEAST <= self._nodes <= _MOST:
            raise UsageError(
                "a demo of that size is not possible",
                expected=f"{_LEAST} to {_MOST} nodes",
                found=str(self._nodes),
                fix="keydist demo --nodes 5",
            )
        self._listen_to_signals()
        screen = open_screen(sys.stderr if self._as_json else sys.stdout)
        began = self._clock.monotonic()
        cluster = DemoCluster.open()
        try:
            scenes = await Play(cluster, screen, self._nodes).all_acts()
        finally:
            cluster.close()
        seconds = self._clock.monotonic() - began
        found = problems(scenes)
        verdict = found[0] if found else f"one key, generated once, on every node in every phase ({seconds:.1f} s)"
        screen.line()
        screen.line(f"{'FAILED' if found else 'Verdict'}: {verdict}.", style="bold red" if found else "bold green")
        if self._as_json:
            print_json(_as_json(scenes, found, verdict=verdict, nodes=self._nodes, seconds=seconds))
        return _exit_code(scenes) if found else 0

    def _listen_to_signals(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: int) -> None:
            if not self.caught and task is not None:
                self.caught = number
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                loop.add_signal_handler(number, stop, number)


def _exit_code(scenes: Sequence[Scene]) -> int:
    """Return the exit code of the first node that failed, or that of a broken promise."""
    return next((start.exit_code for scene in scenes for start in scene.starts if start.exit_code), _TRUST)


def _as_json(
    scenes: Sequence[Scene], found: list[str], *, verdict: str, nodes: int, seconds: float
) -> dict[str, object]:
    first = scenes[0].starts[0]
    return {
        "ok": not found,
        "verdict": verdict,
        "problems": found,
        "nodes": nodes,
        "kid": first.kid,
        "epoch": first.epoch,
        "lineage": first.lineage,
        "seconds": round(seconds, 1),
        "rows": [start.as_json(scene.act) for scene in scenes for start in scene.starts],
    }
