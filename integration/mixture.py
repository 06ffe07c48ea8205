"""A random mixture of everything that goes wrong with NATS, over one small cluster: a program drawn from a seed.

The promises are watched all the time; at the end everything is brought back, and a cluster must be as it should be:
one keyset everywhere, a rotation that works, no alarm. What is broken does not stop the program: it is told at the end.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import nats.errors

from integration.cluster import Cluster
from integration.fleet import Fleet
from integration.healing import heal
from integration.nats_versions import binary
from integration.nodes import Run
from integration.promises import SETTINGS, Promises
from integration.replacement import Replacement
from integration.stores import SmallDisks, copy_store, put_store_back

LEADERS: Final = ("lead-1", "lead-2")
FOLLOWERS: Final = ("f-1", "f-2", "f-3")
SERVERS: Final = 3
_SECONDS: Final = 13.0
_PAUSE: Final = (0.1, 1.1)
_SERVER_AWAY: Final = (0.2, 3.0)
_AGENT_AWAY: Final = (0.1, 3.0)
_QUIET: Final = (0.0, 6.0)
_HEALED_SECONDS: Final = 120.0
_CODES: Final = frozenset({0, 2, 65, 75, 77})
"""How commands may end while a cluster is being broken. Not 70: a defect; not 73, 78: nothing is wrong with the node.

