"""The process of an agent: its signals, its reload, and the wiring of its ports.

SIGHUP reads configuration and token again and goes on with them; what cannot be used is told, and the old stays in
use. SIGTERM and SIGINT end it. A token that could not be read is tried again every few seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from keydist.adapters.disk.archive import JWKS, PEM
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.hooks import HookFiles, Hooks
from keydist.adapters.machine_id import machine_hash
from keydist.adapters.mints import fold_mints, read_mints
from keydist.core.jwk import jwk_set
from keydist.core.local import Start
from keydist.core.record import INSTANCE_HEX
from keydist.core.restart import Role
from keydist.core.strict import serialise
from keydist.errors import ConfigError, KeydistError
from keydist.services.agent import Agent, run_agent
from keydist.services.announce import Self
from keydist.services.node import Node
from keydist.wiring import Machine, OpenPorts, genesis, machine, open_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keydist.adapters.config import Config
    from keydist.adapters.log import Log
    from keydist.adapters.systemd import ServiceManager
    from keydist.core.accept import Held

_TOKEN_SECONDS: Final = 2.0
_FIXED: Final = ("cluster", "node", "role", "state_dir", "runtime_dir", "group", "at_rest")


class Daemon:
    """One process of an agent, over every reload."""

    def __init__(
        self,
        load: Callable[[], Config],
        *,
        version: str,
        environ: Mapping[str, str],
        token_file: str | None,
        log: Log,
        manager: ServiceManager,
    ) -> None:
        self._load = load
        self._version = version
        self._environ = environ
        self._token_file = token_file
        self._log = log
        self._manager = manager
        self._entropy = SystemEntropy()
        self._told = asyncio.Event()
        self._stops = False

    async def run(self) -> None:
        """Run until SIGTERM. Raises what keeps an agent from starting at all."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._told.set)
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(ending, self._stop)
        node = self._machine()
        node.load()  # a state directory that must not be touched ends it here
        config = node.config
        self._log.event("started", version=self._version, cluster=config.cluster, node=config.node, role=config.role)
        while True:
            await self._run_until_told(node)
            if self._stops:
                break
            node = self._reloaded(node)
        self._log.event("stopped")

    def _stop(self) -> None:
        self._stops = True
        self._manager.stopping()
        self._told.set()

    def _machine(self) -> Machine:
        return machine(self._load(), self._environ, token_file=self._token_file)

    def _reloaded(self, before: Machine) -> Machine:
        """Return the node as it is configured now, or as it was where that cannot be used."""
        self._manager.reloading()
        try:
            found = self._machine()
            changed = [name for name in _FIXED if getattr(found.config, name) != getattr(before.config, name)]
            if changed:
                raise ConfigError(
                    f"a reload cannot change {', '.join(changed)}", fix="restart the agent: systemctl restart keydist"
                )
            found.load()
        except KeydistError as exc:
            self._log.event("reload-refused", level="error", reason=exc)
            return before
        self._log.event("reloaded", tokens=[token.token_id for token in found.tokens])
        return found

    async def _run_until_told(self, node: Machine) -> None:
        """Run the agent of a node until a signal, then close its store."""
        self._told.clear()
        ports = open_ports(node.config)
        try:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(
                    run_agent(self._agent(node, ports), node.load(), stays=lambda: not self._stops)
                )
                await self._until_told(node)
                running.cancel()
        finally:
            await ports.store.close()

    async def _until_told(self, node: Machine) -> None:
        """Return at a signal, or once a token that could not be read can be."""
        while node.token_error is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), _TOKEN_SECONDS)
            if self._told.is_set():
                return
            with suppress(KeydistError):
                if self._machine().token_error is None:
                    return
        await self._told.wait()

    def _agent(self, node: Machine, ports: OpenPorts) -> Agent:
        config = node.config
        hooks = Hooks(config.hooks, state_dir=config.state_dir, log=self._log, entropy=self._entropy)
        return Agent(
            node=Node(
                store=ports.store,
                disk=node.disk,
                clock=node.clock,
                demands=node.demands,
                role=Role(config.role),
            ),
            records=ports.records,
            entropy=self._entropy,
            journal=self._log,
            manager=self._manager,
            genesis=genesis(node, ports.records),
            self_=Self(
                name=config.node,
                machine=machine_hash(),
                start=self._start(node),
                version=self._version,
                heartbeat=config.heartbeat,
                minted=lambda: read_mints(config.runtime_dir),
            ),
            resync=config.resync,
            rehearse_every=config.rehearse_every,
            listeners=(HookListener(hooks, config), MintKeeper(config.runtime_dir)),
            others=(hooks.run,),
            own_alarms=(node.token_error,) if node.token_error is not None else (),
        )

    def _start(self, node: Machine) -> Start:
        """Return who this start is; a disk that takes no note of it makes an instance of its own."""
        fresh = self._entropy.random(INSTANCE_HEX // 2).hex()
        try:
            return node.disk.count_start(fresh, now=node.clock.now())
        except KeydistError as exc:
            self._log.event("start-not-counted", level="warning", reason=exc)
            return Start(instance=fresh, number=node.clock.now())


class HookListener:
    """Tells the hooks of a node which files are live; see `keydist.ports.Listener`."""

    def __init__(self, hooks: Hooks, config: Config) -> None:
        self._hooks = hooks
        self._live = f"{config.state_dir}/live"
        self._pem = f"{config.runtime_dir if config.at_rest == 'sealed' else self._live}/{PEM}"

    def changed(self, held: Held) -> None:
        """Tell of a keyset that is on disk."""
        keyset = held.keyset
        files = HookFiles(
            epoch=keyset.epoch,
            kid=keyset.active.kid,
            live=self._live,
            pem=self._pem,
            jwks=f"{self._live}/{JWKS}",
            jwks_digest=hashlib.sha256(serialise(jwk_set(keyset))).hexdigest(),
        )
        self._hooks.changed("key", files)
        self._hooks.changed("jwks", files)


class MintKeeper:
    """Lets the counts go of keys that left the keyset; see `keydist.ports.Listener`."""

    def __init__(self, runtime_dir: str) -> None:
        self._runtime_dir = runtime_dir

    def changed(self, held: Held) -> None:
        """Fold what ended processes counted."""
        with suppress(KeydistError):
            fold_mints(self._runtime_dir, frozenset(key.kid for key in held.keyset.keys))
