"""`keydist token rotate | retire`: another bootstrap token for the cluster, without an outage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from keydist.adapters.token_file import TokenSource, drop_token, find_token_file, read_tokens
from keydist.cli.command import ConfigOption, DryRunOption, JsonOption, TokenOption, finish, named, this_node
from keydist.cli.operate import PATIENCE, TimeoutOption, WaitOption, WithoutOption, operate, seconds_of, tell_lacking
from keydist.cli.render import print_json, print_line, tell, tell_alarms
from keydist.cli.token import app
from keydist.core.strict import is_hex
from keydist.errors import ForbiddenError, TokenError, UsageError
from keydist.services.replace_token import check_retirable, moved, plan, replace_token

if TYPE_CHECKING:
    from keydist.core.token import BootstrapToken
    from keydist.services.command import Command
    from keydist.services.replace_token import Plan
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
        seconds, left_out = seconds_of(timeout, "--timeout"), frozenset(without or ())
        own = this_node(config, token_file)
        new = _new_token(named(new_token_file, "--new-token-file"), own)
        node = _with(own, new)
        local = node.load()

        async def run(command: Command) -> int:
            current, found = await plan(command, local, new, from_disk=from_disk, without=left_out)
            _check_own_file(own, found)
            if dry_run or found.is_done:
                _show_plan(found, as_json=as_json)
                return 0
            done = await replace_token(command, current, found, new)
            late = await moved(command, done.held, seconds=seconds) if wait else ()
            tell_alarms(done.alarms)
            epoch = done.held.keyset.epoch
            if as_json:
                facts = {"epoch": epoch, "token_id": new.token_id, "previous_token_id": found.old_id}
                print_json(facts | {"lacking": list(late), "changed": True})
            else:
                print_line(f"epoch {epoch}: sealed under token {new.token_id}, no longer under {found.old_id}")
            tell(f"keydist: backups sealed under {found.old_id} need it still: keep it with them, or take a new backup")
            tell(f"keydist: once every node has moved, on each: keydist token retire {found.old_id}")
            return tell_lacking(late, done.held) if wait else 0

        return operate(node, run)

    finish(work, as_json=as_json)


def _new_token(path: str, own: Machine) -> BootstrapToken:
    """Return the token of a file that is not the one in use; of one token, that. Raises `TokenError`."""
    found = read_tokens(TokenSource(path))
    held = own.load().held
    fresh = [token for token in found if held is None or token.token_id != held.token_id]
    if len(fresh) > 1:
        raise TokenError(
            f"{path} holds two tokens, and neither is the one in use",
            expected="the new token, alone or beside the current one",
            fix="put the new token into a file of its own",
        )
    return fresh[0] if fresh else found[0]


def _with(node: Machine, new: BootstrapToken) -> Machine:
    """Return a node that holds a new token too."""
    tokens = (*(token for token in node.tokens if token.token_id != new.token_id), new)
    return node._replace(tokens=tokens, demands=node.demands._replace(tokens=tokens))


def _check_own_file(own: Machine, found: Plan) -> None:
    """Refuse where this node itself would be left behind. Raises `TokenError`."""
    if found.new_id not in {token.token_id for token in own.tokens}:
        raise TokenError(
            f"this node's own token file does not hold token {found.new_id}",
            expected="the new token as the second line of the token file of every node",
            found=", ".join(token.token_id for token in own.tokens) or "no token",
            fix="add it there, and systemctl reload keydist; then run the command again",
        )


def _show_plan(found: Plan, *, as_json: bool) -> None:
    epoch = found.held.keyset.epoch
    if as_json:
        facts = {"epoch": epoch, "token_id": found.new_id, "previous_token_id": found.old_id}
        print_json(facts | {"lacking": list(found.lacking), "changed": False})
        return
    if found.is_done:
        print_line(f"epoch {epoch} is sealed under token {found.new_id} already")
        return
    print_line(f"epoch {epoch + 1}: the same keys, sealed under token {found.new_id} instead of {found.old_id}")
    print_line(f"  without it      {', '.join(found.lacking) or 'nobody: every live node holds the new token'}")
    print_line(f"  a node that holds only {found.old_id} keeps serving, but cannot follow")
    print_line(f"  every backup sealed under {found.old_id} still needs {found.old_id}: take a new one afterwards")


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
            raise UsageError(f"{token_id[:32]!a} is not a token id", expected=f"{_ID_HEX} lower-case hex digits")
        node = this_node(config, token_file)
        ids = [token.token_id for token in node.tokens]
        if node.token_error is not None:
            raise node.token_error
        changed = token_id in ids
        if changed:
            local = node.load()
            unseen = operate(node, lambda command: check_retirable(command, local, token_id))
            if isinstance(unseen, ForbiddenError):
                tell(f"keydist: {unseen.message}; a leader sees all: keydist status --fleet")
            if not dry_run:
                drop_token(find_token_file(token_file, os.environ, node.config.token_file), token_id)
                ids.remove(token_id)
        if as_json:
            print_json({"id": ids[0], "ids": ids, "changed": changed and not dry_run})
        elif not changed:
            print_line(f"token {token_id} is not in this node's token file")
        else:
            print_line(f"token {token_id} {'would go' if dry_run else 'is gone'} from this node's token file")
            tell("keydist: a running agent forgets it at its next reload: systemctl reload keydist")
        return 0

    finish(work, as_json=as_json)
