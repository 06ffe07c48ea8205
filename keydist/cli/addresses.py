"""What names a server on the command line of `keydist store config`, to its peers, its clients and a region."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from typing import Final

from keydist.adapters.store_files import Server
from keydist.errors import UsageError

_MAX_PORT: Final = 65_535
_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?"
_ADDRESS: Final = rf"{_HOST}|\[[0-9A-Fa-f:.]{{2,45}}\]"
_SERVER: Final = re.compile(rf"({_HOST})(?:=({_ADDRESS})(?::([0-9]{{1,5}}))?)?", re.ASCII)
_HOME: Final = re.compile(rf"({_ADDRESS})(?::([0-9]{{1,5}}))?", re.ASCII)
_URL: Final = re.compile(rf"(?:nats|tls)://({_HOST})(?::([0-9]{{1,5}}))?", re.ASCII)
_PLACE: Final = re.compile(r"([0-9.]+|localhost|\[[0-9A-Fa-f:.]+\]|\{name\}|\{host\}):([0-9]{1,5})", re.ASCII)


def listening_port(option: str, address: str) -> int:
    """Return the port of where a server listens. Raises `UsageError` for what is no address."""
    match = _PLACE.fullmatch(address)
    if match is None or not _is_host(match[1]) or not _is_port(match[2]):
        raise UsageError(
            f"{option} is no address",
            expected="an IP address, {name} or {host}, with a port",
            found=ascii(address)[:80],
        )
    return int(match[2])


def named_servers(texts: list[str], *, port: int) -> tuple[Server, ...]:
    """Return servers as they are named; clients reach one without a port at `port`. Raises `UsageError`."""
    found = []
    for text in texts:
        match = _SERVER.fullmatch(text)
        if match is None or not _is_host(match[2] or match[1]) or not _is_port(match[3] or str(port)):
            raise UsageError(
                "--server is not well formed",
                expected="NAME[=HOST[:PORT]], an IPv6 address in brackets",
                found=ascii(text)[:80],
            )
        found.append(Server(match[1], (match[2] or match[1]).strip("[]"), int(match[3] or port)))
    return tuple(found)


def homes(texts: list[str], *, port: int) -> tuple[str, ...]:
    """Return where a region links to, each with its port. Raises `UsageError`."""
    found = []
    for text in texts:
        match = _HOME.fullmatch(text)
        if match is None or not _is_host(match[1]) or not _is_port(match[2] or str(port)):
            raise UsageError(
                "--home is not well formed",
                expected="HOST[:PORT], an IPv6 address in brackets",
                found=ascii(text)[:80],
            )
        found.append(f"{match[1]}:{match[2] or port}")
    return tuple(found)


def servers_of_urls(urls: tuple[str, ...], *, port: int) -> tuple[Server, ...]:
    """Return servers as `nats.servers` has them. Raises `UsageError` for one that peers cannot use."""
    found = []
    for url in urls:
        match = _URL.fullmatch(url)
        if match is None:
            raise UsageError(
                "a server of nats.servers has no name that its peers can use", found=url, fix="name all with --server"
            )
        found.append(Server(match[1], match[1], int(match[2] or port)))
    return tuple(found)


def _is_host(text: str) -> bool:
    """Tell whether what looks like an IP address is one."""
    if text.startswith("[") or not text.strip("0123456789."):
        with suppress(ValueError):
            return ipaddress.ip_address(text.strip("[]")).version == (6 if text.startswith("[") else 4)
        return False
    return True


def _is_port(text: str) -> bool:
    return 1 <= int(text) <= _MAX_PORT
