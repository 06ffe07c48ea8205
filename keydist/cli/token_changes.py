"""`keydist token rotate | retire`: another bootstrap token for the cluster, without an outage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from keydist.adapters.token_file import drop_token, find_token_file, left_without, read_tokens
from keydist.cli.command import ConfigOption, DryRunOption, JsonOption, TokenOption, finish, named, this_node
from keydist.cli.operate import (
    PATIENCE,
    TimeoutOption,
    WaitOption,
    WithoutOption,
    alarms_json,
    operate,
    seconds_of,
    tell_acknowledged,
    tell_behind,
    tell_unreadable,
)
from keydist.cli.render import print_json, print_line, tell, tell_alarms
from keydist.cli.token import app
from keydist.core.strict import is_hex
from keydist.errors import TokenError, UsageError
from keydist.services.replace_token import Wish, check_retirable, plan, replace_token
from keydist.services.waiting import Acknowledgement, moved

if TYPE_CHECKING:
    from keydist.core.token import BootstrapToken
    from keydist.services.command import Command
    from keydist.services.replace_token import Plan, Replaced, Retirable
    from keydist.wiring import Machine

__all__ = ["app"]
_ID_HEX = 10


@app.command("rotate")
def rotate(
    *,
    new_token_file: Annotated[
        str, typer.Option("--new-token-file", metavar="FILE", help="The new token; may hold the old one too.")
    ],
    from_disk: Annotated[
        bool, typer.Option("--from-disk", help="The old token is lost: seal what this node holds in plain.")
    ] = False,
    wait: WaitOption = False,
    without: WithoutOption = None,
    timeout: TimeoutOption = PATIENCE,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Seal the keyset under another bootstrap token. First every node gets it as the second line of its token file.

    Example: keydist token rotate --new-token-file /etc/keydist/token.new --wait
    """

    def work() -> int:
        seconds = seconds_of(timeout, "--timeout")
        own = this_node(config, token_file)
        new = _new_token(named(new_token_file, "--new-token-file"), own)
        _check_own_file(own, new)
        node = _with(own, new)
        local, wish = node.load(), Wish(new, from_disk=from_disk, without=frozenset(without or ()))

        async def run(command: Command) -> int:
            if dry_run:
                _show_plan(await plan(command, local, wish), as_json=as_json)
                return 0
            done = await replace_token(command, local, wish)
            found = Acknowledgement()
            if wait:
                found = await moved(command, done.held, without=wish.without, seconds=seconds)
            _show_replaced(done, found, as_json=as_json)
            return tell_acknowledged(found, f"token {new.token_id}") if wait else 0

        return operate(node, run)

    finish(work, as_json=as_json)


def _new_token(path: str, own: Machine) -> BootstrapToken:
    """Return the token of a file that is not in use yet; where there is none, the one that is. Raises `TokenError`."""
    tokens, local = read_tokens(find_token_file(path, os.environ, None)), own.load()
    current = local.held.token_id if local.held else None
    superseded = local.floor.superseded if local.floor else frozenset[str]()
    fresh = [token for token in tokens if token.token_id != current and token.token_id not in superseded]
    if len(fresh) > 1:
        raise TokenError(
            f"{path} holds two tokens, and neither is the one in use",
            expected="the new token, alone or beside the current one",
            found=", ".join(token.token_id for token in fresh),
            fix="put the new token into a file of its own",
        )
    return next(iter((*fresh, *(token for token in tokens if token.token_id == current), *tokens)))


def _check_own_file(own: Machine, new: BootstrapToken) -> None:
    """Refuse where this node itself would be left behind. Raises `TokenError`, and why its tokens cannot be read."""
    if own.token_error is not None:
        raise own.token_error
    if new.token_id not in {token.token_id for token in own.tokens}:
        raise TokenError(
            f"this node's own token file does not hold token {new.token_id}",
            expected="the new token as the second line of the token file of every node",
            found=", ".join(token.token_id for token in own.tokens),
            fix="add it there, and systemctl reload keydist; then run the command again",
        )


def _with(node: Machine, new: BootstrapToken) -> Machine:
    """Return a node that goes by the new token as the file given for it has it."""
    tokens = (*(token for token in node.tokens if token.token_id != new.token_id), new)
    return node._replace(tokens=tokens, demands=node.demands._replace(tokens=tokens))


