"""How each NATS server meets who connects: a socket that listens, then a TLS handshake. No command is sent to it.

A client of NATS that falls back to plain text cannot tell this; two bare sockets can.
"""

from __future__ import annotations

import ipaddress
import json
import select
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from keydist.adapters.nats.bounded import received
from keydist.adapters.nats.credentials import tls_context, tls_fix
from keydist.adapters.nats.expiry import term_of_der
from keydist.adapters.nats.wire import reason_of
from keydist.core.doctor.nats import Greeting

if TYPE_CHECKING:
    from keydist.adapters.config import TlsConfig
    from keydist.core.doctor.times import Term

SECONDS: Final = 3.0
_SILENCE: Final = 0.3
"""A server that waits for the handshake says nothing; one that may do either speaks after 50 ms."""
_MOST: Final = 64 * 1024
_DEFAULT_PORT: Final = 4222


def greeting(url: str, tls: TlsConfig | None, *, seconds: float = SECONDS) -> Greeting:
    """Return how a server meets who connects. Raises `ConfigError` where a file of `tls` cannot be used."""
    context = None if tls is None else tls_context(tls)
    host, port = address_of(url)
    seen = Greeting(url=url, is_local=is_local(url))
    try:
        info = _first_words(host, port, seconds)
    except OSError as exc:
        return seen._replace(error=reason_of(exc))
    if info is not None:
        required, available = info.get("tls_required") is True, info.get("tls_available") is True
        seen = seen._replace(in_clear=True, offers=required or available, demands=required)
    if context is None:
        return seen if info is not None else seen._replace(error="it waits for a TLS handshake, which is not asked for")
    try:
        version, certificate = _handshake(host, port, context, seconds)
    except (OSError, ValueError) as exc:
        fix = tls_fix(exc) if isinstance(exc, OSError) else ""
        return seen._replace(error=f"{reason_of(exc)}; {fix}" if fix else reason_of(exc))
    return seen._replace(tls=version, certificate=certificate)


def address_of(url: str) -> tuple[str, int]:
    """Return the host and the port of a configured address."""
    authority = url.partition("://")[2].rstrip("/")
    host, _, port = authority.rpartition(":")
    if not host or not port.isdigit():
        host, port = authority, str(_DEFAULT_PORT)
    return host.strip("[]"), int(port)


def is_local(url: str) -> bool:
    """Tell whether an address stays on this machine."""
    host, _ = address_of(url)
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _first_words(host: str, port: int, seconds: float) -> dict[str, Any] | None:
    """Return the members of INFO where a server speaks first, in clear; None where it is silent. Raises `OSError`."""
    with socket.create_connection((host, port), timeout=seconds) as talk:
        if not select.select([talk], [], [], _SILENCE)[0]:
            return None
        said = received(talk, most=_MOST, seconds=seconds, until=b"\r\n")
    return _members(said)


def _members(said: bytes) -> dict[str, Any]:
    """Return the members of INFO, as far as what was said is one."""
    verb, _, rest = said.partition(b"\r\n")[0].partition(b" ")
    if verb != b"INFO":
        return {}
    try:
        info = json.loads(rest)
    except (ValueError, RecursionError):
        return {}
    return info if isinstance(info, dict) else {}


def _handshake(host: str, port: int, context: ssl.SSLContext, seconds: float) -> tuple[str, Term | None]:
    with (
        socket.create_connection((host, port), timeout=seconds) as talk,
        context.wrap_socket(talk, server_hostname=host) as wrapped,
    ):
        # With TLS 1.3 a refusal of this node's own certificate comes after the handshake, in place of the greeting.
        wrapped.recv(1)
        der = wrapped.getpeercert(binary_form=True)
        return wrapped.version() or "TLS", None if der is None else term_of_der(der)
