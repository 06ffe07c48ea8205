"""The one place where services meet adapters: from a configuration to ports, and from ports to a running service.

What a start from disk does not need is not imported: a NATS client, an event loop and a retry library cost more
than everything else together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.clock import SystemClock
from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import LOCK_SECONDS, PosixKeysetDisk
from keydist.adapters.nats.probe import refused_by_all
from keydist.adapters.token_file import find_token_file, read_tokens
from keydist.core.accept import Demands
from keydist.core.envelope import Place
from keydist.errors import ConfigError, InternalError, KeydistError, TokenError, UnsafeFileError
from keydist.services.from_disk import Outcome, meet_demands, start_from_disk, with_following

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from keydist.adapters.config import Config
    from keydist.adapters.nats.connection import Connection
    from keydist.adapters.nats.records import NatsNodeRecords
    from keydist.adapters.nats.store import NatsKeysetStore
    from keydist.adapters.nats.trail import NatsTrailStream
    from keydist.adapters.trail.auditor import WaitingRoom
    from keydist.adapters.trail.journal import FileJournal
    from keydist.core.audit import Facts
    from keydist.core.audit_chain import KeyOf
    from keydist.core.local import Local
    from keydist.core.token import BootstrapToken
    from keydist.ports import Auditor, KeysetStore, NodeRecords, Notifier, TrailStream
    from keydist.services.read_trail import Recorded
    from keydist.services.reconcile import Genesis

_LEAST_SECONDS: Final = 1.0
_MOST_SECONDS: Final = 5.0


class Machine(NamedTuple):
    """One node as configured, with its disk and tokens; `token_error` says why there are none."""

    config: Config
    disk: PosixKeysetDisk
    clock: SystemClock
    tokens: tuple[BootstrapToken, ...]
    token_error: KeydistError | None
    demands: Demands

    def load(self) -> Local:
        """Return what the disk holds, measured by this node's demands."""
        return meet_demands(self.disk.load(self.tokens), self.demands)

    def token(self) -> BootstrapToken:
        """Return the first token. Raises the reason where there is none."""
        if not self.tokens:
            raise self.token_error or TokenError("no bootstrap token is held")
        return self.tokens[0]


def machine(
    config: Config,
    environ: Mapping[str, str],
    *,
    token_file: str | None = None,
    min_epoch: int = 0,
    lock_seconds: float = LOCK_SECONDS,
) -> Machine:
    """Return a node's ports, without reading its state or touching the network.

    A token that cannot be used is not raised here: a node with a verified keyset starts without one.
    """
    place = Place(cluster=config.cluster, location=f"KV/{config.nats.bucket}/{config.nats.entry}")
    layout = Layout(
        sealed=config.at_rest == "sealed", gid=group_id(config.group, "group") if config.group else None, place=place
    )
    tokens: tuple[BootstrapToken, ...] = ()
    token_error: KeydistError | None = None
    try:
        tokens = read_tokens(find_token_file(token_file, environ, config.token_file))
    except (TokenError, UnsafeFileError) as exc:
        token_error = exc
    return Machine(
        config=config,
        disk=PosixKeysetDisk(config.state_dir, config.runtime_dir, layout, lock_seconds=lock_seconds),
        clock=SystemClock(),
        tokens=tokens,
        token_error=token_error,
        demands=Demands(place=place, tokens=tokens, lineage=config.lineage, min_epoch=min_epoch),
    )


def group_id(name: str, field: str) -> int:
    """Return the number of the group that a field of the configuration names. Raises `ConfigError`."""
    import grp  # noqa: PLC0415 - needed by few

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            f"{field}: names a group that this machine does not have",
            expected="a group",
            found=name,
            fix=f"groupadd {name}",
        ) from None


class OpenPorts(NamedTuple):
    """What a node asks of NATS, on one connection: closing the store closes it."""

    store: NatsKeysetStore
    records: NatsNodeRecords
    trail: NatsTrailStream


def open_store(config: Config, *, seconds: float = _MOST_SECONDS) -> NatsKeysetStore:
    """Return the store of a node; it connects at its first request. Needs a running event loop."""
    from keydist.adapters.nats.store import NatsKeysetStore  # noqa: PLC0415 - 100 ms, not needed from disk

    return NatsKeysetStore(open_connection(config, seconds), bucket=config.nats.bucket, entry=config.nats.entry)