2: the key that is to be revoked left meanwhile. 65: what the store holds was put back to an earlier epoch. 77: the
other leader has not been given the new token yet.
"""
ACTIONS: Final[dict[str, int]] = {
    # what is done, and how often it is drawn
    "kill a server": 6,
    "stop a server": 2,
    "kill an agent": 6,
    "stop an agent": 2,
    "rotate": 4,
    "revoke": 3,
    "replace the token": 2,
    "wipe one store": 2,
    "wipe all stores": 1,
    "copy the stores": 3,
    "put one store back": 2,
    "put all stores back": 1,
    "fill a disk": 2,
    "fill all disks": 1,
    "wipe a follower": 2,
    "change a server's version": 3,
}


class Step(NamedTuple):
    """One step of a program: wait, then do it; `draw` decides what is left to decide (which server, for how long)."""

    pause: float
    action: str
    draw: int


def program(seed: int) -> list[Step]:
    """Return the steps that a seed stands for."""
    drawn = random.Random(seed)
    steps, seconds = list[Step](), 0.0
    while seconds < _SECONDS:
        [action] = drawn.choices(list(ACTIONS), list(ACTIONS.values()))
        steps.append(Step(drawn.uniform(*_PAUSE), action, drawn.getrandbits(32)))
        seconds += steps[-1].pause
    return steps


class Mixture:
    """One run. `did` counts what was done, `codes` how commands ended; `took` is what NATS needed to be well again."""

    def __init__(self, directory: Path, *, seed: int) -> None:
        self.seed = seed
        self.did: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.took: list[str] = []
        self.jwts: Counter[str] = Counter()
        self.epochs = 0
        self.healed = 0.0
        self._copies = directory / "copies"
        self._cluster = Cluster(directory / "cluster", leaders=LEADERS, followers=FOLLOWERS, servers=SERVERS)
        self._disks = SmallDisks(self._cluster, servers=SERVERS)
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._commands: dict[str, tuple[str, Run]] = {}
        self._copied: list[Path] = []
        self._operators: list[threading.Thread] = []
        self._away: set[str] = set()
        self._down: set[int] = set()
        self._quiet_until = 0.0
        self._replacement: Replacement | None = None

    def run(self) -> str:
        """Do it all and return what happened in one line; fail where a promise was broken."""
        with self._disks, self._cluster as cluster:
            asyncio.run(cluster.make_buckets())
            with Fleet(cluster, settings=SETTINGS) as self._fleet:
                self._fleet.start(seconds=_HEALED_SECONDS)
                with Promises(self._fleet) as self._promises:
                    try:
                        self._break()
                        self._heal()
                    except Exception as exc:
                        exc.add_note("\n".join(self._promises.broken) or "no promise was seen broken")
                        raise
                    finally:
                        self._count()
                self._promises.check()
                self._check_secrets()
        return self.shown()

    def shown(self) -> str:
        """Return what happened, in one line."""
        did = ", ".join(f"{name} {number}" for name, number in sorted(self.did.items()))
        took = ", ".join(self.took) or "servers and agents started"
        return f"seed {self.seed}: {did}; commands ended {dict(self.codes)}; healed in {self.healed:.1f} s ({took})"

    def _count(self) -> None:
        tally = self._promises.take()
        self.jwts = Counter(minted=tally.minted, verified=tally.verified, outside=tally.verified_outside)
        self.jwts["rejected, of keys that were revoked"] = tally.rejected.total()
        self.epochs = max(self._promises.history, default=0)

    # --- breaking ------------------------------------------------------------------------------

    def _break(self) -> None:
        for step in program(self.seed):
            until = time.monotonic() + step.pause
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(left, 0.05))
                self._bring_back(time.monotonic())
            self._draw = random.Random(step.draw)
            name = step.action.replace(" ", "_").replace("'", "")
            if getattr(self, f"_{name}")():
                self.did[step.action] += 1
            self._fleet.check_alive()

    def _bring_back(self, until: float) -> None:
        for due in [due for due in self._due if due[0] <= until]:
            self._due.remove(due)
            due[1]()
        for name, (_, run) in list(self._commands.items()):
            if until == float("inf") or not run.is_running():
                self._ended(name)
        self._fleet.note_confirmed()

    def _ended(self, name: str) -> None:
        what, run = self._commands.pop(name)
        code, answer = run.end()
        self.codes[f"{what} {code}"] += 1
        if code not in _CODES:
            self._promises.broken.append(f"{what} on {name} ended with {code}: {answer}")
        if what == "token" and code == 0 and self._replacement is not None:
            self._replacement.is_done = True

    def _later(self, away: tuple[float, float], back: Callable[[], None]) -> None:
        self._due.append((time.monotonic() + self._draw.uniform(*away), back))

    # servers

    def _running(self) -> list[int]:
        return [number for number in range(SERVERS) if number not in self._down]

    def _one_server(self) -> int | None:
        running = self._running()
        return self._draw.choice(running) if running and self._may_trouble_servers() else None

    def _may_trouble_servers(self) -> bool:
        """Tell whether the time between two troubles with servers is over, and draw the next: an election takes some.

        Else nothing would be shown but that nobody can write.
        """
        if time.monotonic() < self._quiet_until:
            return False
        self._quiet_until = time.monotonic() + self._draw.uniform(*_QUIET)
        return True

    def _server_comes_back(self, number: int) -> None:
        self._down.add(number)

        def back() -> None:
            self._down.discard(number)
            self._cluster.start_server(number)

        self._later(_SERVER_AWAY, back)

    def _with_a_server(self, work: Callable[[int], None]) -> bool:
        number = self._one_server()
        if number is None:
            return False
        work(number)
        self._server_comes_back(number)
        return True

    def _kill_a_server(self) -> bool:
        return self._with_a_server(self._cluster.kill)

    def _stop_a_server(self) -> bool:
        return self._with_a_server(self._cluster.stop_server)

    def _wipe_one_store(self) -> bool:
        return self._with_a_server(self._cluster.wipe)

    def _wipe_all_stores(self) -> bool:
        if not self._may_trouble_servers():
            return False
        for number in range(SERVERS):
            self._cluster.wipe(number)
        for number in self._running():
            self._server_comes_back(number)
        self._let_operator_make_buckets()
        return True

    def _copy_the_stores(self) -> bool:
        """Copy what is on the disks, of servers that run too, as a snapshot of a disk does."""
        copy = self._copies / str(len(self._copied))
        for number in range(SERVERS):
            copy_store(self._cluster, number, copy / str(number))
        self._copied.append(copy)
        return True

    def _put_back(self, number: int, copy: Path) -> None:
        put_store_back(self._cluster, number, copy / str(number))

    def _put_one_store_back(self) -> bool:
        if not self._copied:
            return False
        copy = self._draw.choice(self._copied)
        return self._with_a_server(lambda number: self._put_back(number, copy))

    def _put_all_stores_back(self) -> bool:
        if not self._copied or not self._may_trouble_servers():
            return False
        copy = self._draw.choice(self._copied)
        for number in range(SERVERS):
            self._put_back(number, copy)
        for number in self._running():
            self._server_comes_back(number)
        self._let_operator_make_buckets()
        return True

    def _fill(self, number: int) -> None:
        """Fill a disk under a running server. JetStream there ends for good; room and a restart bring it back."""
        self._disks.fill(number)
        self._down.add(number)

        def back() -> None:
            self._cluster.kill(number)
            self._disks.free(number)
            self._down.discard(number)
            self._cluster.start_server(number)

        self._later(_SERVER_AWAY, back)

    def _fill_a_disk(self) -> bool:
        number = self._one_server()
        if number is None:
            return False
        self._fill(number)
        return True

    def _fill_all_disks(self) -> bool:
        if not self._may_trouble_servers():
            return False
        for number in self._running():
            self._fill(number)
        return True

    def _change_a_servers_version(self) -> bool:
        to = self._draw.choice([None, "2.12", "2.10"])

        def work(number: int) -> None:
            self._cluster.stop_server(number)
            self._cluster.use(number, None if to is None else binary(to))

        return self._with_a_server(work)

    def _let_operator_make_buckets(self) -> None:
        """Streams are made by a person: in some seconds, once the servers are back, whatever else happens."""

        def work() -> None:
            with suppress(AssertionError, OSError, nats.errors.Error):
                asyncio.run(self._cluster.make_buckets())

        thread = threading.Thread(target=work, name="operator")
        thread.start()
        self._operators.append(thread)

    # nodes

    def _one_of(self, names: tuple[str, ...]) -> str | None:
        running = [name for name in names if name not in self._away]
        return self._draw.choice(running) if running else None

    def _with_an_agent(self, names: tuple[str, ...], work: Callable[[str], None]) -> bool:
        name = self._one_of(names)
        if name is None:
            return False
        work(name)
        self._away.add(name)

        def back() -> None:
            self._away.discard(name)
            self._fleet.start_agent(name)

        self._later(_AGENT_AWAY, back)
        return True

    def _kill_an_agent(self) -> bool:
        return self._with_an_agent((*LEADERS, *FOLLOWERS), self._fleet.kill)

    def _stop_an_agent(self) -> bool:
        return self._with_an_agent((*LEADERS, *FOLLOWERS), self._fleet.stop)

    def _wipe_a_follower(self) -> bool:
        return self._with_an_agent(FOLLOWERS, self._promises.forget)

    # commands: one at a time on a node, beside its agent or without it

    def _command(self, what: str, *arguments: str) -> bool:
        name = self._draw.choice(LEADERS)
        if name in self._commands:
            return False
        self._commands[name] = (what, self._fleet.members[name].node.start_command(*arguments))
        return True

    def _rotate(self) -> bool:
        return self._command("rotate", "key", "rotate", "--timeout", "5s")

    def _revoke(self) -> bool:
        kid = self._promises.latest().keyset.active.kid
        return self._command("revoke", "key", "revoke", kid, "--reason", "a test", "--yes")

    def _replace_the_token(self) -> bool:
        if self._replacement is None:
            self._replacement = Replacement(self._fleet, self._promises)
        if self._replacement.is_done:
            return False
        return self._command("token", "token", "rotate", "--new-token-file", self._replacement.file)

    # --- healing -------------------------------------------------------------------------------

    def _heal(self) -> None:
        self._bring_back(float("inf"))
        start = time.monotonic()
        for thread in self._operators:
            thread.join()
        self.took = heal(self._cluster, servers=SERVERS)
        self._fleet.start(seconds=_HEALED_SECONDS)
        if self._replacement is not None:
            self._replacement.finish()
        self._fleet.wait_same(_HEALED_SECONDS)
        self._promises.wait_rotation(_HEALED_SECONDS)
        self._fleet.wait_same(_HEALED_SECONDS)
        self._fleet.wait_quiet(_HEALED_SECONDS)
        self.healed = time.monotonic() - start

    def _check_secrets(self) -> None:
        """P8: no token in any log."""
        for member in self._fleet.members.values():
            log = member.log.read_text(encoding="utf-8")
            assert "kdt1_" not in log, member.log


def run(mixture: Mixture, directory: Path) -> None:
    """Run a mixture; its directory is kept where it fails."""
    mixture.run()
    shutil.rmtree(directory, ignore_errors=True)


def seed_from_environment() -> int:
    """Return `KEYDIST_TEST_SEED`, or one at random."""
    return int(os.environ.get("KEYDIST_TEST_SEED") or random.randrange(2**32))
