"""`keydist store`: make the buckets, put a lost keyset back, take a side of a fork, back up and restore."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from keydist import wiring
from keydist.adapters.public_file import read_bounded, write_backup
from keydist.cli.command import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    TokenOption,
    finish,
    held_local,
    named,
    ports_of,
    this_node,
    with_store,
)
from keydist.cli.render import print_json, print_line, tell, tell_alarms
from keydist.cli.store_config import store_config
from keydist.cli.store_nkey import store_nkey
from keydist.cli.times import date
from keydist.core.envelope import MAX_ENVELOPE
from keydist.core.local import Local
from keydist.core.strict import b64url_encode
from keydist.errors import (
    ConfigError,
    DiskError,
    PermissionFamilyError,
    TransientError,
    UsageError,
    WrongTokenError,
    WrongUserError,
)
from keydist.services.recover import Fork, Recovered, inspect_fork, keep_local, keep_store, rehearse, republish, restore

if TYPE_CHECKING:
    from keydist.services.node import Node
    from keydist.services.recover import Side
    from keydist.wiring import Machine

app = typer.Typer(no_args_is_help=True, help="The store: buckets, recovery, backup.", rich_markup_mode=None)
app.command("config")(store_config)
app.command("nkey")(store_nkey)


@app.command("init")
def init(
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=1, max=5, help="Copies (default: 3 in a NATS cluster, else 1).")
    ] = None,
    link: Annotated[
        list[str] | None,
        typer.Option("--link", metavar="REGION", help="Also what this region's mirror reads with; again for more."),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option("--mirror", metavar="REGION", help="On a region's servers: the mirror, and no more."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the buckets and the audit trail's stream, or check them. Exit 78 where one is not as it must be.

    Example: keydist store init --replicas 3
    """

    def work() -> int:
        node = this_node(config)
        if mirror is not None and link:
            raise UsageError("--mirror and --link exclude each other", fix="--link is for the servers at home")
        making = _made(node, link or [], replicas) if mirror is None else _made_mirror(node, mirror, replicas)
        done = asyncio.run(making)
        created, problems = any(made for made, _ in done), [line for _, wrong in done for line in wrong]
        if as_json:
            bucket = node.config.nats.bucket
            print_json({"bucket": bucket, "created": created, "problems": problems, "changed": created})
        else:
            print_line(f"bucket {node.config.nats.bucket}: {'made' if created else 'is there'}")
            if mirror is not None and created:
                tell(f"keydist: if {mirror} had a mirror before, this belongs before it, at home: keydist store init")
                tell(f"  --link {mirror}; or the new one is empty until the next change: docs/scaling.md")
            for problem in problems:
                tell(f"keydist: problem: {problem}")
        return ConfigError.exit_code if problems else 0

    finish(work, as_json=as_json)


async def _made(node: Machine, links: list[str], replicas: int | None) -> list[tuple[bool, list[str]]]:
    """Make or check each of what home needs: whether it was made, and what is wrong with it."""
    from keydist.adapters.nats.accounts import check_name  # noqa: PLC0415 - what it needs, no other command here does

    regions = [check_name(region) for region in links]
    opened = wiring.open_ports(node.config)
    try:
        done = [await opened.store.ensure_bucket(replicas=replicas)]
        done.append(await opened.records.ensure_bucket(replicas=replicas))
        if node.config.audit.stream:
            done.append(await opened.trail.ensure(replicas=replicas))
        return done + [await opened.store.ensure_link(region) for region in regions]
    finally:
        await opened.store.close()


async def _made_mirror(node: Machine, region: str, replicas: int | None) -> list[tuple[bool, list[str]]]:
    """Make or check a region's mirror; as `_made`."""
    from keydist.adapters.nats.accounts import check_name  # noqa: PLC0415 - as above

    opened = wiring.open_ports(node.config)
    try:
        return [await opened.store.ensure_mirror(check_name(region), replicas=replicas)]
    finally:
        await opened.store.close()


@app.command("republish")
def republish_command(config: ConfigOption = None, token_file: TokenOption = None, as_json: JsonOption = False) -> None:
    """Put this node's keyset back, byte for byte, into a store that lost it. Overwrites nothing but an ancestor.

    Example: keydist store republish
    """

    def work() -> int:
        node = this_node(config, token_file)
        local = held_local(node)
        done = with_store(node, lambda ports: republish(ports, local))
        if as_json:
            print_json({"epoch": done.held.keyset.epoch, "revision": done.revision, "changed": done.changed})
        else:
            what = "put back" if done.changed else "the store has it already:"
            print_line(f"{what} epoch {done.held.keyset.epoch} at revision {done.revision}")
        return 0

    finish(work, as_json=as_json)


