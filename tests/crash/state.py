"""One node's state directory in a test: what is in it, and what a bootstrap on it does."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keydist.adapters.disk.archive import Layout
from keydist.adapters.disk.keyset_disk import PosixKeysetDisk
from keydist.adapters.disk.system import System
from keydist.adapters.retry import TenacityRetry
from keydist.core.accept import Held
from keydist.core.envelope import Place
from keydist.core.keyset import Keyset, State
from keydist.core.local import Local
from keydist.core.restart import Role
from keydist.core.strict import b64url_encode
from keydist.core.token import BootstrapToken
from keydist.services.bootstrap import bootstrap
from keydist.services.from_disk import Outcome, meet_demands
from keydist.services.node import Node
from tests.fakes.clock import VirtualClock
from tests.fakes.faulty_system import FaultySystem
from tests.fakes.genesis import genesis_of
from tests.fakes.memory_store import MemoryBucket, MemoryKeysetStore
from tests.fakes.notifier import RecordingNotifier
from tests.material import NOW, PLACE, TOKEN, demands


class StateDirectory:
    """A state directory and the runtime directory beside it, below `base`. No fsync is really done, unless asked."""

    def __init__(self, base: Path, *, sealed: bool = False, gid: int | None = None, place: Place = PLACE) -> None:
        self.base = base
        self.path = base / "state"
        self.runtime = base / "run"
        self.layout = Layout(sealed=sealed, gid=gid, place=place)
        base.mkdir(parents=True, exist_ok=True)

    def disk(self, system: System | None = None) -> PosixKeysetDisk:
        return PosixKeysetDisk(str(self.path), str(self.runtime), self.layout, system or FaultySystem())

    def sealed(self, *, sealed: bool) -> StateDirectory:
        """Return the same directory with `at_rest` set otherwise."""
        return StateDirectory(self.base, sealed=sealed, gid=self.layout.gid, place=self.layout.place)

    def copy(self, base: Path) -> StateDirectory:
        """Return a copy below another folder."""
        if self.base.exists():
            shutil.copytree(self.base, base, symlinks=True)
        return StateDirectory(base, sealed=self.layout.sealed, gid=self.layout.gid, place=self.layout.place)

    def load(self, *tokens: BootstrapToken) -> Local:
        return self.disk().load(tokens or (TOKEN,))

    def install(self, *epochs: Held, now: int = NOW) -> StateDirectory:
        """Install epochs one after the other, as a node does that follows."""
        for held in epochs:
            self.disk().install(held, based_on=self.load(), now=now)
        return self

    def settle(self, *tokens: BootstrapToken, now: int = NOW) -> None:
        self.disk().settle(self.load(*tokens), now=now)

    # --- what is on it -------------------------------------------------------------------------

    @property
    def live(self) -> Path:
        return self.path / self.path.joinpath("live").readlink()

    def names(self, folder: str = "") -> list[str]:
        found = self.path / folder
        return sorted(entry.name for entry in found.iterdir()) if found.is_dir() else []

    def files(self) -> dict[str, bytes]:
        """Return every file and link of both directories with its content or target."""
        found = {}
        for path in sorted(self.base.rglob("*")):
            name = str(path.relative_to(self.base))
            if path.is_symlink():
                found[name] = b"-> " + str(path.readlink()).encode()
            elif path.is_file():
                found[name] = path.read_bytes()
        return found

    def json(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.path.joinpath(name).read_bytes())
        return value

    def leftovers(self) -> list[str]:
        """Return the names of what should not outlive an installation."""
        return [name for name in self.files() if any(part.startswith(".") for part in Path(name).parts)]

    def plaintext(self, keyset: Keyset) -> list[str]:
        """Return the files of the state directory that hold any secret of a keyset, in any usual spelling."""
        secrets = [key.material for key in keyset.keys if key.use == "enc" or key.state is not State.RETIRED]
        spellings = [
            form
            for secret in secrets
            for form in (secret, secret[-32:], base64.b64encode(secret)[:40], b64url_encode(secret).encode())
        ]
        inside = {name: data for name, data in self.files().items() if name.startswith(f"{self.path.name}/")}
        return [name for name, data in inside.items() if any(form in data for form in spellings)]


class Machine:
    """One node: its state directory, the bucket it uses, and starts of it."""

    def __init__(self, state: StateDirectory, bucket: MemoryBucket) -> None:
        self.state = state
        self.bucket = bucket
        self.clock = VirtualClock(NOW)

    def start(
        self,
        *,
        system: System | None = None,
        role: Role = Role.LEADER,
        genesis: Held | None = None,
        before_call: Callable[[str], None] | None = None,
        tokens: tuple[BootstrapToken, ...] = (TOKEN,),
    ) -> Outcome:
        """Run a bootstrap, as the process that is started does."""
        disk = self.state.disk(system)
        store = MemoryKeysetStore(self.bucket, self.clock)
        store.between = before_call
        node = Node(store=store, disk=disk, clock=self.clock, demands=demands(tokens=tokens), role=role)

        async def first_envelope() -> bytes:
            assert genesis is not None, "a key is generated where none may be"
            return genesis.envelope

        return asyncio.run(
            bootstrap(
                node,
                meet_demands(disk.load(tokens), node.demands),
                genesis=genesis_of(first_envelope),
                retry=TenacityRetry(self.clock),
                notifier=RecordingNotifier(),
                seconds=30,
            )
        )


def as_text(error: BaseException) -> str:
    """Return everything that an error may show, its causes too."""
    shown: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        shown += [str(cause), repr(cause), *(str(value) for value in vars(cause).values())]
        cause = cause.__cause__
    return "\n".join(shown)
