"""`keydist token generate | inspect`: make and look at bootstrap tokens. Only `--out -` prints a secret."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from keydist.adapters.config_layers import settle
from keydist.adapters.config_schema import TOKEN_FILE
from keydist.adapters.entropy import SystemEntropy
from keydist.adapters.token_file import find_token_file, read_tokens, write_token
from keydist.cli.command import ConfigOption, JsonOption, TokenOption, finish, named
from keydist.cli.render import print_json, print_line, tell
from keydist.core.token import format_token, generate_token
from keydist.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Make and look at bootstrap tokens.", rich_markup_mode=None)
STDOUT = "-"


@app.command("generate")
def generate(
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Where to write it (default: token_file:); - prints it.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new bootstrap token, mode 0400, never over an existing file; print its id.

    Example: keydist token generate --out ./token
    """

    def work() -> int:
        path = _configured_path(config) if out is None else named(out, "--out")
        if path == STDOUT and as_json:
            raise UsageError("--out - prints the token only", fix="leave out --json")
        token = generate_token(SystemEntropy().random)
        if path == STDOUT:
            print_line(format_token(token))
            tell(f"keydist: new token {token.token_id}")
            return 0
        write_token(path, format_token(token))
        if as_json:
            print_json({"id": token.token_id, "file": path, "changed": True})
        else:
            print_line(token.token_id)
            tell(f"keydist: wrote token {token.token_id} to {path}; copy this file to every node of the cluster")
        return 0

    finish(work, as_json=as_json)


@app.command("inspect")
def inspect(token_file: TokenOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check a token file's shape, checksum, owner and mode; print the ids, never the secrets.

    Example: keydist token inspect --token-file ./token
    """

    def work() -> int:
        # A file that is named needs no configuration.
        configured = _setting(config) if token_file is None else named(token_file, "--token-file")
        source = find_token_file(token_file, os.environ, configured)
        ids = [token.token_id for token in read_tokens(source)]
        if as_json:
            print_json({"id": ids[0], "ids": ids, "file": source.path})
        else:
            for token_id in ids:
                print_line(token_id)
        return 0

    finish(work, as_json=as_json)


def _configured_path(config: str | None) -> str:
    """Return where this node will look for its token."""
    return os.environ.get("KEYDIST_TOKEN_FILE") or _setting(config) or TOKEN_FILE


def _setting(config: str | None) -> str | None:
    """Return `token_file:`, or its default. Raises `ConfigError`."""
    value: str | None = settle(config, os.environ, {}).values["token_file"]
    return value
