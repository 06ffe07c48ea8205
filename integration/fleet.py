"""Agents as real processes, one a node of a `Cluster`: started, killed, watched from their disks and their logs.

    with Fleet(cluster, settings={...}) as fleet:
        fleet.start()
        fleet.kill("f-03")
        fleet.start_agent("f-03")

An agent dies with the test. Its log is `<node>/agent.log`, over all its starts.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Generic, Self

from typing_extensions import TypeVar

from integration.cluster import Cluster
from integration.network import move_to
from integration.nodes import Home, Node, processes
from keydist.cli.main import main
from keydist.core.accept import Held
from keydist.core.local import Local

_DIE_WITH_PARENT: Final = 1  # prctl(2)
_LOOK_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 30.0


def become(arguments: list[str], log: str, place: str | None = None) -> None:
    """Become keydist with these arguments, for as long as the parent lives; all that it prints is added to `log`.

    `place` is a host of a `Network`; None: where the tests run.
    """
    if place is not None:
        move_to(place)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server of forks ignores it
    import sys  # noqa: PLC0415 - the arguments of a process that is about to be another

    sys.argv = ["keydist", *arguments]
    main()


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """When a node was away (unix seconds): from its end until it had confirmed its epoch after the next start."""

    node: str
    ended: float
    confirmed: float


class Member:
    """One node and the process of its agent."""

    def __init__(self, node: Node, place: str | None = None) -> None:
        self.node = node
        self._place = place
        self.ended: float | None = time.time()
        """Since when it is away; None once it has confirmed its epoch since it was started."""
        self.starts = 0
        self._started = 0.0
        self._has_confirmed_before = False
        self._log_before = 0
        self._process: BaseProcess | None = None

    def start(self) -> None:
        self.starts += 1
        self._started = time.time()
        self._has_confirmed_before = self.node.load().confirmation is not None
        self._log_before = self.log.stat().st_size if self.log.exists() else 0
        arguments = ["agent", "--config", str(self.node.configure())]
        self._process = processes.Process(target=become, args=(arguments, str(self.log), self._place))
        self._process.start()

    @property
    def log(self) -> Path:
        return self.node.directory / "agent.log"

    @property
    def pid(self) -> int | None:
        """The process id of a running agent."""
        return self._process.pid if self._process is not None else None

    def has_ended(self) -> bool:
        """Tell whether it ended although nobody asked it to."""
        return self._process is not None and not self._process.is_alive()

    def end(self, number: signal.Signals) -> int | None:
        """Send a signal, wait for the end and return the exit code."""
        process, self._process = self._process, None
        if process is None or process.pid is None:
            return None
        if self.ended is None:
            self.ended = time.time()
        os.kill(process.pid, number)
        process.join(_PATIENCE_SECONDS)
        code = process.exitcode
        assert code is not None, f"{self.node.name} does not end"
        process.close()
        return code

    def reload(self) -> None:
        """Let a running agent read its configuration and its token again."""
        if self._process is not None and self._process.pid is not None:
            self.wait_started()
            os.kill(self._process.pid, signal.SIGHUP)

    def wait_started(self) -> None:
        """Return when a running agent has come so far that a signal is more to it than its end."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._process is not None and b'"event":"started"' not in self._told():
            assert time.monotonic() < deadline, f"{self.node.name} does not start"
            time.sleep(_LOOK_SECONDS)

    def _told(self) -> bytes:
        """Return what it logged since it was started."""
        return self.log.read_bytes()[self._log_before :] if self.log.exists() else b""

    def confirmed(self) -> bool:
        """Tell whether it confirmed its epoch since it was started."""
        if self._process is None:
            return False
        found = self.node.load().confirmation
        if found is None or not self._has_confirmed_before:
            return found is not None
        return found.at > self._started  # in whole seconds: never too soon

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what its agents told, oldest first; a line that a kill cut short is left out."""
        for line in self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else ():
            try:
                found = json.loads(line)
            except ValueError:
                yield {"event": "unreadable", "line": line}
                continue
            yield found

    def alarms(self) -> Counter[str]:
        """Return the codes of the alarms that stand, by what its last agent told."""
        standing: Counter[str] = Counter()
        for event in self.events():
            if event["event"] in ("started", "reloaded"):
                standing.clear()
            elif event["event"] == "alarm":
                standing[event["code"]] += 1
            elif event["event"] == "alarm-over":
                standing[event["code"]] -= 1
        return +standing

    def memory(self) -> int:
        """Return how much memory is its own (kB), none of what it shares with others."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text("ascii")
        return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))


HomeT = TypeVar("HomeT", bound=Home, default=Cluster)


