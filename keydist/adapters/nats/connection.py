"""One NATS connection: made under a deadline, with refused told from unreachable, and requests that fail by name.

nats-py retries refused credentials, prints each failure, and reports a forbidden subject as a timeout. Here the
error callback never throws and never prints: it wakes whoever waits for the answer it concerns.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import nats.errors
from nats.aio.client import Client

from keydist.adapters.nats.credentials import credential_options, tls_context, tls_fix
from keydist.adapters.nats.resolver import resolve_apart
from keydist.adapters.nats.wire import BoundedParser, Reply, close_client, first_of, reason_of, reply_of
from keydist.errors import (
    ConfigError,
    CredentialsRefusedError,
    ForbiddenError,
    KeydistError,
    StoreTimeoutError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    from keydist.adapters.config import TlsConfig

T = TypeVar("T")
CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 5.0
_PING_SECONDS: Final = 10
_KEPT: Final = 15
_SPREAD_SECONDS: Final = 0.05
_NOTICE_SECONDS: Final = 0.2
_REFUSED: Final = ("authorization violation", "authentication expired", "authentication revoked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where to connect, and as whom. `node` names the connection and its inbox."""

    urls: tuple[str, ...]
    node: str
    creds_file: str | None = None
    nkey_file: str | None = None
    tls: TlsConfig | None = None

    def __str__(self) -> str:
        """Return the addresses, for messages."""
        return ", ".join(self.urls)


class _Denial:
    """A request that may be denied: how it is told, once the server said something that concerns it."""

    def __init__(self, concerns: Callable[[], bool]) -> None:
        self.concerns = concerns
        self.event = asyncio.Event()


