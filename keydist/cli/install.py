"""`keydist install`: units, user and directories for a machine whose package manager does not bring them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keydist.adapters.units import (
    SAVED,
    UnitFile,
    Whose,
    check_executable,
    check_writable,
    own_executable,
    plan,
)
from keydist.adapters.units import install as install_file
from keydist.cli.command import DryRunOption, JsonOption, finish, named
from keydist.cli.render import print_json, print_line, tell
from keydist.errors import ConfigError, UsageError

_WOULD = {
    Whose.NOBODYS: "would create",
    Whose.THE_SAME: "unchanged",
    Whose.OURS: "would update",
    Whose.A_PERSONS: "would replace",
    Whose.MASKED: "left masked",
}
_DID = {
    Whose.NOBODYS: "created",
    Whose.THE_SAME: "unchanged",
    Whose.OURS: "updated",
    Whose.A_PERSONS: "replaced",
    Whose.MASKED: "left masked",
}


def install(
    *,
    systemd: Annotated[bool, typer.Option("--systemd", help="Units, the user keydist, and /etc/keydist.")] = False,
    root: Annotated[str, typer.Option("--root", metavar="DIR", help="Below this directory, as for an image.")] = "/",
    executable: Annotated[
        str | None, typer.Option("--executable", metavar="PATH", help="What units start, instead of this keydist.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help=f"Replace files that were changed by hand too; each is kept as {SAVED}.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Install the systemd units, sysusers and tmpfiles, and say what comes next. Enables and starts nothing.

    A file that was changed by hand is not replaced without --force.

    Example: keydist install --systemd --dry-run
    """

    def work() -> int:
        if not systemd:
            raise UsageError("nothing is named that could be installed", fix="keydist install --systemd")
        named(root, "--root")
        if not Path(root).is_dir():
            raise ConfigError(
                f"{root} is no directory", expected="the root of a system", fix="name another: --root DIR"
            )
        started = own_executable() if executable is None else executable
        check_executable(started, is_own=executable is None, root=root)
        planned = plan(root, started)
        _refuse_changed(planned, force=force)
        if not dry_run:
            check_writable(planned)
            for unit in planned:
                if unit.is_written:
                    install_file(unit)
        said = _WOULD if dry_run else _DID
        changed = not dry_run and any(unit.is_written for unit in planned)
        follows = _next(root, started, planned)
        if as_json:
            rows = [{"path": unit.path, "state": said[unit.whose]} for unit in planned]
            print_json({"root": root, "executable": started, "files": rows, "next": follows, "changed": changed})
            return 0
        for unit in planned:
            print_line(f"{said[unit.whose]:<13}  {unit.path}")
        tell("keydist: next:")
        for command in follows:
            tell(f"  {command}")
        return 0

    finish(work, as_json=as_json)


def _refuse_changed(planned: tuple[UnitFile, ...], *, force: bool) -> None:
    changed = [unit.path for unit in planned if unit.whose is Whose.A_PERSONS]
    if changed and not force:
        raise ConfigError(
            "files were changed by hand, or come from elsewhere: nothing was installed",
            expected="no file, or one as keydist installed it",
            found=", ".join(changed),
            fix=f"keep changes in drop-ins (systemctl edit UNIT); --force replaces them, and keeps each as {SAVED}",
        )
    for path in changed:
        if Path(f"{path}{SAVED}").exists():
            raise ConfigError(
                f"{path}{SAVED} exists already: nothing was installed", fix="move it away, or remove it, then try again"
            )
        tell(f"keydist: {path} was changed by hand: kept as {path}{SAVED}")


def _next(root: str, executable: str, planned: tuple[UnitFile, ...]) -> list[str]:
    """Return the commands that remain, for this machine or for a tree; who masked the agent wants none."""
    is_masked = any(unit.path.endswith("/keydist.service") and unit.whose is Whose.MASKED for unit in planned)
    etc = Path(root) / "etc/keydist"
    is_here = root == "/"
    at = "" if is_here else f" --root={root}"
    commands = [f"systemd-sysusers{at}", f"systemd-tmpfiles{at} --create"]
    if not is_here and not (Path(root) / executable[1:]).exists():
        commands.insert(0, f"install keydist in the tree, as {executable}")
    if not (etc / "keydist.yaml").exists():
        commands.append(f"install -m 0644 keydist.yaml {etc}/keydist.yaml")
    if is_here and not (etc / "token").exists():
        commands.append(f"install -m 0400 TOKEN {etc}/token")
    if is_here:
        commands.append("systemctl daemon-reload")
    return [*commands, *([] if is_masked else [f"systemctl{at} enable{' --now' if is_here else ''} keydist"])]