class Fleet(Generic[HomeT]):
    """The agents of all leaders and followers of a cluster; `settings` go into every configuration.

    `places` are the hosts of a `Network` that they run on, by name.
    """

    def __init__(
        self, cluster: HomeT, *, settings: Mapping[str, object], places: Mapping[str, str] | None = None
    ) -> None:
        self.cluster = cluster
        self.members = {
            name: Member(replace(cluster.node(name), more=settings), (places or {}).get(name))
            for name in (*cluster.leaders, *cluster.followers)
        }
        self.absences: list[Absence] = []
        for member in self.members.values():
            member.node.configure()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.members:
            self.kill(name)

    # --- life ----------------------------------------------------------------------------------

    def start(self, names: Iterable[str] | None = None, *, seconds: float = _PATIENCE_SECONDS) -> None:
        """Start these agents (all that do not run) and return when each has confirmed an epoch."""
        for name in self.members if names is None else names:
            if self.members[name].pid is None:
                self.start_agent(name)
        self.wait_confirmed(seconds)

    def start_agent(self, name: str) -> None:
        """Start one agent and return at once."""
        self.members[name].start()

    def kill(self, name: str) -> None:
        """kill -9."""
        self.members[name].end(signal.SIGKILL)

    def stop(self, name: str) -> None:
        """End an agent as a service manager does; it must end well."""
        self.members[name].wait_started()
        assert self.members[name].end(signal.SIGTERM) in (0, None)

    def wipe(self, name: str) -> None:
        """Kill an agent and remove its state directory, as a lost disk does."""
        self.kill(name)
        shutil.rmtree(self.members[name].node.state, ignore_errors=True)  # there may be nothing yet

    def note_confirmed(self) -> tuple[str, ...]:
        """Note who is back, and return who is away still."""
        away = []
        for name, member in self.members.items():
            if member.ended is None:
                continue
            if member.confirmed():
                self.absences.append(Absence(node=name, ended=member.ended, confirmed=time.time()))
                member.ended = None
            else:
                away.append(name)
        return tuple(away)

    def check_alive(self) -> None:
        """Fail where an agent ended that nobody ended."""
        ended = [name for name, member in self.members.items() if member.has_ended()]
        assert not ended, f"agents ended by themselves: {ended}; see {self.cluster.directory}/nodes/*/agent.log"

    def spans(self) -> dict[str, list[tuple[float, float]]]:
        """Return when each node was away (unix seconds), until now for who still is."""
        away: dict[str, list[tuple[float, float]]] = {name: [] for name in self.members}
        for absence in self.absences:
            away[absence.node].append((absence.ended, absence.confirmed))
        for name, member in self.members.items():
            if member.ended is not None:
                away[name].append((member.ended, time.time()))
        return away

    # --- waiting -------------------------------------------------------------------------------

    def wait_confirmed(self, seconds: float = _PATIENCE_SECONDS) -> None:
        """Return when every agent that runs has confirmed an epoch since its start."""
        running = {name for name, member in self.members.items() if member.pid is not None}
        self.until(lambda: not running & set(self.note_confirmed()), "all agents to confirm their epoch", seconds)

    def wait_epoch(self, epoch: int, seconds: float = _PATIENCE_SECONDS) -> None:
        """Return when all disks hold this epoch or a later one."""
        self.until(lambda: min(self.epochs().values()) >= epoch, f"epoch {epoch} on all disks", seconds)

    def wait_same(self, seconds: float = _PATIENCE_SECONDS) -> Held:
        """Return the one keyset that all disks hold, as soon as they do."""
        found: list[Held] = []

        def look() -> bool:
            held = self.held()
            found[:] = held.values()
            return len(held) == len(self.members) and len({one.digest for one in found}) == 1

        self.until(look, "one keyset on all disks", seconds)
        return found[0]

    def until(self, holds: Callable[[], bool], what: str, seconds: float = _PATIENCE_SECONDS) -> float:
        """Return after how many seconds something held; fail where it did not in time, or an agent ended."""
        start = time.monotonic()
        while not holds():
            self.check_alive()
            assert time.monotonic() < start + seconds, f"waiting for {what}: not within {seconds:g} s: {self.shown()}"
            time.sleep(_LOOK_SECONDS)
        return time.monotonic() - start

    def wait_quiet(self, seconds: float = _PATIENCE_SECONDS) -> None:
        """Return when no alarm stands anywhere."""
        found: dict[str, Counter[str]] = {}

        def look() -> bool:
            found.clear()
            found.update({name: member.alarms() for name, member in self.members.items()})
            return not any(found.values())

        try:
            self.until(look, "every alarm to be over", seconds)
        except AssertionError as exc:
            standing = {name: dict(codes) for name, codes in found.items() if codes}
            raise AssertionError(f"{exc}; alarms: {standing}") from exc

    # --- looking -------------------------------------------------------------------------------

    def load(self, name: str) -> Local:
        """Return what a node's disk holds."""
        return self.members[name].node.load()

    def held(self) -> dict[str, Held]:
        """Return the keysets on all disks that have one."""
        found = {name: self.load(name).held for name in self.members}
        return {name: held for name, held in found.items() if held is not None}

    def epochs(self) -> dict[str, int]:
        """Return the live epoch of each disk, 0 where there is none."""
        return {name: live_epoch(member.node.state) for name, member in self.members.items()}

    def shown(self) -> str:
        """Return one line on how the nodes stand."""
        return ", ".join(f"{name}: {epoch}" for name, epoch in self.epochs().items())


def live_name(state: Path) -> str:
    """Return what a state directory's link names, "" where there is none: another one at each installation."""
    try:
        return (state / "live").readlink().name
    except OSError:
        return ""


def live_epoch(state: Path) -> int:
    """Return the epoch that a state directory's link names, 0 where there is none."""
    return int(live_name(state).partition("-")[0] or 0)