class Connection:
    """A connection that is made at the first request, and made again when it was lost for good."""

    def __init__(
        self, server: Server, *, connect_seconds: float = CONNECT_SECONDS, request_seconds: float = REQUEST_SECONDS
    ) -> None:
        self._server = server
        self._connect_seconds = connect_seconds
        self._request_seconds = request_seconds
        self._client: Client | None = None
        self._connecting = asyncio.Lock()
        self._failures: list[Exception] = []
        self._denials: list[str] = []
        self._waiting: set[_Denial] = set()
        self._changed = asyncio.Event()
        self._subscribed: set[str] = set()
        # A fleet does not read all at once, nor does who writes all the time make it read all the time.
        self._spread = zlib.crc32(server.node.encode()) / 2**32 * _SPREAD_SECONDS
        self._next_wake = 0.0

    # --- connecting ----------------------------------------------------------------------------

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                self._client = None
                self._client = await self._connect()
            return self._client

    async def _connect(self) -> Client:
        self._failures, self._denials = [], []
        self._subscribed.clear()
        resolve_apart(asyncio.get_running_loop())
        client, exhausted = Client(), asyncio.Event()
        client._ps = BoundedParser(client)  # noqa: SLF001 - nowhere else

        async def on_error(exc: Exception) -> None:
            self._note(exc)
            if len(self._failures) >= len(self._server.urls):
                exhausted.set()

        async def on_disconnect() -> None:
            self._denials = []  # the next connection may be allowed more
            # What was asked but not yet sent when the connection broke, nats-py would send on the next one: a write
            # that was reported as failed would be made up for later. Subscriptions it makes again by itself.
            client._pending.clear()  # noqa: SLF001 - nowhere else
            client._pending_data_size = 0  # noqa: SLF001

        connected = False
        try:
            await first_of(self._dial(client, on_error, on_disconnect), exhausted.wait(), seconds=self._connect_seconds)
            connected = client.is_connected
        except Exception as exc:  # noqa: BLE001 - nats-py lets anything through
            self._failures.append(exc)
        finally:
            if not connected:
                await close_client(client)
        if not connected:
            raise self._not_connected()
        client.options["connect_timeout"] = self._connect_seconds  # a reconnection has time
        self._failures.clear()
        return client

    async def _dial(self, client: Client, on_error: object, on_disconnect: object) -> None:
        server = self._server
        context = tls_context(server.tls) if server.tls else None
        await client.connect(
            list(server.urls),
            name=f"keydist {server.node}",
            error_cb=on_error,  # type: ignore[arg-type]
            disconnected_cb=on_disconnect,  # type: ignore[arg-type]
            reconnected_cb=self._on_reconnect,
            # Of the whole time each server gets its part: one that never speaks must not keep the next from its turn.
            connect_timeout=self._connect_seconds / len(server.urls),  # type: ignore[arg-type] # awaited as it is
            max_reconnect_attempts=-1,
            ping_interval=_PING_SECONDS,
            pending_size=0,
            inbox_prefix=f"_INBOX_{server.node}",
            tls=context,
            # Without it a server that offers no TLS is talked to in clear, credentials included.
            tls_handshake_first=context is not None,
            **credential_options(server),
        )

    async def _on_reconnect(self) -> None:
        self._failures = []
        self._changed.set()

    def _refused(self) -> KeydistError | None:
        """Return the error where the server refused the credentials, at first or when the connection was lost."""
        for failure in self._failures:
            if isinstance(failure, nats.errors.Error) and any(word in str(failure).lower() for word in _REFUSED):
                return CredentialsRefusedError(
                    f"NATS at {self._server} refuses the credentials of this node",
                    expected="a user that the server knows",
                    found=reason_of(failure),
                    fix="check nats.creds_file or nats.nkey_file in the configuration, and the server's accounts",
                )
        return None

    def _not_connected(self) -> KeydistError:
        for failure in self._failures:
            if isinstance(failure, KeydistError):
                return failure
        if refused := self._refused():
            return refused
        reasons = sorted({reason_of(failure) for failure in self._failures})
        found = "; ".join(reasons) or f"no answer in {self._connect_seconds:g} s"
        message = f"NATS at {self._server} cannot be reached"
        if self._failures and all(isinstance(failure, ssl.SSLCertVerificationError) for failure in self._failures):
            return ConfigError(
                f"NATS at {self._server} has no certificate that this node trusts",
                expected="a certificate by nats.tls.ca_file, for the name in nats.servers",
                found=found,
                fix="check nats.tls.ca_file, nats.servers and the server's certificate",
            )
        fix = "check that nats-server runs and nats.servers is right"
        is_refused = self._failures and all(isinstance(failure, ConnectionRefusedError) for failure in self._failures)
        if self._server.tls and not is_refused:
            # A server that speaks first makes the handshake hang: its greeting is lost before TLS begins.
            fix = f"{fix}; set handshake_first: true in the server's tls block"
        fixes = (tls_fix(failure) for failure in self._failures)
        return UnreachableError(message, found=found, fix=next((known for known in fixes if known), fix))

    # --- talking -------------------------------------------------------------------------------

    @property
    def is_clustered(self) -> bool:
        """Whether the connected server says that it is one of a cluster."""
        return bool(self._client is not None and self._client._server_info.get("cluster"))  # noqa: SLF001 - nowhere else

    def _note(self, exc: Exception) -> None:
        text = str(exc).lower()
        if "permissions violation" not in text:
            self._failures = [*self._failures[-_KEPT:], exc]
            return
        self._denials = [*self._denials[-_KEPT:], text]
        for denial in self._waiting:
            if denial.concerns():
                denial.event.set()

    def _denied(self, subject: str) -> str | None:
        """Return the server's words where it denied publishing `subject`, or the inbox that answers come to."""
        inbox = f'subscription to "_inbox_{self._server.node}.'.lower()
        for text in self._denials:
            if f'publish to "{subject.lower()}"' in text or inbox in text:
                return text
        return None

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        seconds: float | None = None,
    ) -> Reply:
        """Return the answer within `seconds` (else this connection's own); nobody listening is status 503.

        Raises `UnreachableError`, `StoreTimeoutError`, `ForbiddenError`, `CredentialsRefusedError`.
        """
        seconds = self._request_seconds if seconds is None else seconds
        client = await self._connected()
        self._denials = [text for text in self._denials if f'"{subject.lower()}"' not in text]
        self._raise_denied(subject)  # answers to this connection's inbox stay denied
        denied = _Denial(lambda: self._denied(subject) is not None)
        self._waiting.add(denied)
        try:
            # Not `request`, which takes a stored message with the header 'Status: 503' for 'nobody listens'.
            asking = client._request_new_style(subject, payload, seconds, headers)  # noqa: SLF001
            message = await first_of(asking, denied.event.wait(), seconds=seconds + 1)
            if message is None:
                self._raise_denied(subject)
                raise self._silent(subject)
            return reply_of(message)
        except (nats.errors.TimeoutError, TimeoutError):
            self._raise_denied(subject)
            raise self._silent(subject) from None
        except (nats.errors.Error, OSError) as exc:
            if refused := self._refused():
                await self.close()  # the next request reads the credentials again
                raise refused from exc
            raise UnreachableError(
                f"the connection to NATS at {self._server} was lost",
                found=reason_of(exc),
                fix="check that nats-server runs",
            ) from exc
        finally:
            self._waiting.discard(denied)

    def _silent(self, subject: str) -> KeydistError:
        return StoreTimeoutError(
            f"NATS at {self._server} did not answer in time",
            expected=f"an answer on {subject}",
            fix="a JetStream that is electing a leader answers within seconds: try again",
        )

    def _raise_denied(self, subject: str) -> None:
        text = self._denied(subject)
        if text is not None:
            raise ForbiddenError(
                f"NATS does not allow this node to use {subject}",
                expected="a permission for it",
                found=text.removeprefix("nats: "),
                fix="compare the user's permissions with docs/nats.md",
            )

    async def wait_for_notice(self, subject: str, seconds: float) -> None:
        """Return after `seconds`, or sooner on a message on `subject` or a reconnection, five times a second at most.

        Never raises on its own.
        """
        client = self._client  # where there is none yet, the next read makes it
        if client is not None and not client.is_closed and subject not in self._subscribed:
            self._subscribed.add(subject)
            with suppress(nats.errors.Error):
                await client.subscribe(subject, cb=self._on_notice)
                return  # what changed before the subscription stood would not be told: read again at once
        loop = asyncio.get_running_loop()
        end = loop.time() + max(0.0, seconds)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), max(0.0, seconds))
            wake = min(end, max(loop.time() + self._spread, self._next_wake))
            self._next_wake = wake + _NOTICE_SECONDS
            await asyncio.wait({loop.create_future()}, timeout=wake - loop.time())
        self._changed.clear()

    async def _on_notice(self, _message: Msg) -> None:
        self._changed.set()

    async def close(self) -> None:
        """Close the connection. Never raises."""
        client, self._client = self._client, None
        if client is not None:
            await close_client(client)
