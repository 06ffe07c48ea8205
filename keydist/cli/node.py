"""`keydist node`: the fleet's records, and removing that of a node that is gone."""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from keydist.adapters.systemd import ServiceManager
from keydist.cli.command import ConfigOption, JsonOption, TokenOption, ask, finish, held_local, this_node
from keydist.cli.fleet_table import Frame, table
from keydist.cli.fleet_words import row_facts
from keydist.cli.operate import operate
from keydist.cli.progress import Progress
from keydist.cli.render import print_json, print_line, tell
from keydist.errors import UsageError
from keydist.services.forget import forget
from keydist.services.survey import Survey

if TYPE_CHECKING:
    from keydist.services.command import Command

_DECLINED = 1
app = typer.Typer(no_args_is_help=True, help="The nodes of the fleet, by their records.", rich_markup_mode=None)


@app.command("list")
def list_command(config: ConfigOption = None, token_file: TokenOption = None, as_json: JsonOption = False) -> None:
    """List every node that has a record, as one reading shows it; who lives, keydist status --fleet tells.

    Example: keydist node list --json
    """

    def work() -> int:
        node = this_node(config, token_file)
        node.token()
        held = held_local(node).held
        if held is None:  # pragma: no cover - held_local raises
            raise AssertionError

        async def read(command: Command) -> int:
            survey = Survey(command.node, command.records)
            await survey.begin()
            look = survey.look(held)
            look = look._replace(rows=tuple(sorted(look.rows, key=lambda row: row.name)))
            if as_json:
                print_json({"nodes": [row_facts(row) for row in look.rows]})
            elif look.rows:
                for line in table(Frame(look=look, held=held, now=node.clock.now(), title=""), width=None):
                    print_line("".join(span.text for span in line))
            else:
                tell("keydist: no node has a record: is keydist agent running anywhere?")
            return 0

        return operate(node, read)

    finish(work, as_json=as_json)


@app.command("forget")
def forget_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The node, as keydist node list shows it.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do not look whether it lives; if so it comes back.")] = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the record of a node that is gone for good. Watches it for three heartbeats first, and asks.

    Example: keydist node forget node-d --yes
    """

    def work() -> int:
        node = this_node(config, token_file)
        if not yes and not sys.stdin.isatty():
            raise UsageError("node forget asks first, and there is no terminal", fix="say it with: --yes")
        progress = Progress(ServiceManager({}))

        def told(what: str, left: float) -> None:
            if sys.stderr is not None and sys.stderr.isatty():
                progress.waiting(what, seconds_left=left)

        def agrees(why: str) -> bool:
            progress.done()
            return yes or ask(f"Forget node {name}? {why}")

        async def work_on(command: Command) -> bool | None:
            known = await command.records.read_all()
            if name not in known:
                raise _unknown(name, list(known))
            try:
                return await forget(
                    command.node,
                    command.records,
                    name,
                    watch=0 if force else command.heartbeat,
                    told=told,
                    agrees=agrees,
                )
            finally:
                progress.done()

        changed = operate(node, work_on)
        if as_json:
            print_json({"node": name, "changed": bool(changed)})
        elif changed is None:
            tell("keydist: nothing was forgotten")
        else:
            print_line(f"forgot {name}" if changed else f"{name} was gone already")
        return _DECLINED if changed is None else 0

    finish(work, as_json=as_json)


def _unknown(name: str, known: list[str]) -> UsageError:
    nearest = next(iter(difflib.get_close_matches(name[:64], known, n=1)), None)
    return UsageError(
        "no node of that name has a record",
        expected="a name of: keydist node list",
        found=ascii(name[:64]),
        fix=f"did you mean {nearest}?" if nearest else "nothing is there to be forgotten",
    )
