"""`keydist audit`: the trail of what happened to the keyset, and whether it is whole."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from keydist import wiring
from keydist.adapters.duration import parse_duration
from keydist.cli.command import ConfigOption, JsonOption, finish, this_node
from keydist.cli.render import print_json, print_line, tell
from keydist.cli.times import date, parse_time
from keydist.core.strict import b64url_encode
from keydist.errors import BrokenTrailError, ConfigError, PermissionFamilyError, TransientError, UnavailableError
from keydist.services.read_trail import Found, check, compare, in_journal, in_stream

if TYPE_CHECKING:
    from keydist.core.audit import Mint
    from keydist.core.audit_record import Entry
    from keydist.services.read_trail import Read
    from keydist.wiring import Machine, TrailPorts

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.,:@/+-]+", re.ASCII)


def audit(
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Check every chain; name the first broken link.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="RFC 3339, unix seconds, or 7d for a week back.")
    ] = None,
    node: Annotated[str | None, typer.Option("--node", metavar="NAME", help="Only this node's records.")] = None,
    local: Annotated[bool, typer.Option("--local", help="This node's own journal instead of the stream.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the audit trail, one record a line, or check it: exit 65 where a link is broken, 75 where it cannot be told.

    Example: keydist audit --verify
    """

    def work() -> int:
        machine = this_node(config)
        if verify:
            return asyncio.run(_verify(machine, node, local=local, as_json=as_json))
        start = 0 if since is None else _since(since, now=machine.clock.now())
        return asyncio.run(_show(machine, node, start, local=local, as_json=as_json))

    finish(work, as_json=as_json)


def _since(text: str, *, now: int) -> int:
    """Return unix seconds; a bare duration is one back from now. Raises `UsageError`."""
    try:
        return parse_time(text, now=now) if text.isdigit() else now - parse_duration(text)
    except ConfigError:
        return parse_time(text, now=now)


# --- showing ------------------------------------------------------------------------------------


async def _show(machine: Machine, node: str | None, since: int, *, local: bool, as_json: bool) -> int:
    ports = wiring.open_trail(machine)
    own, shown = machine.config.node, 0

    async def show(records: Any) -> None:  # noqa: ANN401 - an iterator of `Read`
        nonlocal shown
        async for read in records:
            if read.entry is None or read.entry.at >= since:
                _print(read, as_json=as_json)
                shown += 1

    try:
        if not local:
            try:
                await show(in_stream(ports.stream, node=node))
            except (TransientError, PermissionFamilyError) as exc:
                tell(f"keydist: the stream cannot be read: {exc}")
                tell(f"keydist: what follows is only what node {own} keeps itself")
                local = True
        if local and node in (None, own):
            await show(in_journal(ports.journal, node=own))
    finally:
        await ports.store.close()
    if shown and not as_json:
        tell("keydist: shown as it was found: signatures and links were not checked; for that: keydist audit --verify")
    return 0


def _print(read: Read, *, as_json: bool) -> None:
    if read.entry is None:
        tell(f"keydist: node {read.node}: something that is no record: see keydist audit --verify")
    elif as_json:
        print_json(json.loads(read.raw))
    else:
        print_line(_line(read.entry))


def _line(entry: Entry) -> str:
    facts = " ".join(f"{name}={_value(fact)}" for name, fact in entry.facts.items())
    who = " ".join(f"{name}={_value(fact)}" for name, fact in entry.who.items())
    what = f"{entry.what} ({entry.how})" if entry.how else entry.what
    head = f"{date(entry.at)}  {entry.place.node} #{entry.seq}  {what}  epoch {entry.epoch}"
    minted = "".join(f"  {_minted(mint)}" for mint in entry.minted)
    return f"{head}  {facts}{minted}  by {who}"


def _minted(mint: Mint) -> str:
    who = "" if mint.uid is None else f" uid={mint.uid}"
    return f"{b64url_encode(mint.sha256)} sub={mint.sub!a} kid={mint.kid}{who}"


def _value(fact: object) -> str:
    """Return a fact as text; in quotes where it could pass for another fact, or for who did it."""
    text = ",".join(fact) if isinstance(fact, tuple) else str(fact)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


# --- checking -----------------------------------------------------------------------------------


async def _verify(machine: Machine, node: str | None, *, local: bool, as_json: bool) -> int:
    ports, own = wiring.open_trail(machine), machine.config.node
    unread: UnavailableError | None = None
    waiting, differs = 0, None
    try:
        shipped = ports.journal.shipped()
        try:
            found = await _checked(ports, machine, node, local=local)
        except (TransientError, PermissionFamilyError) as exc:
            unread = UnavailableError(f"the stream cannot be read: {exc.message}", found=exc.found, fix=exc.fix)
            found = await _checked(ports, machine, node, local=True)
        if not local and unread is None and node in (None, own):
            mine = found.get(own)
            if mine is None or mine.broken is None:
                waiting, differs = compare(ports.journal, shipped, mine, node=own)
    finally:
        await ports.store.close()
    return _report(found, waiting, differs, unread, as_json=as_json, is_local=local or unread is not None)


async def _checked(ports: TrailPorts, machine: Machine, node: str | None, *, local: bool) -> dict[str, Found]:
    own, cluster = machine.config.node, machine.config.cluster
    if local:
        records = in_journal(ports.journal, node=own)
        return await check(records, cluster=cluster, key_of=ports.key_of, is_whole=False)
    return await check(in_stream(ports.stream, node=node), cluster=cluster, key_of=ports.key_of)


def _report(
    found: dict[str, Found],
    waiting: int,
    differs: BrokenTrailError | None,
    unread: UnavailableError | None,
    *,
    as_json: bool,
    is_local: bool,
) -> int:
    broken = [one.broken for one in found.values() if one.broken is not None]
    broken += [differs] if differs is not None else []
    unproven = sum(one.unproven for one in found.values())
    if as_json:
        print_json(
            {
                "source": "journal" if is_local else "stream",
                "nodes": [_facts(one) for one in found.values()],
                "broken": [error.as_json() for error in broken],
                "unproven": unproven,
                "waiting": waiting,
                "whole": not broken and not unproven and unread is None,
            }
        )
    else:
        for one in found.values():
            said = "BROKEN" if one.broken else "not proven" if one.unproven else "whole"
            chains = f", {len(one.chains)} chains" if len(one.chains) > 1 else ""
            print_line(f"{one.node}: {one.records} records{chains}: {said}")
        if not found:
            print_line("no records")
    if unread is not None:
        tell(f"keydist: {unread}")
    if waiting:
        tell(f"keydist: {waiting} records of this node are not in the stream yet; its agent brings them there")
    if unproven:
        tell(
            f"keydist: {unproven} records are signed by keys that this node has never held: whether they are genuine is"
            " not known here; look on a node that was there then"
        )
    for error in broken:
        tell(f"keydist: {error}")
    if broken:
        return BrokenTrailError.exit_code
    return UnavailableError.exit_code if unproven or unread is not None else 0


def _facts(found: Found) -> dict[str, object]:
    return {
        "node": found.node,
        "records": found.records,
        "unproven": found.unproven,
        "chains": [
            {"chain": link.chain, "seq": link.seq, "hash": b64url_encode(link.hash)} for link in found.chains.values()
        ],
        "broken": found.broken.as_json() if found.broken is not None else None,
    }
