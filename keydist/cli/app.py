"""The full command line: every command with its options, help and completion."""

from __future__ import annotations

import io
import sys
from functools import cache
from typing import Annotated

import typer
import typer.exceptions
import typer.main
from typer.core import TyperGroup

from keydist import __version__
from keydist.cli import audit, config, jwe, jwt, key_changes, keys, node, policy, store, token_changes
from keydist.cli import bootstrap as bootstrap_command
from keydist.cli import wait as wait_command
from keydist.cli.command import ConfigOption, JsonOption, TokenOption, ask, finish, this_node
from keydist.cli.doctor import doctor
from keydist.cli.install import install
from keydist.cli.no_jwt import NoJwtGroup
from keydist.cli.render import fail, print_json, print_line, tell
from keydist.cli.status import status
from keydist.errors import KeydistError, UsageError

_NAME = "keydist"
app = typer.Typer(
    name=_NAME,
    cls=NoJwtGroup,
    help="Give every node of a cluster the same JWT-signing key, and keep it that way.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(token_changes.app, name="token")
app.add_typer(store.app, name="store")
app.add_typer(key_changes.app, name="key")
app.add_typer(policy.app, name="policy")
app.add_typer(node.app, name="node")
app.add_typer(jwt.app, name="jwt")
app.add_typer(jwe.app, name="jwe")
app.add_typer(config.app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        print_line(f"keydist {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Give every node of a cluster the same JWT-signing key, and keep it that way."""


@app.command("bootstrap")
def bootstrap(
    *,
    role: Annotated[str | None, typer.Option("--role", metavar="leader|follower", help="Instead of role:.")] = None,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="TIME", help="How long to wait, for example 30s; 0 tries once."),
    ] = None,
    min_epoch: Annotated[
        str, typer.Option("--min-epoch", metavar="EPOCH", help="Refuse anything older than this epoch.")
    ] = "0",
    token_file: TokenOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """End with a verified keyset on disk, or say why not. A leader generates the first one, a follower waits for it.

    Example: keydist bootstrap --role leader --timeout 2m
    """
    options = bootstrap_command.BootstrapOptions(config, role, timeout, min_epoch, token_file, as_json)

    def work() -> int:
        mistake = bootstrap_command.mistakes(options)
        if mistake is not None:
            raise mistake
        return bootstrap_command.run(options)

    finish(work, as_json=as_json)


@app.command("agent")
def agent(
    role: Annotated[str | None, typer.Option("--role", metavar="leader|follower", help="Instead of role:.")] = None,
    config: ConfigOption = None,
    token_file: TokenOption = None,
) -> None:
    """Run the long-lived part of a node: follow the store, tell the fleet, run hooks; a leader rotates on schedule.

    SIGHUP reads configuration and token again, SIGTERM ends it.

    Example: keydist agent --config /etc/keydist/keydist.yaml
    """

    def work() -> int:
        from keydist.cli import agent as agent_command  # noqa: PLC0415 - what it needs, no other command does

        return agent_command.run(agent_command.AgentOptions(config, token_file, role))

    finish(work, as_json=False)


@app.command("wait")
def wait(
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="How long, for example 2m; by default for ever.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait until a verified keyset is on this node's disk, whoever brings it: for services that need the key.

    Example: keydist wait --timeout 2m
    """

    def work() -> int:
        return wait_command.run(wait_command.WaitOptions(config, timeout, as_json))

    finish(work, as_json=as_json)


@app.command("demo")
def demo(
    nodes: Annotated[int, typer.Option("--nodes", help="How many nodes, the leader included (2 to 50).")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Run a whole cluster on this machine: a real nats-server, a leader, followers; then an outage and a wiped store.

    Example: keydist demo --nodes 5
    """

    def work() -> int:
        from keydist.cli.demo import run_demo  # noqa: PLC0415 - rich costs 50 ms

        return run_demo(nodes=nodes, as_json=as_json)

    finish(work, as_json=as_json)


@app.command("reset")
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    config: ConfigOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget this node's state, its floor included: for machine images and retired nodes. Asks first.

    Example: keydist reset --yes
    """

    def work() -> int:
        node = this_node(config, token_file)
        where = node.config.state_dir
        if not yes and not dry_run:
            if not sys.stdin.isatty():
                raise UsageError("reset asks first, and there is no terminal", fix="say it with: keydist reset --yes")
            if not ask(f"Forget everything in {where}? If no other node or backup has the key, it is lost."):
                tell("keydist: nothing was forgotten")
                return 1
        changed = not dry_run and node.disk.reset()
        if as_json:
            print_json({"state_dir": where, "changed": changed})
        else:
            said = "would forget" if dry_run else "forgot" if changed else "nothing to forget in"
            print_line(f"{said} {where}")
        return 0

    finish(work, as_json=as_json)


app.command("status")(status)
app.command("doctor")(doctor)
app.command("audit")(audit.audit)
app.command("install")(install)
app.command("jwks")(keys.jwks)


@cache
def _command() -> TyperGroup:
    """Return the whole command line, built once: that takes longer than most commands do."""
    built = typer.main.get_command(app)
    if not isinstance(built, TyperGroup):  # pragma: no cover - it has many commands
        raise TypeError
    return built


def run_app() -> int:
    """Run the command that the arguments name, and return its exit code."""
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO())  # closed, it reads as an empty one
    try:
        code: object = _command()(prog_name=_NAME, standalone_mode=False)
    except typer.Abort:
        return 130
    except typer.exceptions.TyperException as exc:
        return _usage(exc)
    except KeydistError as exc:  # of what runs before a command does, as --version
        return fail(exc, as_json="--json" in sys.argv)
    return code if isinstance(code, int) else 0


def _usage(exc: typer.exceptions.TyperException) -> int:
    """Say what is wrong with the command line; a command that needs more is answered with its help."""
    message = exc.format_message()
    if message.startswith("Usage:"):
        for line in message.splitlines():
            tell(line)
        return UsageError.exit_code
    path = getattr(getattr(exc, "ctx", None), "command_path", _NAME)
    text = " ".join(message.split()).rstrip(".")
    return fail(UsageError(text, fix=f"see: {path} --help"), as_json="--json" in sys.argv)
