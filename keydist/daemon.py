"""The process of an agent: its signals, its reload, and the wiring of its ports.

SIGHUP reads configuration and token again and goes on with them; what cannot be used is told, and what runs is left
alone. SIGTERM and SIGINT end it. A token that could not be read is tried again every few seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.credentials_socket import CredentialsSocket
from keydist.adapters.disk.archive import JWKS, PEM
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.hooks import HookFiles, Hooks
from keydist.adapters.http.listener import Places
from keydist.adapters.machine_id import machine_hash
from keydist.adapters.mints import fold_mints, read_mints
from keydist.adapters.trail.auditor import WaitingRoom
from keydist.adapters.trail.spool import batches, fold_spools
from keydist.core.jwk import jwk_set
from keydist.core.local import Start
from keydist.core.record import INSTANCE_HEX
from keydist.core.restart import Role
from keydist.core.strict import serialise
from keydist.errors import ConfigError, HookFailedError, KeydistError
from keydist.services.agent import Agent, run_agent
from keydist.services.announce import Self
from keydist.services.defect import defect
from keydist.services.insight import Insight
from keydist.services.keep_trail import Keeper, Minting, Unrecorded
from keydist.services.node import Node
from keydist.services.pace import woken
from keydist.services.reporting import Reporter
from keydist.services.ship_trail import Shipper
from keydist.serving.opening import check_serving, open_serving
from keydist.wiring import Machine, OpenPorts, auditor, genesis, journal, machine, open_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keydist.adapters.config import Config
    from keydist.adapters.log import Log
    from keydist.adapters.systemd import ServiceManager
    from keydist.core.accept import Held
    from keydist.core.local import Local
    from keydist.core.record import Minted

_TOKEN_SECONDS: Final = 2.0
_LOCK_SECONDS: Final = 0.5
"""An agent does nothing else while it waits for the lock of its disk; where it is not given, it tries again later."""
_FIXED: Final = ("cluster", "node", "role", "state_dir", "runtime_dir", "group", "at_rest")


class _Run(NamedTuple):
    """A node as it is configured for a while, and what its disk held at first."""

    node: Machine
    local: Local


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
        self._start: Start | None = None
        self._credentials: CredentialsSocket | None = None
        self._places = Places()
        self._waiting, self._unrecorded = WaitingRoom(), Unrecorded()  # for the trail, whatever is read again

    async def run(self) -> None:
        """Run until SIGTERM. Raises what keeps an agent from starting at all."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._told.set)
        for ending in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(ending, self._stop)
        node = self._machine(self._load())
        check_serving(node.config)  # whom it names must exist
        config = node.config
        self._log.event("started", version=self._version, cluster=config.cluster, node=config.node, role=config.role)
        run: _Run | None = _Run(node, node.load())  # a state directory that must not be touched ends it here
        try:
            while run is not None:
                run = await self._run_until_told(run)
        finally:
            self._places.leave()
            if self._credentials is not None:
                self._credentials.close()
        self._log.event("stopped")

    def _stop(self) -> None:
        self._stops = True
        self._manager.stopping()
        self._told.set()

    def _machine(self, config: Config) -> Machine:
        return machine(config, self._environ, token_file=self._token_file, lock_seconds=_LOCK_SECONDS)

    async def _run_until_told(self, run: _Run) -> _Run | None:
        """Run the agent of a node until a signal, then close its store; return what to run next, None for nothing."""
        ports = open_ports(run.node.config, lasting=True)
        try:
            async with asyncio.TaskGroup() as tasks:
                agent = self._agent(run.node, ports)
                running = tasks.create_task(run_agent(agent, run.local, stays=lambda: not self._stops))
                following = await self._next(run.node)
                running.cancel()
            return following
        finally:
            if self._stops:
                self._places.leave()  # before what may take its time: who connects now would wait for nothing
            await ports.store.close()

    async def _next(self, node: Machine) -> _Run | None:
        """Wait for what ends a run: a signal to stop, a reload that can be used, a token that could not be read."""
        while True:
            await woken(self._told, within=None if node.token_error is None else _TOKEN_SECONDS)
            if self._stops:
                return None
            found = self._reloaded(node) if self._told.is_set() else self._with_token(node)
            self._told.clear()
            if found is not None:
                return found

    def _reloaded(self, node: Machine) -> _Run | None:
        """Return the node as it is configured now; None, and what was the matter is told, where that cannot be used."""
        is_ready = self._manager.is_ready  # before that, nobody waits for the end of a reload
        if is_ready:
            self._manager.reloading()
        try:
            found = self._machine(self._load())
            _check_reload(node, found)
            check_serving(found.config)
            local = found.load()
            if local.held is None and node.load().held is not None:
                raise local.damage or ConfigError("the node would lose its keyset")  # noqa: TRY301 - told below
        except Exception as exc:  # noqa: BLE001 - a defect, whoever provokes it, does not stop a node
            reason = defect(exc, while_="the configuration was read again")
            self._log.event("reload-refused", level="error", reason=reason)
            if is_ready:
                self._manager.ready(f"reload refused: {reason.message}")
            return None
        self._log.event("reloaded", tokens=[token.token_id for token in found.tokens])
        return _Run(found, local)

    def _with_token(self, node: Machine) -> _Run | None:
        """Return a node with its token, once that can be read."""
        with suppress(KeydistError):
            found = self._machine(node.config)
            if found.token_error is None:
                local = found.load()
                self._log.event("token-found", tokens=[token.token_id for token in found.tokens])
                return _Run(found, local)
        return None

    def _agent(self, node: Machine, ports: OpenPorts) -> Agent:
        config = node.config
        hooks = Hooks(config.hooks, state_dir=config.state_dir, log=self._log, entropy=self._entropy)
        mints, keeper = MintKeeper(config.runtime_dir), self._keeper(node, ports)
        credentials, insight = self._offered(node), Insight()
        role = Role(config.role)
        self_ = Self(
            name=config.node,
            machine=machine_hash(),
            start=self._count_start(node),
            version=self._version,
            heartbeat=config.heartbeat,
            minted=mints.minted,
        )
        disbelieved = Counter[str]()
        reporter = Reporter(
            self_, node.clock, cluster=config.cluster, role=role, issuer=config.issuer, failures=lambda: disbelieved
        )
        serving = open_serving(
            node,
            insight=insight,
            entropy=self._entropy,
            log=self._log,
            report=reporter.report,
            disbelieved=disbelieved,
            places=self._places,
        )
        return Agent(
            node=Node(
                store=ports.store,
                disk=node.disk,
                clock=node.clock,
                demands=node.demands,
                role=role,
                audit=keeper.auditor,
            ),
            records=ports.records,
            entropy=self._entropy,
            journal=self._log,
            manager=self._manager,
            genesis=genesis(node, ports.records),
            self_=self_,
            resync=config.resync,
            rehearse_every=config.rehearse_every,
            listeners=(HookListener(hooks, config), mints, keeper, credentials),
            others=(hooks.run, keeper.run, credentials.run, serving.run),
            own_alarms=lambda: (
                *_own_alarms(node, hooks),
                *keeper.alarms(),
                *credentials.alarms(),
                *serving.alarms(),
            ),
            reporter=reporter,
            insight=insight,
        )

    def _keeper(self, node: Machine, ports: OpenPorts) -> Keeper:
        config, kept = node.config, journal(node)
        role = Role(config.role)
        return Keeper(
            kept,
            lambda told: auditor(node, told, self._waiting),
            clock=node.clock,
            entropy=self._entropy,
            log=self._log,
            shipper=Shipper(kept, ports.trail, node=config.node, role=role) if config.audit.stream else None,
            minting=Minting(fold=partial(fold_spools, config.runtime_dir), batches=batches)
            if config.audit.mints
            else None,
            unrecorded=self._unrecorded,
        )

    def _offered(self, node: Machine) -> CredentialsSocket:
        """Return the one socket for credentials, as configured now: who connects during a reload is answered after."""
        config = node.config
        if self._credentials is None:
            live = f"{config.state_dir}/live"
            self._credentials = CredentialsSocket(config.runtime_dir, live=live, log=self._log, clock=node.clock)
        self._credentials.rules = config.credentials
        return self._credentials

    def _count_start(self, node: Machine) -> Start:
        """Return who this start is; where the disk takes no note of it, who this node was before, or a new one."""
        now, fresh = node.clock.now(), self._entropy.random(INSTANCE_HEX // 2).hex()
        try:
            start = node.disk.count_start(fresh, now=now)
        except KeydistError as exc:
            self._log.event("start-not-counted", level="warning", reason=exc)
            before = self._start or _last_start(node) or Start(instance=fresh, number=0)
            start = before._replace(number=max(before.number + 1, now))
        self._start = start
        return start


def _last_start(node: Machine) -> Start | None:
    with suppress(KeydistError):
        return node.disk.last_start()
    return None


def _check_reload(before: Machine, found: Machine) -> None:
    """Refuse what a running agent cannot become, and what would cost it its tokens."""
    changed = [name for name in _FIXED if getattr(found.config, name) != getattr(before.config, name)]
    if not changed and found.demands.place != before.demands.place:
        changed = ["nats.bucket or nats.entry"]
    if changed:
        raise ConfigError(
            f"a reload cannot change {', '.join(changed)}", fix="restart the agent: systemctl restart keydist"
        )
    if found.token_error is not None and before.tokens:
        raise found.token_error


def _own_alarms(node: Machine, hooks: Hooks) -> tuple[KeydistError, ...]:
    token = (node.token_error,) if node.token_error is not None else ()
    return token + tuple(
        HookFailedError(
            f"the hook {name} fails: what it tells has an earlier keyset",
            expected="it to end with 0 in its time",
            fix="see hook-failed and hook-output in the log; it is tried again every few minutes",
        )
        for name in hooks.failing()
    )


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
    """Counts what was minted on this node, and lets the counts go of keys that left the keyset; a `Listener`.

    What ended processes counted is folded at each reading: each leaves files, and there may be many in an hour.
    """

    def __init__(self, runtime_dir: str) -> None:
        self._runtime_dir = runtime_dir
        self._kids: frozenset[str] | None = None

    def changed(self, held: Held) -> None:
        """Fold what ended processes counted."""
        self._kids = frozenset(key.kid for key in held.keyset.keys)
        self._fold(self._kids)

    def minted(self) -> Mapping[str, Minted]:
        """Return what all processes minted."""
        if self._kids is not None:
            self._fold(self._kids)
        return read_mints(self._runtime_dir)

    def _fold(self, kids: frozenset[str]) -> None:
        with suppress(KeydistError):
            fold_mints(self._runtime_dir, kids)