def open_ports(config: Config, *, seconds: float | None = None, lasting: bool = False) -> OpenPorts:
    """Return the store and the node records, on one connection, as `open_store` does.

    `seconds`: all of the time that there is. `lasting`: for who connects again and again. Both wait longer for a server
    that the whole fleet connects to.
    """
    from keydist.adapters.nats.connection import LONGEST_CONNECT  # noqa: PLC0415
    from keydist.adapters.nats.records import NatsNodeRecords  # noqa: PLC0415 - not needed from disk
    from keydist.adapters.nats.store import NatsKeysetStore  # noqa: PLC0415
    from keydist.adapters.nats.trail import NatsTrailStream  # noqa: PLC0415

    connection = open_connection(
        config,
        _MOST_SECONDS if seconds is None else seconds,
        longest=LONGEST_CONNECT if lasting else seconds,
        until=None if seconds is None else SystemClock().monotonic() + seconds,
    )
    names = config.nats
    return OpenPorts(
        store=NatsKeysetStore(connection, bucket=names.bucket, entry=names.entry),
        records=NatsNodeRecords(connection, bucket=names.bucket),
        trail=NatsTrailStream(connection, bucket=names.bucket),
    )


class TrailPorts(NamedTuple):
    """The audit trail as a node sees it: its own journal, everybody's stream, the keys to check both with.

    Closing the store closes the stream's connection.
    """

    journal: FileJournal
    stream: TrailStream
    key_of: KeyOf
    store: KeysetStore


def open_trail(node: Machine) -> TrailPorts:
    """Return what reads the trail; the stream connects at its first request. Needs a running event loop."""
    from keydist.services.read_trail import kept_keys  # noqa: PLC0415 - not needed elsewhere

    opened = open_ports(node.config)
    return TrailPorts(journal=journal(node), stream=opened.trail, key_of=kept_keys(node.disk), store=opened.store)


async def in_audit(node: Machine, jwt: str) -> Recorded | None:
    """Return the audit record that tells of a JWT, from this node's journal or from the stream; None where none does.

    Raises what keeps the stream from being read, where the journal does not have it.
    """
    from keydist.core.audit import jwt_hash  # noqa: PLC0415 - not needed elsewhere
    from keydist.services.read_trail import find_mint, in_journal, in_stream  # noqa: PLC0415

    ports, cluster = open_trail(node), node.config.cluster
    try:
        mine = in_journal(ports.journal, node=node.config.node)
        found = await find_mint(mine, jwt_hash(jwt), cluster=cluster, key_of=ports.key_of)
        if found is None or not found.is_proven:
            everybody = in_stream(ports.stream, node=None)
            try:
                found = await find_mint(everybody, jwt_hash(jwt), cluster=cluster, key_of=ports.key_of) or found
            except KeydistError:
                if found is None:
                    raise
        return found
    finally:
        await ports.store.close()


def journal(node: Machine) -> FileJournal:
    """Return the journal of a node's audit trail; its lock is waited for no longer than the disk's."""
    from keydist.adapters.entropy import SystemEntropy  # noqa: PLC0415 - not needed from disk
    from keydist.adapters.trail import journal as trail  # noqa: PLC0415
    from keydist.core.audit import Place as Trail  # noqa: PLC0415

    config = node.config
    return trail.FileJournal(
        config.state_dir,
        Trail(cluster=config.cluster, node=config.node),
        SystemEntropy(),
        directory_mode=node.disk.layout.directory_mode,
        lock_seconds=min(trail.LOCK_SECONDS, node.disk.lock_seconds),
    )


def auditor(node: Machine, told: Callable[[KeydistError | None], None], waiting: WaitingRoom | None = None) -> Auditor:
    """Return who writes this node's audit trail; `told` hears what keeps it from that, None once it is written.

    `waiting` is where records wait that cannot be written, for who has several auditors one after another.
    """
    import os  # noqa: PLC0415 - only who runs this

    from keydist.adapters.nats.credentials import user_of  # noqa: PLC0415 - not needed from disk
    from keydist.adapters.trail.auditor import JournalAuditor  # noqa: PLC0415
    from keydist.adapters.trail.who import who_runs  # noqa: PLC0415

    nats = node.config.nats

    def who() -> Facts:
        return who_runs(os.environ, nats_user=lambda: user_of(creds_file=nats.creds_file, nkey_file=nats.nkey_file))

    return JournalAuditor(journal(node), node.clock, who, told, waiting)


def open_connection(
    config: Config, seconds: float, *, longest: float | None = None, until: float | None = None
) -> Connection:
    """Return a connection, which is made at its first request; see `Connection`. Needs a running event loop."""
    from keydist.adapters.nats.connection import Connection, Server  # noqa: PLC0415 - not needed from disk

    server = Server(
        urls=config.nats.servers,
        node=config.node,
        creds_file=config.nats.creds_file,
        nkey_file=config.nats.nkey_file,
        tls=config.nats.tls,
    )
    patience = max(_LEAST_SECONDS, min(_MOST_SECONDS, seconds))
    return Connection(server, connect_seconds=patience, request_seconds=patience, longest_connect=longest, until=until)


