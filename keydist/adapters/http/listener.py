"""Sockets to listen at: a Unix socket with its mode and group, TCP with or without TLS. Raises `ListenError` only.

A Unix socket is made under another name and moved into place, so that nobody meets one that is not yet as it should
be. What lies there already is replaced only if it is a socket that nobody answers at.
"""

from __future__ import annotations

import os
import socket
import ssl
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.http.accepting import Acceptor
from keydist.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Collection

    from keydist.adapters.http.guard import Crowd

_BACKLOG: Final = 512
"""So many may wait in the kernel to be taken."""


class UnixAddress(NamedTuple):
    """A Unix socket; `gid` is the group that it is given to (None: the process's)."""

    path: str
    mode: int
    gid: int | None = None

    @property
    def name(self) -> str:
        """Return how messages name it."""
        return self.path


class TcpAddress(NamedTuple):
    """An address and a port of this machine, with a certificate or without."""

    host: str
    port: int
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def name(self) -> str:
        """Return how messages name it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Address = UnixAddress | TcpAddress


class Places:
    """What outlives who served: sockets, so that who connects during a reload is answered after it, and certificates.

    A socket whose name leads elsewhere by now, or that is not as it should be any more, is made anew.
    """

    def __init__(self) -> None:
        self._kept: dict[Address, list[_Bound]] = {}
        self._tls: dict[Address, ssl.SSLContext] = {}

    def take(self, address: Address) -> _Bound | None:
        """Return the socket that was kept for an address; None where there is none of use."""
        kept = self._kept.get(address)
        bound = kept.pop(0) if kept else None
        if bound is None or (bound.is_in_place() and bound.is_as_asked()):
            return bound
        bound.close()
        return None

    def keep(self, bound: _Bound) -> None:
        """Keep a socket for who serves its address next; of several at any free port, each in its turn."""
        self._kept.setdefault(bound.address, []).append(bound)

    def certified(self, address: TcpAddress) -> tuple[ssl.SSLContext | None, ListenError | None]:
        """Return the certificate that an address is served with, and why that is the one of before.

        Raises `ListenError` where there is none that can be used.
        """
        try:
            found = _tls(address)
        except ListenError as exc:
            if address not in self._tls:
                raise
            return self._tls[address], exc
        if found is not None:
            self._tls[address] = found
        return found, None

    def leave(self, *, but: Collection[Address] = ()) -> None:
        """Close what is kept, but for some addresses."""
        for address in self._kept.keys() - set(but):
            for bound in self._kept.pop(address):
                bound.close()
        for address in self._tls.keys() - set(but):
            del self._tls[address]


class _Bound:
    """A listening socket and the name that leads to it."""

    def __init__(self, bound: socket.socket, address: Address) -> None:
        self.socket = bound
        self.address = address
        self._path = address.path if isinstance(address, UnixAddress) else None
        self._found = _identity(self._path)
        self.name = self._path or TcpAddress(*bound.getsockname()[:2]).name

    def is_in_place(self) -> bool:
        return self._path is None or (self._found is not None and _identity(self._path) == self._found)

    def is_as_asked(self) -> bool:
        if not isinstance(self.address, UnixAddress):
            return True
        with suppress(OSError):
            found = os.lstat(self.address.path)
            return stat.S_IMODE(found.st_mode) == self.address.mode and self.address.gid in (None, found.st_gid)
        return False

    def close(self) -> None:
        self.socket.close()
        if self._path is not None and self.is_in_place():
            with suppress(OSError):
                Path(self._path).unlink()


class Listener:
    """A socket that is served; `close` it."""

    def __init__(self, acceptor: Acceptor, crowd: Crowd, bound: _Bound, places: Places | None) -> None:
        self.trouble: ListenError | None = None
        """Why it is served with the certificate of before."""
        self._acceptor = acceptor
        self._crowd = crowd
        self._bound = bound
        self._places = places
        self.name = bound.name
        """Where it listens, as it turned out."""

    def sweep(self) -> None:
        """Drop connections whose time is over."""
        self._crowd.sweep()

    def is_in_place(self) -> bool:
        """Tell whether who connects by the name still gets here: a Unix socket may be removed or replaced."""
        return self._bound.is_in_place()

    def close(self) -> None:
        """Drop every connection and take no more. Where sockets are kept, this one is, if its name still leads here."""
        self._acceptor.close()
        if self._places is not None and self.is_in_place():
            self._places.keep(self._bound)
        else:
            self._bound.close()
        self._crowd.close()


def listen(address: Address, crowd: Crowd, places: Places | None = None) -> Listener:
    """Serve what connects to an address, on the socket that `places` kept of it. Raises `ListenError`.

    Needs a running event loop.
    """
    try:
        kept = places or Places()
        tls, trouble = kept.certified(address) if isinstance(address, TcpAddress) else (None, None)
        bound = kept.take(address) or _bind(address)
        try:
            bound.socket.listen(_BACKLOG)
            copy = bound.socket.dup()  # for who accepts; this one stays for who does so next
        except BaseException:
            bound.close()
            raise
    except (OSError, ValueError) as exc:
        raise ListenError(
            f"cannot listen at {address.name}",
            expected="an address that is free, and may be listened at",
            found=_reason(exc),
            fix="end what listens there, or name another address; it is tried again every few seconds",
        ) from None
    listener = Listener(Acceptor(copy, crowd, tls), crowd, bound, places)
    listener.trouble = trouble
    return listener


def _bind(address: Address) -> _Bound:
    return _Bound(_bind_unix(address) if isinstance(address, UnixAddress) else _bind_tcp(address), address)


def _reason(exc: OSError | ValueError) -> str:
    reason = exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)
    return reason.lower()[:200]


def _bind_tcp(address: TcpAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    host = "127.0.0.1" if address.host == "localhost" else address.host
    # With its protocol named: only then asyncio sets TCP_NODELAY, without which each answer waits 40 ms for its body.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, address.port))
    except BaseException:
        bound.close()
        raise
    return bound


def _bind_unix(address: UnixAddress) -> socket.socket:
    path = Path(address.path)
    if _is_alive(path):
        raise OSError(0, "another process listens there")
    fresh = path.with_name(f".{path.name}.new")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            fresh.unlink()
        bound.bind(str(fresh))
        fresh.chmod(0o600)
        if address.gid is not None:
            os.chown(fresh, -1, address.gid)
        fresh.chmod(address.mode)
        bound.listen(_BACKLOG)
        fresh.rename(path)
    except BaseException:
        bound.close()
        with suppress(OSError):
            fresh.unlink()
        raise
    return bound


def _is_alive(path: Path) -> bool:
    """Tell whether somebody listens at a path. Raises `OSError` for what is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(0, "there is something that is not a socket")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)  # noqa: FBT003 - socket's own
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # its queue is full
            return True
    return True


def _tls(address: TcpAddress) -> ssl.SSLContext | None:
    if address.cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An empty password: else OpenSSL asks the terminal for that of an encrypted key, and the whole agent waits.
        context.load_cert_chain(address.cert_file, address.key_file, password="")
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        raise ListenError(
            f"cannot listen at {address.name}: its certificate cannot be used",
            expected=f"a chain in {address.cert_file} and its key, without a password, in {address.key_file}",
            found=_reason(exc),
            fix="put both files there, readable by the agent's user, then reload: systemctl reload keydist",
        ) from None
    return context


def _identity(path: str | None) -> tuple[int, int] | None:
    if path is None:
        return None
    with suppress(OSError):
        found = os.lstat(path)
        return found.st_dev, found.st_ino
    return None
