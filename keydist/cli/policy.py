"""`keydist policy`: the times that the whole cluster goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keydist.adapters.duration import format_duration
from keydist.cli.command import ConfigOption, JsonOption, TokenOption, finish, held_local, this_node
from keydist.cli.operate import operate, seconds_of
from keydist.cli.render import print_json, print_line, tell_alarms
from keydist.core.policy import MEMBERS
from keydist.errors import UsageError
from keydist.services.change import set_policy

if TYPE_CHECKING:
    from keydist.core.policy import Policy

app = typer.Typer(no_args_is_help=True, help="The cluster's policy.", rich_markup_mode=None)
_COUNT = "max_tokens_per_key"


@app.command("show")
def show(config: ConfigOption = None, token_file: TokenOption = None, as_json: JsonOption = False) -> None:
    """Show the policy that this node's keyset carries, in seconds with --json.

    Example: keydist policy show
    """

    def work() -> int:
        held = held_local(this_node(config, token_file)).held
        if held is not None:
            _show(held.keyset.policy, {}, as_json=as_json)
        return 0

    finish(work, as_json=as_json)


@app.command("set")
def set_members(
    settings: Annotated[list[str], typer.Argument(metavar="NAME=DURATION...", help="For example rotate_every=30d.")],
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set members of the policy for the whole cluster, in one epoch. What was promised is never lowered.

    Example: keydist policy set rotate_every=14d max_lifetime=2d
    """

    def work() -> int:
        values, node = dict(_parse(setting) for setting in settings), this_node(config, token_file)
        local = node.load()
        done = operate(node, lambda command: set_policy(command, local, values))
        held = done.held if done else node.load().held
        if done is not None:
            tell_alarms(done.alarms)
        if held is not None:
            _show(held.keyset.policy, {"epoch": held.keyset.epoch, "changed": done is not None}, as_json=as_json)
        return 0

    finish(work, as_json=as_json)


def _parse(setting: str) -> tuple[str, int]:
    name, equals, value = setting.partition("=")
    if not equals:
        raise UsageError(f"{setting[:64]!a} sets nothing", expected="NAME=DURATION, for example rotate_every=30d")
    if name == _COUNT:
        if not (value.isascii() and value.isdigit() and len(value) <= 15):  # noqa: PLR2004 - below 2^53
            raise UsageError(f"{name} is a number", expected="0 for none", found=ascii(value[:32]))
        return name, int(value)
    return name, int(seconds_of(value, name))


def _show(policy: Policy, more: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(policy.as_json() | more)
        return
    for name in MEMBERS:
        value = getattr(policy, name)
        print_line(f"{name:<20} {value if name == _COUNT else format_duration(value)}")
