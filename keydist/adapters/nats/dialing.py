"""Making one client under a deadline, with refused told from unreachable; it never connects again by itself.

nats-py retries refused credentials, prints each failure, and reconnects without jitter until one of many things
ends it for good. Here it tries each server once, and whoever needs a connection again makes a new client, which
reads the credentials again.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final

import nats.errors
from nats.aio.client import Client

from keydist.adapters.nats.credentials import credential_options, tls_context, tls_fix
from keydist.adapters.nats.resolver import resolve_apart
from keydist.adapters.nats.wire import BoundedParser, close_client, first_of, reason_of
from keydist.errors import ConfigError, CredentialsRefusedError, KeydistError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from keydist.adapters.nats.connection import Server

# A link over which nothing is asked is lost at the second ping without an answer: within eight seconds.
_PING_SECONDS: Final = 4
_UNANSWERED: Final = 1
_REFUSED: Final = (
    "authorization violation",
    "authorization failed",
    "authentication expired",
    "authentication revoked",
)


async def dial(server: Server, *, seconds: float, told: Callable[[Exception], None]) -> Client:
    """Return a client that is connected; `told` hears from then on what the server denies.

    Raises `UnreachableError`, `CredentialsRefusedError`, `ConfigError`.
    """
    resolve_apart(asyncio.get_running_loop())
    failures: list[Exception] = []
    client, exhausted = Client(), asyncio.Event()
    client._ps = BoundedParser(client)  # noqa: SLF001 - nowhere else

    async def on_error(exc: Exception) -> None:
        if client.is_connected:
            told(exc)
            return
        failures.append(exc)
        if len(failures) >= len(server.urls):
            exhausted.set()

    connected = reached = False
    try:
        await first_of(_connect(server, client, on_error, seconds), exhausted.wait(), seconds=seconds)
        connected = client.is_connected
    except Exception as exc:  # noqa: BLE001 - nats-py lets anything through
        failures.append(exc)
    finally:
        if not connected:
            reached = bool(client._transport)  # noqa: SLF001 - as above; it has a stream once TCP stands
            await close_client(client)
    if not connected:
        raise _not_connected(server, failures, seconds, reached=reached)
    return client


async def _connect(server: Server, client: Client, on_error: object, seconds: float) -> None:
    context = tls_context(server.tls) if server.tls else None
    await client.connect(
        list(server.urls),
        name=f"keydist {server.node}",
        error_cb=on_error,  # type: ignore[arg-type]
        # Of the whole time each server gets its part: one that never speaks must not keep the next from its turn.
        connect_timeout=seconds / len(server.urls),  # type: ignore[arg-type] # awaited as it is
        max_reconnect_attempts=-1,
        ping_interval=_PING_SECONDS,
        max_outstanding_pings=_UNANSWERED,
        no_echo=True,  # who asks the living is none of those who answer
        pending_size=0,
        inbox_prefix=f"_INBOX_{server.node}",
        tls=context,
        # Without it a server that offers no TLS is talked to in clear, credentials included.
        tls_handshake_first=context is not None,
        **credential_options(creds_file=server.creds_file, nkey_file=server.nkey_file),
    )
    # Not sooner: the first server that fails would be the last one that is tried.
    client.options["allow_reconnect"] = False


def refused(server: Server, failures: Sequence[Exception | None]) -> CredentialsRefusedError | None:
    """Return the error where the server refused the credentials, at first or when the connection was lost."""
    for failure in failures:
        if isinstance(failure, nats.errors.Error) and any(word in str(failure).lower() for word in _REFUSED):
            return CredentialsRefusedError(
                f"NATS at {server} refuses the credentials of this node",
                expected="a user that the server knows",
                found=reason_of(failure),
                fix="check nats.creds_file or nats.nkey_file in the configuration, and the server's accounts",
            )
    return None


def _not_connected(server: Server, failures: Sequence[Exception], seconds: float, *, reached: bool) -> KeydistError:
    for failure in failures:
        if isinstance(failure, KeydistError):
            return failure
    if refusal := refused(server, failures):
        return refusal
    reasons = sorted({reason_of(failure) for failure in failures})
    found = "; ".join(reasons) or f"no answer in {seconds:g} s"
    if failures and all(isinstance(failure, ssl.SSLCertVerificationError) for failure in failures):
        return ConfigError(
            f"NATS at {server} has no certificate that this node trusts",
            expected="a certificate by nats.tls.ca_file, for the name in nats.servers",
            found=found,
            fix="check nats.tls.ca_file, nats.servers and the server's certificate",
        )
    fix = "check that nats-server runs and nats.servers is right"
    is_down = failures and all(isinstance(failure, ConnectionRefusedError) for failure in failures)
    if server.tls and not is_down:
        # A server that speaks first makes the handshake hang: its greeting is lost before TLS begins.
        fix = f"{fix}; set handshake_first: true in the server's tls block"
    fixes = (tls_fix(failure) for failure in failures)
    error = UnreachableError(
        f"NATS at {server} cannot be reached", found=found, fix=next((known for known in fixes if known), fix)
    )
    error.is_there = reached
    return error