def _tell_doubts(found: Plan) -> None:
    if found.left_out:
        tell(
            f"keydist: warning: left behind: {', '.join(found.left_out)}; they keep serving what they have, and follow"
            " no change until they hold the new token"
        )
    if found.blind is not None:
        tell(f"keydist: warning: the fleet cannot be seen, so who holds the new token is not known: {found.blind}")
    tell_unreadable(found.unreadable)


def _show_plan(found: Plan, *, as_json: bool) -> None:
    epoch = found.held.keyset.epoch
    tell_behind(found.behind, found.held)
    _tell_doubts(found)
    if as_json:
        facts = {"epoch": epoch + (not found.is_done), "token_id": found.new_id, "previous_token_id": found.old_id}
        more = {"lacking": list(found.lacking), "without": list(found.left_out), "behind": found.behind}
        print_json(facts | more | {"changed": False})
        return
    if found.is_done:
        print_line(f"epoch {epoch} is sealed under token {found.new_id} already")
        return
    print_line(f"epoch {epoch + 1}: the same keys, sealed under token {found.new_id} instead of {found.old_id}")
    print_line(f"  without it      {', '.join(found.lacking) or 'nobody: every live node holds the new token'}")
    print_line(f"  a node that holds only {found.old_id} keeps serving, but cannot follow")
    print_line(f"  every backup sealed under {found.old_id} still needs {found.old_id}: take a new one afterwards")


def _show_replaced(done: Replaced, found: Acknowledgement, *, as_json: bool) -> None:
    planned, epoch = done.plan, done.held.keyset.epoch
    alarms = done.done.alarms if done.done else ()
    tell_alarms(alarms)
    if done.done is not None:
        _tell_doubts(planned)
    if as_json:
        facts = {"epoch": epoch, "token_id": planned.new_id, "previous_token_id": planned.old_id}
        more = {"lacking": list(found.lacking), "acknowledged": list(found.by)}
        late = (found.blind,) if found.blind else ()
        print_json(facts | more | {"alarms": alarms_json(*alarms, *late), "changed": done.done is not None})
    elif done.done is None:
        print_line(f"epoch {epoch} is sealed under token {planned.new_id} already")
    else:
        print_line(f"epoch {epoch}: sealed under token {planned.new_id}, no longer under {planned.old_id}")
    if done.done is not None:
        tell(f"keydist: backups sealed under {planned.old_id} need it still: keep it with them, or take a new backup")
        tell(f"keydist: once every node has moved, on each: keydist token retire {planned.old_id}")


@app.command("retire")
def retire(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the token to drop.")],
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Drop the old token's line on this node, once no node opens the keyset with it any more.

    Example: keydist token retire 0123456789
    """

    def work() -> int:
        if not is_hex(token_id, _ID_HEX):
            raise UsageError(
                "that is not a token id",
                expected=f"{_ID_HEX} lower-case hex digits",
                found=ascii(token_id[:32]),
                fix="see the ids with: keydist token inspect",
            )
        node = this_node(config, token_file)
        if node.token_error is not None:
            raise node.token_error
        ids = [token.token_id for token in node.tokens]
        changed = token_id in ids
        if changed:
            local = node.load()
            _tell_unseen(operate(node, lambda command: check_retirable(command, local, token_id)))
            source = find_token_file(token_file, os.environ, node.config.token_file)
            ids = [left_without(source, token_id).token_id]
            if not dry_run:
                drop_token(source, token_id)
        if as_json:
            print_json({"id": ids[0], "ids": ids, "changed": changed and not dry_run})
        elif not changed:
            print_line(f"token {token_id} is not in this node's token file")
        else:
            print_line(f"token {token_id} {'would go' if dry_run else 'is gone'} from this node's token file")
        if changed:
            tell(f"keydist: backups sealed under {token_id} cannot be opened without it: keep it with them")
        if changed and not dry_run:
            tell("keydist: a running agent forgets it at its next reload: systemctl reload keydist")
        return 0

    finish(work, as_json=as_json)


def _tell_unseen(found: Retirable) -> None:
    if found.unseen is not None:
        tell(f"keydist: {found.unseen.message}; a leader sees all: keydist status --fleet")
    tell_unreadable(found.unreadable)