@app.command("backup")
def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A new file; it is sealed under the bootstrap token.")],
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write this node's sealed keyset to a new file. Only a holder of its bootstrap token can open it.

    Example: keydist store backup keydist-$(date +%F).jwe
    """

    def work() -> int:
        held = held_local(this_node(config, token_file)).held
        if held is None:  # pragma: no cover - held_local raises
            raise AssertionError
        write_backup(named(file, "backup"), held.envelope)
        if as_json:
            facts = {"file": file, "epoch": held.keyset.epoch, "lineage": held.keyset.lineage, "token": held.token_id}
            print_json(facts | {"digest": b64url_encode(held.digest), "changed": True})
        else:
            print_line(f"{file}: epoch {held.keyset.epoch}, sealed under token {held.token_id}")
            tell(
                f"keydist: keep token {held.token_id} with it; rehearse it with: keydist store restore --verify {file}"
            )
        return 0

    finish(work, as_json=as_json)


@app.command("restore")
def restore_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A backup, as keydist store backup wrote it.")],
    verify: Annotated[bool, typer.Option("--verify", help="A rehearsal in memory: open, check, sign, verify.")] = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install a backup on this node, by the rules for every keyset; with --verify note that it can be, nothing more.

    Example: keydist store restore --verify keydist-2026-11-21.jwe
    """

    def work() -> int:
        node = this_node(config, token_file)
        node.token()
        envelope = read_bounded(file, most=MAX_ENVELOPE).rstrip(b"\n")
        if verify:
            done, noted = _rehearse(node, envelope)
        else:
            done, noted = restore(ports_of(node), node.load(), envelope), False
        keyset = done.held.keyset
        if as_json:
            facts = {"epoch": keyset.epoch, "kid": keyset.active.kid, "lineage": keyset.lineage}
            print_json(facts | {"verified": verify, "noted": noted, "changed": done.changed})
            return 0
        how = "opens, signs and verifies" if verify else "restored" if done.changed else "was here already"
        print_line(f"{file} {how}: epoch {keyset.epoch} of lineage {keyset.lineage}, key {keyset.active.kid}")
        if done.changed:
            tell("keydist: next, on a leader: keydist bootstrap puts it back into the store")
        return 0

    finish(work, as_json=as_json)


def _rehearse(node: Machine, envelope: bytes) -> tuple[Recovered, bool]:
    """Try a backup out, and note on this node's disk when; what keeps that from being noted is told.

    A node without a keyset has nowhere to note it.
    """
    try:
        local = node.load()
    except WrongUserError as exc:  # what the backup is worth does not depend on who asks
        tell_alarms((exc,))
        local = Local()
    held = rehearse(ports_of(node), local, envelope)
    if local.held is None:
        return Recovered(held=held, changed=False), False
    try:
        node.disk.note_done(rehearsed=node.clock.now())
    except (DiskError, PermissionFamilyError, TransientError) as exc:
        tell_alarms((exc,))
        return Recovered(held=held, changed=False), False
    return Recovered(held=held, changed=False), True


@app.command("resolve")
def resolve(
    keep: Annotated[str, typer.Option("--keep", metavar="local|store", help="The side that stays.")],
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show both sides of a fork and the consequences, then take the side that is named.

    Example: keydist store resolve --keep local --dry-run
    """

    def work() -> int:
        if keep not in ("local", "store"):
            raise UsageError("--keep names a side", expected="local or store", found=repr(keep)[:32])
        node = this_node(config, token_file)
        node.token()
        local = held_local(node)

        fork, done = with_store(node, lambda ports: _settle(ports, local, keep, dry_run=dry_run))
        kept = done.held if done else fork.store_held if fork and keep == "store" else local.held
        if kept is None:  # pragma: no cover - the store's side has an obstacle where it cannot be opened
            raise AssertionError
        facts = {"epoch": kept.keyset.epoch, "kid": kept.keyset.active.kid, "lineage": kept.keyset.lineage}
        if as_json:
            print_json(facts | {"fork": fork is not None, "keep": keep, "changed": done is not None})
        else:
            what = "no fork:" if fork is None else "kept" if done else "would keep"
            print_line(f"{what} epoch {facts['epoch']} of lineage {facts['lineage']}, key {facts['kid']}")
        return 0

    finish(work, as_json=as_json)


async def _settle(ports: Node, local: Local, keep: str, *, dry_run: bool) -> tuple[Fork | None, Recovered | None]:
    """Show the fork, if there is one, and take the side that is named."""
    fork = await inspect_fork(ports, local)
    if fork is None:
        return None, None
    _tell_sides(fork)
    if keep == "store" and fork.obstacle is not None:
        raise fork.obstacle
    _tell_consequences(fork, keep)
    if dry_run:
        return fork, None
    return fork, await keep_local(ports, local, fork) if keep == "local" else keep_store(ports, local, fork)


def _tell_sides(fork: Fork) -> None:
    tell(f"keydist: {fork.reason.message}")
    _tell_side("local", fork.local)
    if fork.store is None:
        tell(f"  store   cannot be opened: {fork.reason}")
    else:
        _tell_side("store", fork.store)


def _tell_consequences(fork: Fork, keep: str) -> None:
    lost = fork.store if keep == "local" else fork.local
    if lost is not None:
        tell(f"keeping {keep}: JWTs signed by {', '.join(lost.only_here) or 'no key'} stop being accepted")
    elif isinstance(fork.reason, WrongTokenError):
        tell(f"keeping local: was token {fork.reason.need} made to replace this node's? Then the store is ahead, not")
        tell("  on another side: put that token into the token file instead")
    if keep == "local":
        tell("keeping local: the store is overwritten; a node that holds the store's side starts from disk with an")
        tell("  alarm, until there: keydist store resolve --keep store")
    else:
        tell("keeping store: this node's side goes to the archive's predecessor, then away; any other node that holds")
        tell("  it needs the same command")


def _tell_side(name: str, side: Side) -> None:
    tell(f"  {name:<6}  epoch {side.epoch} of lineage {side.lineage}, issued {date(side.issued)}")
    tell(f"          key {side.kid}, token {side.token_id}, digest {side.digest}")
