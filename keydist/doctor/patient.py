"""The node that is examined: what several checks need is looked at once, and kept, a failure too.

As root it is looked at as its own user would, where that matters: whose a file is decides what keydist makes of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from keydist.adapters.config import DEFAULT_PATH, Config, load_config
from keydist.adapters.doctor.files import acting_as, file_at
from keydist.adapters.nats.rights import Names
from keydist.adapters.nats.sight import Described, describe_stream, wanted_streams
from keydist.core.restart import Role
from keydist.errors import KeydistError, UnsafeFileError
from keydist.services.node import Node
from keydist.signing.remote import Agent
from keydist.wiring import Machine, machine, open_connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keydist.adapters.nats.connection import Connection
    from keydist.core.doctor.files import File
    from keydist.core.local import Local

T = TypeVar("T")
_CONNECT_SECONDS: Final = 3.0
_AGENT_SECONDS: Final = 3.0


class CannotLookError(Exception):
    """Something that a check needs is not there; `about` names it, `why` is the failure, which its own check tells."""

    def __init__(self, about: str, why: KeydistError) -> None:
        super().__init__(about)
        self.about = about
        self.why = why


class Patient:
    """One node under examination."""

    def __init__(
        self,
        *,
        config_path: str | None,
        token_file: str | None,
        environ: Mapping[str, str],
        monitors: tuple[str, ...] = (),
    ) -> None:
        """Look at nothing yet; `monitors` are addresses of the NATS servers' monitoring endpoints."""
        self.monitors = monitors
        self.config_path = config_path or environ.get("KEYDIST_CONFIG") or DEFAULT_PATH
        self._named = config_path
        self.token_file = token_file
        self.environ = environ
        self._kept: dict[str, object] = {}
        self._connection: Connection | None = None
        self.me = os.geteuid()

    def _once(self, name: str, look: Callable[[], T]) -> T:
        """Return what was seen the first time; raise what was raised then."""
        if name not in self._kept:
            try:
                self._kept[name] = look()
            except KeydistError as exc:
                self._kept[name] = exc
        found = self._kept[name]
        if isinstance(found, KeydistError):
            raise found.with_traceback(None)
        return found  # type: ignore[return-value] # what `look` returned

    # --- this machine --------------------------------------------------------------------------

    def settled(self) -> Config:
        """Return the configuration. Raises `ConfigError`."""
        return self._once("config", lambda: load_config(self._named, environ=self.environ, overrides={}))

    @property
    def config(self) -> Config:
        """The configuration, for checks that need one."""
        try:
            return self.settled()
        except KeydistError as exc:
            raise CannotLookError("configuration", exc) from None

    def state_root(self) -> File | None:
        """Return the state directory as it stands, None where there is none. Raises `DiskError`."""
        return self._once("state", lambda: file_at(self.config.state_dir))

    @property
    def owner(self) -> int:
        """Who runs keydist: the owner of the state directory, or whoever asks while there is none."""
        root = self.state_root()
        return self.me if root is None else root.uid

    @property
    def owns(self) -> bool:
        """Whether the state can be seen: who asks is its owner, or root."""
        return self.me in (0, self.owner)

    @property
    def node(self) -> Machine:
        """The node's ports, with its tokens."""
        return self._once("node", self._machine)

    def _machine(self) -> Machine:
        config, environ = self.config, self.environ
        found = machine(config, environ, token_file=self.token_file)
        if isinstance(found.token_error, UnsafeFileError) and self.me == 0 != self.owner:
            with acting_as(self.owner):
                as_owner = machine(config, environ, token_file=self.token_file)
            return as_owner if as_owner.token_error is None else found
        return found

    def as_owner(self, look: Callable[[], T]) -> T:
        """Return what the node's own user would see."""
        with acting_as(self.owner):
            return look()

    @property
    def local(self) -> Local:
        """What the disk holds. Raises why it cannot be told."""
        return self._once("local", lambda: self.as_owner(self.node.load))

    def local_if_seen(self) -> Local | None:
        """Return what the disk holds, None where that cannot be told."""
        try:
            return self.local if self.owns else None
        except KeydistError:
            return None

    def agent_answer(self) -> Mapping[str, Any]:
        """Return what the agent says of itself. Raises `UnreachableError`, or what the agent refuses with."""

        def ask() -> Mapping[str, Any]:
            agent = Agent(self.config.socket.path, seconds=_AGENT_SECONDS)
            try:
                return agent.ask("GET", "/v1/status")
            finally:
                agent.close()

        return self._once("agent", ask)

    # --- NATS ----------------------------------------------------------------------------------

    @property
    def names(self) -> Names:
        """Which keyset's subjects, and whose."""
        nats = self.config.nats
        return Names(nats.bucket, nats.entry, self.config.node)

    @property
    def role(self) -> Role:
        """The node's role."""
        return Role(self.config.role)

    async def connected(self) -> Connection:
        """Return a connection that stands. Raises `CannotLookError` where none can be made, each time the same."""
        try:
            failure = self._kept.get("connection")
            if isinstance(failure, KeydistError):
                raise failure.with_traceback(None)
            if self._connection is None:
                self._connection = open_connection(self.config, _CONNECT_SECONDS)
            await self._connection.connect()
        except KeydistError as exc:
            self._kept["connection"] = exc
            raise CannotLookError("store", exc) from None
        return self._connection

    async def streams(self) -> dict[str, Described | KeydistError]:
        """Return each stream as the server describes it, or why it does not. Raises as `connected`."""
        kept: Any = self._kept.get("streams")
        if kept is None:
            connection, clock = await self.connected(), self.node.clock
            kept = {}
            for name, wanted in wanted_streams(self.config.nats.bucket, trail=self.config.audit.stream).items():
                try:
                    kept[name] = await describe_stream(connection, clock, name, wanted)
                except KeydistError as exc:  # a stream without a leader says nothing of the others
                    kept[name] = exc
            self._kept["streams"] = kept
        found: dict[str, Described | KeydistError] = kept
        return found

    def ports(self, connection: Connection) -> Node:
        """Return the node's ports on a connection."""
        from keydist.adapters.nats.store import NatsKeysetStore  # noqa: PLC0415 - 100 ms, not needed with NATS down

        node, names = self.node, self.config.nats
        store = NatsKeysetStore(connection, bucket=names.bucket, entry=names.entry)
        return Node(store=store, disk=node.disk, clock=node.clock, demands=node.demands, role=self.role)

    async def close(self) -> None:
        """Close the connection. Never raises."""
        if self._connection is not None:
            await self._connection.close()
