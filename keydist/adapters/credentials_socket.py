"""Credentials for systemd units: what `LoadCredential=NAME:<runtime_dir>/creds.sock` reads, allowed by the unit's name.

The service manager connects as root from an abstract address that names unit and credential, and takes what it reads
until the end. systemd.exec(5) knows no way to say no: an answer cut short, or empty, would start the unit with that
as its key. So:

- what is refused gets more than 1 MiB, which the service manager takes from nobody: the unit fails (243/CREDENTIALS);
- a key goes out whole in one system call, right after its connection was taken: a process that dies before leaves
  connections that nobody took, and these are reset, which fails the unit too;
- while there is no keyset no connection is taken: consumers wait in the kernel's queue, as long as their own start
  timeout lets them.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from keydist.adapters.config_credentials import NAMES, UNIT, CredentialRule, is_allowed
from keydist.adapters.disk.archive import JWKS, render, render_pem
from keydist.adapters.disk.posix import Directory
from keydist.adapters.disk.system import System
from keydist.core.accept import Held
from keydist.errors import KeydistError, ListenError
from keydist.ports import Clock, Journal

SOCKET: Final = "creds.sock"
BACKLOG: Final = 64
"""So many consumers may wait in the queue; further ones wait before it."""
REFUSALS: Final = 64
"""So many may be refused at the same time; what is read as fast as the service manager does, takes milliseconds."""
PATIENCE_SECONDS: Final = 5.0
"""How long a refusal may take."""

_FRESH: Final = f".{SOCKET}.new"
_MODE: Final = 0o600
_READABLE: Final = 0o750
"""The runtime directory's mode where a group reads the PEM in it."""
_OWN: Final = 0o700
_AGAIN_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 10.0
_NEWS_SECONDS: Final = 1.0
_LAST_SECONDS: Final = 2.0
_LINE: Final = b"keydist refuses this credential: see its log\n"
REFUSAL: Final = _LINE * (2**20 // len(_LINE) + 2)
"""More than 1 MiB, and no key in any notation."""

_PEERCRED: Final = struct.Struct("iII")
_NAME: Final = "[A-Za-z0-9_.:-]{1,64}"
_ADDRESS: Final = re.compile(rf"\0[A-Za-z0-9]{{1,32}}/unit/({UNIT})/({_NAME})")
_MOST_ADDRESS: Final = 108

_CONTENT: Final[Mapping[str, Callable[[Held], bytes]]] = {
    "signing-key": render_pem,
    "jwks": lambda held: render(held, sealed=True)[JWKS],
}


class Asked(NamedTuple):
    """Which unit asks for which credential."""

    unit: str
    credential: str


def parse_address(address: object) -> Asked | None:
    """Return what the address of a connecting service manager asks for; None for any other."""
    if not isinstance(address, bytes) or len(address) > _MOST_ADDRESS or not address.isascii():
        return None  # a path or no name at all is text
    found = _ADDRESS.fullmatch(address.decode("ascii"))
    return None if found is None else Asked(unit=found[1], credential=found[2])


class CredentialsSocket:
    """The socket of one node, over every reload; a `keydist.ports.Listener`.

    `live` is the link that a node has while its disk holds a keyset: without it nothing is given, as no file is there.
    """

    def __init__(
        self, runtime_dir: str, *, live: str, log: Journal, clock: Clock, patience: float = PATIENCE_SECONDS
    ) -> None:
        self.rules: tuple[CredentialRule, ...] = ()
        """Who may take what; with none there is no socket. A change counts from the next `run` on."""
        self._runtime = runtime_dir
        self._live = live
        self._log = log
        self._clock = clock
        self._patience = patience
        self._held: Held | None = None
        self._news = asyncio.Event()
        self._listening: socket.socket | None = None
        self._inode: tuple[int, int] | None = None
        self._trouble: ListenError | None = None
        self._end_by: float | None = None

    def changed(self, held: Held) -> None:
        """Give this keyset from now on."""
        self._held = held
        self._news.set()

    def alarms(self) -> tuple[KeydistError, ...]:
        """Return why nobody is served at the moment."""
        return () if self._trouble is None else (self._trouble,)

    async def run(self) -> None:
        """Answer until cancelled; the socket stays, so that who connects during a reload is answered after it."""
        if not self.rules:
            self.close()
            await asyncio.Event().wait()
        self._end_by = None
        slots = asyncio.Semaphore(REFUSALS)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await slots.acquire()
                refused = None
                try:
                    refused = await self._answered()
                except (OSError, KeydistError) as exc:
                    self._trouble = _trouble(exc, f"{self._runtime}/{SOCKET}")
                    await self._clock.sleep(_AGAIN_SECONDS)
                if refused is None:
                    slots.release()
                else:
                    tasks.create_task(self._refuse(refused, slots))

    def close(self) -> None:
        """Stop listening, and remove the socket if it is this one still. Never raises."""
        self._trouble = None
        listening, self._listening = self._listening, None
        if listening is not None:
            with suppress(OSError, KeydistError):
                if self._is_in_place():
                    (Path(self._runtime) / SOCKET).unlink()
            listening.close()

    # --- the socket ----------------------------------------------------------------------------

    def _opened(self) -> socket.socket:
        """Return the socket, made anew where it is not in its place. Raises `OSError`, `KeydistError`."""
        if self._listening is not None and self._is_in_place():
            return self._listening
        self.close()
        runtime = Directory.open_root(self._runtime, mode=_READABLE, system=System())
        if runtime is None:
            runtime = Directory.make_root(self._runtime, mode=_OWN, gid=None, system=System())
        with runtime:
            self._listening = self._bound(runtime)
        self._log.event("credentials-offered", socket=f"{self._runtime}/{SOCKET}", rules=len(self.rules))
        return self._listening

    def _bound(self, runtime: Directory) -> socket.socket:
        """Put a socket in the place of whatever a process before left there: it listens before it has its name."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(listening.fileno(), _MODE)  # what is bound has this mode, less the umask, from the start
            with suppress(FileNotFoundError):
                os.unlink(_FRESH, dir_fd=runtime.fd)
            listening.bind(f"/proc/self/fd/{runtime.fd}/{_FRESH}")  # a path of any length, in this very directory
            listening.listen(BACKLOG)
            found = os.stat(_FRESH, dir_fd=runtime.fd, follow_symlinks=False)
            os.rename(_FRESH, SOCKET, src_dir_fd=runtime.fd, dst_dir_fd=runtime.fd)
        except BaseException:
            listening.close()
            raise
        self._inode = found.st_dev, found.st_ino
        self._trouble = None
        return listening

    def _is_in_place(self) -> bool:
        try:
            found = (Path(self._runtime) / SOCKET).lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    # --- who connects --------------------------------------------------------------------------

    async def _answered(self) -> socket.socket | None:
        """Wait for somebody and answer; return a connection that is to be refused. Raises `OSError`, `KeydistError`."""
        listening = self._opened()
        if self._given() is None:
            self._news.clear()
            await _set(self._news, within=_NEWS_SECONDS)
        elif await _readable(listening, within=_LOOK_SECONDS) and (held := self._given()) is not None:
            return self._take_one(listening, held)
        return None

    def _given(self) -> Held | None:
        """Return the keyset that may be given now."""
        return self._held if os.path.lexists(self._live) else None

    def _take_one(self, listening: socket.socket, held: Held) -> socket.socket | None:
        """Take one connection and answer it at once; return it where it is to be refused. Raises `OSError`.

        Nothing may wait between taking and answering: a process that dies in between would leave an empty answer.
        """
        try:
            connection, address = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        self._trouble = None
        connection.settimeout(0)
        _, uid, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        asked = parse_address(address)
        why = self._why_not(uid, asked)
        if asked is None or why:
            told = asked._asdict() if asked is not None else {}
            self._log.event("credential-refused", level="warning", **told, uid=uid, reason=why)
            return connection
        try:
            content = _CONTENT[asked.credential](held)
        except Exception as exc:  # noqa: BLE001 - whatever it is: a connection that only ends is an empty credential
            self._log.event("credential-refused", level="error", **asked._asdict(), reason=type(exc).__name__)
            return connection
        try:
            is_whole = connection.send(content) == len(content)
        except OSError:
            self._log.event("credential-not-taken", level="warning", **asked._asdict())
        else:
            if not is_whole:  # never seen: a socket's buffer is larger; cut short, it must not be taken for a key
                self._log.event("credential-refused", level="error", **asked._asdict(), reason="no room for it")
                return connection
            keyset = held.keyset
            self._log.event("credential-given", **asked._asdict(), epoch=keyset.epoch, kid=keyset.active.kid)
        connection.close()
        return None

    def _why_not(self, uid: int, asked: Asked | None) -> str:
        # The process id says nothing: a child of the service manager asks, and it is root in this user namespace.
        if uid != 0:
            return "it does not come from root"
        if asked is None:
            return "it does not come from a service manager"
        if asked.credential not in NAMES:
            return f"there is no such credential: {', '.join(NAMES)}"
        return "" if is_allowed(self.rules, asked.unit, asked.credential) else "credentials: does not allow it"

    async def _refuse(self, connection: socket.socket, slots: asyncio.Semaphore) -> None:
        """Send more than may be taken. Cut short it would be taken: what is under way at the end is finished first."""
        try:
            async with asyncio.timeout(self._patience):
                await asyncio.get_running_loop().sock_sendall(connection, REFUSAL)
        except (OSError, TimeoutError):
            pass  # it went away, as it does when it has had enough, or it does not read
        except asyncio.CancelledError:
            self._finish(connection)
            raise
        finally:
            connection.close()
            slots.release()

    def _finish(self, connection: socket.socket) -> None:
        """Send a whole refusal once more, without the event loop; all of them have two seconds together."""
        now = self._clock.monotonic()
        self._end_by = self._end_by or now + _LAST_SECONDS
        connection.settimeout(max(self._end_by - now, 0.001))
        with suppress(OSError):
            connection.sendall(REFUSAL)


async def _readable(listening: socket.socket, *, within: float) -> bool:
    """Wait until somebody connects; tell whether anybody did in time."""
    loop = asyncio.get_running_loop()
    somebody = asyncio.Event()
    loop.add_reader(listening, somebody.set)
    try:
        return await _set(somebody, within=within)
    finally:
        loop.remove_reader(listening)


async def _set(event: asyncio.Event, *, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _trouble(exc: OSError | KeydistError, path: str) -> ListenError:
    found = exc.message if isinstance(exc, KeydistError) else os.strerror(exc.errno or 0).lower()
    return ListenError(
        f"no unit gets a credential: {path} cannot be served",
        expected="a socket in a directory of this user's own",
        found=found,
        fix="see that runtime_dir is keydist's own directory, mode 0700; it is tried again every few seconds",
    )