def run_bootstrap(node: Machine, *, seconds: float, notifier: Notifier) -> Outcome:
    """Bootstrap a node and return how it got its keyset. Raises the `KeydistError` that says why it has none.

    A defect, whoever provokes it, does not stop a node that has a verified keyset.
    """
    try:
        return _run_bootstrap(node, seconds=seconds, notifier=notifier)
    except KeydistError:
        raise
    except Exception as exc:  # noqa: BLE001 - the last resort
        return _last_resort(node, exc)


def look_once(node: Machine, *, seconds: float) -> None:
    """Look at the store once, as a follower's bootstrap does: what is newer is accepted and kept.

    Nothing is generated and nothing put back, whatever the node's role: who only asks writes nothing to the store.
    """
    follower = node._replace(config=node.config._replace(role="follower"))
    run_bootstrap(follower, seconds=seconds, notifier=_Silence())


class _Silence:
    """A `Notifier` of what nobody waits for."""

    def waiting(self, what: str, *, seconds_left: float) -> None:
        """Say nothing."""


def _last_resort(node: Machine, defect: Exception) -> Outcome:
    """Start from disk although something unexpected happened, or report it, by its name: its text may hold secrets."""
    alarm = InternalError(
        "something unexpected happened: a defect in keydist",
        found=type(defect).__name__,
        fix="report it with what the node and the store were doing",
    )
    try:
        local = node.load()
    except Exception:  # noqa: BLE001 - where the disk itself provokes it
        raise alarm from None
    if local.held is None:
        raise alarm from None
    alarms = with_following((alarm,), local, node.demands)
    try:
        return start_from_disk(node.disk, local, *alarms, now=node.clock.now())
    except Exception:  # noqa: BLE001 - what a crash left undone stays so until the next start
        return Outcome(how="from-disk", held=local.held, alarms=(*alarms, *local.alarms))


def _run_bootstrap(node: Machine, *, seconds: float, notifier: Notifier) -> Outcome:
    local = node.load()
    now = node.clock.now()
    if not node.tokens and (local.held is None or node.token_error is not None):
        reason = node.token_error or TokenError("no bootstrap token is held")
        if local.held is None:
            raise reason
        return start_from_disk(node.disk, local, reason, now=now)
    if local.held is not None:
        refused = refused_by_all(node.config.nats.servers)
        if refused is not None:
            alarms = with_following((refused,), local, node.demands)
            return start_from_disk(node.disk, local, *alarms, now=now)

    import asyncio  # noqa: PLC0415 - 37 ms, not needed from disk

    return asyncio.run(_bootstrap(node, local, seconds=seconds, notifier=notifier))


async def _bootstrap(node: Machine, local: Local, *, seconds: float, notifier: Notifier) -> Outcome:
    from keydist.adapters.retry import TenacityRetry  # noqa: PLC0415 - not needed from disk
    from keydist.core.restart import Role  # noqa: PLC0415
    from keydist.services.bootstrap import bootstrap  # noqa: PLC0415
    from keydist.services.node import Node  # noqa: PLC0415

    opened, late = open_ports(node.config, seconds=seconds), _Told()
    store, records = opened[:2]
    try:
        outcome = await bootstrap(
            Node(
                store=store,
                disk=node.disk,
                clock=node.clock,
                demands=node.demands,
                role=Role(node.config.role),
                audit=auditor(node, late),
            ),
            local,
            genesis=genesis(node, records),
            retry=TenacityRetry(node.clock),
            notifier=notifier,
            seconds=seconds,
        )
    finally:
        await store.close()
    return outcome if late.trouble is None else outcome._replace(alarms=(*outcome.alarms, late.trouble))


class _Told:
    """What an auditor was told last."""

    trouble: KeydistError | None = None

    def __call__(self, trouble: KeydistError | None) -> None:
        self.trouble = trouble


def genesis(node: Machine, records: NodeRecords) -> Genesis:
    """Return what a first key of a node takes."""
    from keydist.services.reconcile import Genesis  # noqa: PLC0415 - not needed from disk

    async def ask_living() -> None:
        from keydist.services.living import refuse_where_living  # noqa: PLC0415 - genesis only

        await refuse_where_living(records, place=node.demands.place, tokens=node.tokens)

    return Genesis(ask_living=ask_living, first_envelope=_first_envelope(node))


def _first_envelope(node: Machine) -> Callable[[], Awaitable[bytes]]:
    async def make() -> bytes:
        from keydist.adapters.entropy import SystemEntropy  # noqa: PLC0415 - genesis only
        from keydist.services.genesis import Beginning, first_envelope  # noqa: PLC0415

        beginning = Beginning(
            place=node.demands.place,
            token=node.token(),
            policy=node.config.policy,
            alg=node.config.key.alg,
            bits=node.config.key.bits or 0,
        )
        return await first_envelope(beginning, entropy=SystemEntropy(), clock=node.clock)

    return make
