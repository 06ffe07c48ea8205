"""`keydist policy`: the times that the whole cluster goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keydist.adapters.config_layers import nearest
from keydist.cli.command import ConfigOption, DryRunOption, JsonOption, TokenOption, finish, held_local, this_node
from keydist.cli.operate import operate, seconds_of
from keydist.cli.render import print_json, print_line, tell, tell_alarms
from keydist.cli.times import span
from keydist.core.policy import MEMBERS
from keydist.errors import UsageError
from keydist.services.change import set_policy

if TYPE_CHECKING:
    from keydist.core.policy import Policy
    from keydist.services.change import Changed

app = typer.Typer(no_args_is_help=True, help="The cluster's policy.", rich_markup_mode=None)
_COUNT = "max_tokens_per_key"
_MOST_DIGITS = 15  # below 2^53
_NEAR = 0.6


@app.command("show")
def show(config: ConfigOption = None, token_file: TokenOption = None, as_json: JsonOption = False) -> None:
    """Show the policy that this node's keyset carries, in seconds with --json.

    Example: keydist policy show
    """

    def work() -> int:
        held = held_local(this_node(config, token_file)).held
        if held is None:  # pragma: no cover - held_local raises
            raise AssertionError
        policy = held.keyset.policy
        if as_json:
            print_json(policy.as_json())
        else:
            _print(policy, policy)
        return 0

    finish(work, as_json=as_json)


@app.command("set")
def set_members(
    settings: Annotated[list[str], typer.Argument(metavar="NAME=DURATION...", help="For example rotate_every=30d.")],
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set members of the policy for the whole cluster, in one epoch. What was promised is never lowered.

    Example: keydist policy set rotate_every=14d max_lifetime=2d
    """

    def work() -> int:
        values, node = _parse(settings), this_node(config, token_file)
        local = node.load()
        done = operate(node, lambda command: set_policy(command, local, values, dry_run=dry_run))
        tell_alarms(done.alarms)
        _show(done, as_json=as_json, dry_run=dry_run)
        return 0

    finish(work, as_json=as_json)


def _parse(settings: list[str]) -> dict[str, int]:
    """Return the members that are set. Raises `UsageError`."""
    values: dict[str, int] = {}
    for setting in settings:
        name, value = _parse_one(setting)
        if name in values:
            raise UsageError(f"{name} is set twice", expected="each member once", fix="leave one of them out")
        values[name] = value
    return values


def _parse_one(setting: str) -> tuple[str, int]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise UsageError(
            "that sets nothing",
            expected="NAME=DURATION",
            found=ascii(setting[:64]),
            fix="write it as rotate_every=30d",
        )
    if name not in MEMBERS:
        near = nearest(name, MEMBERS, cutoff=_NEAR)
        raise UsageError(
            f"the policy has no {name[:32]!a}",
            expected=", ".join(MEMBERS),
            fix=f"did you mean {near}?" if near else "see: keydist policy show",
        )
    if name != _COUNT:
        return name, int(seconds_of(value, name))
    if not (value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS):
        raise UsageError(f"{name} is a number", expected="a count", found=ascii(value[:32]), fix=f"{name}=0 is none")
    return name, int(value)


def _show(done: Changed, *, as_json: bool, dry_run: bool) -> None:
    before, after = done.before.policy, done.after.policy
    if done.behind is not None:
        tell(f"keydist: this node has epoch {done.behind}, the store {done.before.epoch}: the command takes that first")
    if as_json:
        facts: dict[str, object] = {"epoch": done.after.epoch, "changed": done.is_made}
        print_json(after.as_json() | facts | ({"behind": done.behind} if dry_run else {}))
        return
    _print(after, before)
    if after == before:
        tell(f"keydist: the policy of epoch {done.after.epoch} says so already")
    elif dry_run:
        tell(f"keydist: that would be epoch {done.after.epoch}; nothing was changed")
    else:
        tell(f"keydist: epoch {done.after.epoch} carries it to every node")
    if after.max_lifetime > before.max_lifetime:
        wait = span(after.propagation)
        tell(f"keydist: JWTs of the longer lifetime are minted {wait} after a node has this epoch")


def _print(policy: Policy, before: Policy) -> None:
    for name in MEMBERS:
        value, was = getattr(policy, name), getattr(before, name)
        print_line(f"{name:<20} {_text(name, value)}" + ("" if value == was else f"  (was {_text(name, was)})"))


def _text(name: str, value: int) -> str:
    return str(value) if name == _COUNT else span(value)
