"""What every command shares: its common options, and how a result or a failure becomes an exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer
import typer.core

from keydist.adapters.config import Config, load_config
from keydist.cli.render import fail, printable, tell_alarms, write
from keydist.core.restart import Role
from keydist.errors import KeydistError, NotYetError, UsageError
from keydist.services.node import Node
from keydist.wiring import Machine, auditor, machine, open_store

if TYPE_CHECKING:
    from keydist.core.local import Local

T = TypeVar("T")
_DASHED_KID: Final = re.compile(r"-[A-Za-z0-9_-]{21}|-[A-Za-z0-9_-]{42}", re.ASCII)

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="The configuration ($KEYDIST_CONFIG, /etc/keydist/keydist.yaml)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
TokenOption = Annotated[
    str | None, typer.Option("--token-file", metavar="FILE", help="The bootstrap token's file; - for standard input.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]


class KidCommand(typer.core.TyperCommand):
    """A command with a key id as its argument: one in 64 begins with a dash, and is no option for that."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer does not export it
        """Take what looks like a key id for one."""
        kids = [] if "--" in args else [argument for argument in args if _DASHED_KID.fullmatch(argument)]
        if kids:
            args = [*(argument for argument in args if argument not in kids), "--", *kids]
        return super().parse_args(ctx, args)


def named(path: str, option: str) -> str:
    """Return a path that the command line names. Raises `UsageError` for an empty one."""
    if not path:
        raise UsageError(f"{option} names no file", expected="a path", found="nothing", fix="name a file")
    return path


def configured(path: str | None, overrides: Mapping[str, str] | None = None) -> Config:
    """Return the configuration of this command; `overrides` are its flags, by dotted name. Raises `ConfigError`."""
    return load_config(path, environ=os.environ, overrides=overrides or {})


def this_node(config_path: str | None, token_file: str | None = None) -> Machine:
    """Return this node's ports. Raises `ConfigError`, and `UsageError` for a token file without a name."""
    if token_file is not None:
        named(token_file, "--token-file")
    return machine(configured(config_path), os.environ, token_file=token_file)


def finish(work: Callable[[], int], *, as_json: bool) -> NoReturn:
    """Run a command's work and leave with its exit code, or with that of its failure."""
    try:
        code = work()
    except KeydistError as exc:
        code = fail(exc, as_json=as_json)
    raise typer.Exit(code)


def ask(question: str) -> bool:
    """Ask a person, on standard error: what typer asks with leaves a space on standard output."""
    with suppress(OSError):
        write(sys.stderr, f"{printable(question)} [y/N]: ")
    answer = sys.stdin.readline()
    if not answer:
        raise typer.Abort
    return answer.strip().lower() in ("y", "yes")


def with_store(node: Machine, work: Callable[[Node], Awaitable[T]]) -> T:
    """Run a coroutine that needs the store, and close the store behind it."""
    import asyncio  # noqa: PLC0415 - commands without a store do without

    async def run() -> T:
        ports = ports_of(node)
        try:
            return await work(ports)
        finally:
            await ports.store.close()

    return asyncio.run(run())


def ports_of(node: Machine) -> Node:
    """Return a node's ports; the store connects when it is first asked."""
    return Node(
        store=open_store(node.config),
        disk=node.disk,
        clock=node.clock,
        demands=node.demands,
        role=Role(node.config.role),
        audit=auditor(node, tell_trouble),
    )


def tell_trouble(trouble: KeydistError | None) -> None:
    """Say what keeps the audit trail from being written; what the command does is done all the same."""
    if trouble is not None:
        tell_alarms((trouble,))


def held_local(node: Machine) -> Local:
    """Return what this node's disk holds. Raises the reason where it has no verified keyset."""
    local = node.load()
    if local.held is None:
        raise local.damage or no_keyset(node)
    return local


def no_keyset(node: Machine) -> KeydistError:
    """Return the failure of a command that needs a keyset on a node without one."""
    return NotYetError(
        "this node holds no keyset yet",
        expected=f"a verified keyset in {node.config.state_dir}",
        found="nothing",
        fix="get one with: keydist bootstrap",
    )
