"""`keydist config`: check, show and describe the configuration."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from keydist.adapters.config import describe, json_schema, load_config
from keydist.cli.command import ConfigOption, JsonOption, finish
from keydist.cli.render import print_json, print_line
from keydist.errors import UsageError
from keydist.wiring import machine

app = typer.Typer(no_args_is_help=True, help="Check, show and describe the configuration.", rich_markup_mode=None)


@app.command("check")
def check(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="The configuration to check.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the configuration and the token file that it names. Exit 78 where it is refused.

    Example: keydist config check /etc/keydist/keydist.yaml
    """

    def work() -> int:
        if file is not None and config is not None:
            raise UsageError("the configuration is named twice", fix="leave out --config")
        settled = load_config(config if file is None else file, environ=os.environ, overrides={})
        node = machine(settled, os.environ)
        if node.token_error is not None:
            raise node.token_error
        if as_json:
            print_json({"ok": True, "cluster": settled.cluster, "node": settled.node, "role": settled.role})
        else:
            print_line(f"ok: {settled.node}, {settled.role} of {settled.cluster}")
        return 0

    finish(work, as_json=as_json)


@app.command("show")
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print every setting, its value and where it came from.

    Example: keydist config show --json
    """

    def work() -> int:
        rows = describe(config, environ=os.environ, overrides={})
        if as_json:
            print_json({name: {"value": value, "source": source} for name, value, source in rows})
            return 0
        width = max(len(name) for name, _, _ in rows)
        for name, value, source in rows:
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else "-" if value is None else value
            print_line(f"{name:<{width}}  {shown}  ({source})")
        return 0

    finish(work, as_json=as_json)


@app.command("schema")
def schema(as_json: JsonOption = False) -> None:
    """Print the JSON Schema of the configuration file; it is JSON with --json and without.

    Example: keydist config schema > keydist.schema.json
    """
    del as_json  # every command knows it

    def work() -> int:
        print_json(json_schema())
        return 0

    finish(work, as_json=True)
