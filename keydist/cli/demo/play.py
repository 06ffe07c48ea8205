"""The acts, played in order: who is started when, and what happens to NATS in between."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from keydist.cli.demo.cluster import DemoCluster
from keydist.cli.demo.screen import Screen
from keydist.cli.demo.story import FIRST_START, NATS_STOPPED, NEW_NODE, STORE_WIPED, Act, Scene, Start, problems

_WAITING_SECONDS: Final = 20


class Play:
    """The demo's acts on one cluster. `node-1` is the leader."""

    def __init__(self, cluster: DemoCluster, screen: Screen, nodes: int) -> None:
        self._cluster = cluster
        self._screen = screen
        self._names = [f"node-{number}" for number in range(1, nodes + 1)]
        self._newcomer = f"node-{nodes + 1}"
        self._places = asyncio.Semaphore(os.cpu_count() or 2)

    async def all_acts(self) -> list[Scene]:
        """Play until the last act or the first problem, and return what was played."""
        cluster, server = self._cluster, self._cluster.server
        server.start()
        cluster.make_token()
        for name in self._names:
            cluster.add_node(name, "leader" if name == self._names[0] else "follower")
        self._screen.opening(len(self._names))

        scenes: list[Scene] = []
        for act in (FIRST_START, NATS_STOPPED, STORE_WIPED, NEW_NODE):
            names = self._names
            if act is NATS_STOPPED:
                server.stop()
            elif act is STORE_WIPED:
                server.wipe()
                server.start()
            elif act is NEW_NODE:
                names = [self._newcomer]
                cluster.add_node(self._newcomer, "follower")
            scenes.append(self._scene(act, names))
            with self._screen.scene(len(scenes), scenes[-1]):
                await self._play(scenes[-1])
            if problems(scenes):
                break
            self._screen.line(f"   {act.proves}", style="green")
            if act is not NEW_NODE:
                await self._let_see()
        return scenes

    def _scene(self, act: Act, names: Sequence[str]) -> Scene:
        leader = self._names[0]
        starts = [Start(node=name, role="leader" if name == leader else "follower") for name in names]
        return Scene(act=act, starts=tuple(starts))

    async def _play(self, scene: Scene) -> None:
        leaders = [start for start in scene.starts if start.is_leader]
        followers = [start for start in scene.starts if not start.is_leader]
        if scene.act is FIRST_START:
            await self._play_first(leaders[0], followers)
        elif scene.act is STORE_WIPED:
            await self._in_turn(followers)  # the leader last: what it puts back, they would find
            await self._in_turn(leaders)
        else:
            await self._in_turn(scene.starts)

    async def _play_first(self, leader: Start, followers: Sequence[Start]) -> None:
        """Start all followers, then the leader when all wait. Nobody waits for a leader that failed."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._run(follower)) for follower in followers]
            with suppress(TimeoutError):  # slow machines: that they live must do
                async with asyncio.timeout(_WAITING_SECONDS):
                    for follower in followers:
                        await follower.settled.wait()
            await self._let_see()
            await self._run(leader)
            if not leader.kid:
                for task in tasks:
                    task.cancel()

    async def _in_turn(self, starts: Sequence[Start]) -> None:
        """Run every start, no more at once than there are processors: the times shall mean something."""

        async def run(start: Start) -> None:
            async with self._places:
                await self._run(start)

        async with asyncio.TaskGroup() as group:
            for start in starts:
                group.create_task(run(start))

    async def _run(self, start: Start) -> None:
        await self._cluster.run(start, changed=self._screen.changed)

    async def _let_see(self) -> None:
        """Leave what is shown for people to look at; a screen that nobody watches asks for no time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._screen.pause):
                await asyncio.Event().wait()
