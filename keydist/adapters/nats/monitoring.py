"""How often a NATS server syncs to disk, by its monitoring endpoint: one GET of `/varz`."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import ExitStack
from typing import Any, Final
from urllib.parse import urlsplit

from keydist.adapters.nats.bounded import received
from keydist.adapters.nats.wire import reason_of
from keydist.core.doctor.nats import Synced
from keydist.errors import UsageError

_SECONDS: Final = 3.0
_MOST: Final = 1 << 20
_NANOSECONDS: Final = 1_000_000_000
_OK: Final = 200
_HTTP_PORT: Final = 80
_HTTPS_PORT: Final = 443
_NOT_ONE: Final = "no answer of a nats-server with JetStream"


def check_url(url: str) -> str:
    """Return an address of a monitoring endpoint. Raises `UsageError` for anything else."""
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        is_good = is_good and url.isascii() and url.isprintable() and " " not in url
        is_good = is_good and "@" not in parts.netloc and (parts.port is None or parts.port > 0)
    except ValueError:
        is_good = False
    if not is_good:
        raise UsageError(
            "--monitor is no address of a monitoring endpoint",
            expected="http://HOST:8222, as http: or monitor_port: in the server's configuration has it",
            found=ascii(url[:80]) if "@" not in url else "text that is not shown",
            fix="name one server's endpoint; the option may be repeated",
        )
    return url.rstrip("/")


def synced(url: str) -> Synced:
    """Return how often a server syncs to disk, as far as its endpoint says so. Raises nothing of the network's."""
    try:
        status, raw = _get(url)
    except OSError as exc:
        return Synced(url, error=reason_of(exc))
    except (ValueError, IndexError):
        return Synced(url, error=_NOT_ONE)
    return Synced(url, error=f"status {status}") if status != _OK else _told(url, raw)


def _told(url: str, raw: bytes) -> Synced:
    """Return what an answer says of it."""
    try:
        told: Any = json.loads(raw)
        config = told["jetstream"]["config"]
        always, interval = config.get("sync_always") is True, config.get("sync_interval")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Synced(url, error=_NOT_ONE)
    seconds = interval // _NANOSECONDS if type(interval) is int and interval > 0 else None
    return Synced(url, always=always, seconds=seconds)


def _get(url: str) -> tuple[int, bytes]:
    """Return the status and the body of `/varz`, by HTTP/1.0: its end is the connection's. Raises `OSError`."""
    parts = urlsplit(url)
    host, is_secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (_HTTPS_PORT if is_secure else _HTTP_PORT)
    request = f"GET {parts.path}/varz HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n"
    with ExitStack() as opened:
        talk = opened.enter_context(socket.create_connection((host, port), timeout=_SECONDS))
        if is_secure:
            talk = opened.enter_context(ssl.create_default_context().wrap_socket(talk, server_hostname=host))
        talk.sendall(request.encode("ascii"))
        head, _, body = received(talk, most=_MOST, seconds=_SECONDS).partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body
