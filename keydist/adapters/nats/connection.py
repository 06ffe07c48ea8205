"""One NATS connection: made under a deadline, with refused told from unreachable, and requests that fail by name.

nats-py retries refused credentials, prints each failure, and reports a forbidden subject as a timeout. Here the
error callback never throws and never prints: it wakes whoever waits for the answer it concerns.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import nats.errors
from nats.aio.client import Client

from keydist.errors import (
    ConfigError,
    CredentialsRefusedError,
    ForbiddenError,
    KeydistError,
    StoreTimeoutError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from nats.aio.msg import Msg

    from keydist.adapters.config import TlsConfig

T = TypeVar("T")
CONNECT_SECONDS: Final = 5.0
REQUEST_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 2.0
_PING_SECONDS: Final = 10
_REFUSED: Final = ("authorization violation", "authentication", "nkey", "jwt", "credentials", "account")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: its status (200 where it has none), headers and payload."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class _Denial:
    """A request that may be denied: how it is told, once the server said something that concerns it."""

    def __init__(self, concerns: Callable[[], bool]) -> None:
        self.concerns = concerns
        self.event = asyncio.Event()


class Connection:
    """A connection that is made at the first request, and made again when it was lost for good."""

    def __init__(self, server: Server, *, connect_seconds: float = CONNECT_SECONDS) -> None:
        self._server = server
        self._connect_seconds = connect_seconds
        self._client: Client | None = None
        self._denials: list[str] = []
        self._waiting: set[_Denial] = set()
        self._changed = asyncio.Event()
        self._subscribed: set[str] = set()

    # --- connecting ----------------------------------------------------------------------------

    async def _connected(self) -> Client:
        if self._client is not None and not self._client.is_closed:
            return self._client
        self._client, self._denials = None, []
        self._subscribed.clear()
        client, failures, exhausted = Client(), [], asyncio.Event()

        async def on_error(exc: Exception) -> None:
            if self._client is None:
                failures.append(exc)
                if len(failures) >= len(self._server.urls):
                    exhausted.set()
            else:
                self._note(str(exc))

        try:
            await _first(self._dial(client, on_error), exhausted.wait(), seconds=self._connect_seconds)
            if client.is_connected:
                self._client = client
                return client
        except Exception as exc:  # noqa: BLE001 - nats-py lets anything through, from OSError to binascii.Error
            failures.append(exc)
        finally:
            if self._client is None:
                await _close(client)
        raise self._not_connected(failures)

    async def _dial(self, client: Client, on_error: object) -> None:
        server = self._server
        context = tls_context(server.tls) if server.tls else None
        await client.connect(
            list(server.urls),
            name=f"keydist {server.node}",
            error_cb=on_error,  # type: ignore[arg-type]
            reconnected_cb=self._on_reconnect,
            connect_timeout=int(self._connect_seconds) or 1,
            max_reconnect_attempts=-1,
            ping_interval=_PING_SECONDS,
            pending_size=0,
            inbox_prefix=f"_INBOX_{server.node}",
            tls=context,
            # Without it a server that offers no TLS is talked to in clear, credentials included.
            tls_handshake_first=context is not None,
            user_credentials=server.creds_file,
            nkeys_seed=server.nkey_file,
        )

    async def _on_reconnect(self) -> None:
        self._changed.set()

    def _not_connected(self, failures: list[Exception]) -> KeydistError:
        for failure in failures:
            if isinstance(failure, KeydistError):
                return failure
            text = str(failure).lower()
            if isinstance(failure, nats.errors.Error) and any(word in text for word in _REFUSED):
                return CredentialsRefusedError(
                    f"NATS at {self._server} refuses the credentials of this node",
                    expected="a user that the server knows",
                    found=_reason(failure),
                    fix="check nats.creds_file or nats.nkey_file in the configuration, and the server's accounts",
                )
        found = (
            "; ".join(sorted({_reason(failure) for failure in failures})) or f"no answer in {self._connect_seconds:g} s"
        )
        return UnreachableError(
            f"NATS at {self._server} cannot be reached",
            found=found,
            fix="check that nats-server runs and nats.servers is right",
        )

    # --- talking -------------------------------------------------------------------------------

    @property
    def is_clustered(self) -> bool:
        """Whether the connected server says that it is one of a cluster."""
        return bool(self._client is not None and self._client._server_info.get("cluster"))  # noqa: SLF001 - nowhere else

    def _note(self, text: str) -> None:
        if "permissions violation" in text.lower():
            self._denials = [*self._denials[-15:], text.lower()]
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
        seconds: float = REQUEST_SECONDS,
    ) -> Reply:
        """Return the answer; nobody listening is a `Reply` with status 503.

        Raises `UnreachableError`, `StoreTimeoutError`, `ForbiddenError`, `CredentialsRefusedError`.
        """
        client = await self._connected()
        self._denials = [text for text in self._denials if f'"{subject.lower()}"' not in text]
        denied = _Denial(lambda: self._denied(subject) is not None)
        self._waiting.add(denied)
        try:
            asking = client.request(subject, payload, timeout=seconds, headers=headers)
            message = await _first(asking, denied.event.wait(), seconds=seconds + 1)
            self._raise_denied(subject)
            if message is None:
                raise self._silent(subject)
            return _reply(message)
        except nats.errors.NoRespondersError:
            return Reply(status=503, headers={}, data=b"")
        except (nats.errors.TimeoutError, TimeoutError):
            self._raise_denied(subject)
            raise self._silent(subject) from None
        except (nats.errors.Error, OSError) as exc:
            raise UnreachableError(
                f"the connection to NATS at {self._server} was lost",
                found=_reason(exc),
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
        """Return after `seconds`, or sooner on a message on `subject` or a reconnection. Never raises on its own."""
        with suppress(KeydistError):
            client = await self._connected()
            if subject not in self._subscribed:
                self._subscribed.add(subject)
                with suppress(nats.errors.Error):
                    await client.subscribe(subject, cb=self._on_notice)
                    return  # what changed before the subscription stood would not be told: read again at once
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), max(0.0, seconds))
        self._changed.clear()

    async def _on_notice(self, _message: Msg) -> None:
        self._changed.set()

    async def close(self) -> None:
        """Close the connection. Never raises."""
        client, self._client = self._client, None
        if client is not None:
            await _close(client)


async def _first(work: Coroutine[Any, Any, T], stop: Coroutine[Any, Any, object], *, seconds: float) -> T | None:
    """Return what `work` returns, or None where `stop` or the time came first. Neither outlives the call."""
    working = asyncio.ensure_future(work)  # noqa: TID251 - both end below
    stopping = asyncio.ensure_future(stop)  # noqa: TID251
    try:
        await asyncio.wait({working, stopping}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _close(client: Client) -> None:
    with suppress(Exception):
        await asyncio.wait_for(client.close(), _CLOSE_SECONDS)


def _reply(message: Msg) -> Reply:
    headers = message.headers or {}
    text = headers.get("Status", "200")
    return Reply(status=int(text) if text.isdigit() else 200, headers=headers, data=message.data)


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.errno and exc.errno > 0:
        return os.strerror(exc.errno).lower()
    text = str(exc).removeprefix("nats: ").strip()
    return text or type(exc).__name__


def tls_context(files: TlsConfig) -> ssl.SSLContext:
    """Return a client context that verifies the server. Raises `ConfigError` where a file cannot be used."""
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=files.ca_file)
        if files.cert_file:
            context.load_cert_chain(files.cert_file, files.key_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            "a TLS file cannot be used",
            expected="PEM files",
            found=exc.strerror or type(exc).__name__,
            fix="check nats.tls",
        ) from exc
    return context
