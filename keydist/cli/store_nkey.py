"""`keydist store nkey`: a node makes its own NATS seed, and tells the public half, which `store config` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keydist.adapters.entropy import SystemEntropy
from keydist.cli.command import JsonOption, finish, named
from keydist.cli.render import print_json, print_line, tell


def store_nkey(
    *,
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="Where the seed is to be: nats.nkey_file; one there stays.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Make this node's NATS seed, mode 0600, where there is none yet; print its public nkey, for store config.

    Example: keydist store nkey --out /etc/keydist/user.nk
    """

    def work() -> int:
        from keydist.adapters.file_set import read_file  # noqa: PLC0415 - what it needs, few commands do
        from keydist.adapters.nats.credentials import new_seed  # noqa: PLC0415
        from keydist.adapters.public_file import write_new  # noqa: PLC0415
        from keydist.adapters.store_files import nkey_of  # noqa: PLC0415

        path = Path(named(out, "--out"))
        there = read_file(str(path.parent), path.name, secret=True)
        seed = new_seed(SystemEntropy().random) if there is None else there.decode("ascii", "replace")
        nkey = nkey_of(str(path), seed)
        if there is None:
            write_new(str(path), seed.encode("ascii"))
        if as_json:
            print_json({"nkey": nkey, "file": str(path), "changed": there is None})
            return 0
        print_line(nkey)
        if there is None:
            tell(f"keydist: wrote its seed to {path}, which stays on this machine; whoever runs keydist must own it")
        return 0

    finish(work, as_json=as_json)
