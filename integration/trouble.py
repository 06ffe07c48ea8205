"""Trouble at random: nats-servers and agents die by kill -9 and come back, a few at a time, over and over.

Two of three servers may be down for a moment, so that there is no quorum; every agent may be hit, leaders too. Between
two rounds of servers there is time for an election or two: else nothing would be shown but that nobody can write.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Final

from integration.fleet import Fleet

_PAUSE: Final = (0.5, 3.0)
_SERVER_AWAY: Final = (0.3, 4.0)
_SERVERS_QUIET: Final = (5.0, 12.0)
_AGENT_AWAY: Final = (0.1, 8.0)
_MOST_AGENTS: Final = 5
_SECOND_SERVER: Final = 0.2
"""How likely two servers are killed at once."""


class Trouble:
    """What is down at the moment, and until when."""

    def __init__(self, fleet: Fleet, *, seed: int) -> None:
        self._fleet = fleet
        self._cluster = fleet.cluster
        self._random = random.Random(seed)
        self._servers: dict[int, float] = {}
        self._agents: dict[str, float] = {}
        self._servers_at = 0.0
        self.kills: Counter[str] = Counter()

    def step(self) -> None:
        """Wait a moment, bring back who was away for long enough, and kill somebody else."""
        time.sleep(self._random.uniform(*_PAUSE))
        self._bring_back(time.monotonic())
        self._fleet.note_confirmed()
        self._fleet.check_alive()
        if time.monotonic() >= self._servers_at:
            self._kill_server()
        else:
            self._kill_agents()

    def end(self) -> None:
        """Bring everybody back."""
        self._bring_back(float("inf"))

    def _bring_back(self, until: float) -> None:
        for number in [number for number, due in self._servers.items() if due <= until]:
            del self._servers[number]
            self._cluster.start_server(number)
        for name in [name for name, due in self._agents.items() if due <= until]:
            del self._agents[name]
            self._fleet.start_agent(name)

    def _kill_server(self) -> None:
        running = [number for number, pid in enumerate(self._cluster.server_pids) if pid is not None]
        most = 2 if self._random.random() < _SECOND_SERVER else 1
        for number in self._random.sample(running, most):
            self._cluster.kill(number)
            self._servers[number] = time.monotonic() + self._random.uniform(*_SERVER_AWAY)
            self.kills["servers"] += 1
        self._servers_at = max(self._servers.values()) + self._random.uniform(*_SERVERS_QUIET)

    def _kill_agents(self) -> None:
        running = [name for name, member in self._fleet.members.items() if member.pid is not None]
        most = min(self._random.randint(1, 3), _MOST_AGENTS - (len(self._fleet.members) - len(running)))
        for name in self._random.sample(running, max(0, most)):
            self._fleet.kill(name)
            self._agents[name] = time.monotonic() + self._random.uniform(*_AGENT_AWAY)
            self.kills["agents"] += 1
