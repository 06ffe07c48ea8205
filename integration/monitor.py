"""What a nats-server tells of itself over HTTP, without an account: `/varz`, `/connz`, `/jsz`, `/leafz`, `/healthz`."""

from __future__ import annotations

import http.client
import json
from typing import Any, Final

_SECONDS: Final = 5.0


def ask(port: int, path: str, *, host: str = "127.0.0.1") -> dict[str, Any] | None:
    """Return the answer to `path` ("jsz?streams=true"), whatever its status; None where nobody answers."""
    connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
    try:
        connection.request("GET", f"/{path.lstrip('/')}")
        answer = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else None


def is_up(port: int) -> bool:
    """Tell whether the server takes clients and its JetStream runs, with or without a leader."""
    return _is_ok(port, "healthz?js-enabled-only=true")


def is_healthy(port: int) -> bool:
    """Tell whether the server has caught up too: with JetStream's leader, and with every stream it keeps a copy of."""
    return _is_ok(port, "healthz")


def _is_ok(port: int, path: str) -> bool:
    answer = ask(port, path)
    return answer is not None and answer.get("status") == "ok"


def meta_group(port: int) -> dict[str, Any]:
    """Return how the server sees the group that leads JetStream: `leader`, and on that one `replicas`."""
    found: dict[str, Any] = (ask(port, "jsz") or {}).get("meta_cluster") or {}
    return found


def links(port: int, *, host: str = "127.0.0.1") -> int | None:
    """Return how many links of regions the server has; None where nobody answers."""
    answer = ask(port, "leafz", host=host)
    return None if answer is None else len(answer.get("leafs") or [])


def streams(port: int, account: str, *, host: str = "127.0.0.1") -> list[dict[str, Any]]:
    """Return the streams of an account that the server holds: `name`, `cluster` (with `leader`), `state`."""
    answer = ask(port, f"jsz?acc={account}&streams=true", host=host) or {}
    return [stream for one in answer.get("account_details") or [] for stream in one.get("stream_detail") or []]
