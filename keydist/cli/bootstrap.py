"""`keydist bootstrap`: end with a verified keyset on disk, or say why not.

Units run it at every boot, so it has a way in that loads no command-line library: see `parse_plain`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from keydist.adapters.config import load_config
from keydist.adapters.duration import parse_duration
from keydist.adapters.systemd import ServiceManager
from keydist.cli.progress import Progress
from keydist.cli.render import fail, print_json, print_line, tell_alarms
from keydist.errors import ConfigError, DiskError, KeydistError, UsageError
from keydist.wiring import Machine, machine, run_bootstrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keydist.services.from_disk import Outcome

ROLES: Final = ("leader", "follower")
_MOST_DIGITS: Final = 15
_VALUES: Final = {
    "--config": "config",
    "--role": "role",
    "--timeout": "timeout",
    "--min-epoch": "min_epoch",
    "--token-file": "token_file",
}


class BootstrapOptions(NamedTuple):
    """The options of `keydist bootstrap`, as text."""

    config: str | None = None
    role: str | None = None
    timeout: str | None = None
    min_epoch: str = "0"
    token_file: str | None = None
    as_json: bool = False


def parse_plain(arguments: Sequence[str]) -> BootstrapOptions | None:
    """Return the options where every argument is a known `--name value`, `--name=value` or `--json`; else None.

    Anything else (help, completion, mistakes) is for the full command line, which knows the same options.
    """
    options: dict[str, str] = {}
    as_json = False
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--json":
            as_json = True
        elif name in _VALUES:
            given = value if equals else next(rest, None)
            if given is None:
                return None
            options[_VALUES[name]] = given
        else:
            return None
    found = BootstrapOptions(as_json=as_json, **options)
    return None if mistakes(found) else found


def mistakes(options: BootstrapOptions) -> UsageError | None:
    """Return what is wrong with the options' values, if anything is."""
    fix = "see: keydist bootstrap --help"
    if options.role not in (None, *ROLES):
        return UsageError("--role names a role", expected=" or ".join(ROLES), found=ascii(options.role), fix=fix)
    if options.token_file is not None and not options.token_file:
        return UsageError("--token-file names no file", expected="a path", found="nothing", fix=fix)
    epoch = options.min_epoch
    if not (epoch.isascii() and epoch.isdecimal() and len(epoch) <= _MOST_DIGITS):
        expected = f"a number of at most {_MOST_DIGITS} digits"
        return UsageError("--min-epoch is an epoch", expected=expected, found=ascii(epoch[:32]), fix=fix)
    if options.timeout is not None:
        try:
            parse_duration(options.timeout)
        except ConfigError as exc:
            return UsageError("--timeout is a time", expected=exc.expected, found=exc.found, fix=fix)
    return None


def run(options: BootstrapOptions) -> int:
    """Bootstrap this node, print how it got its key, and return the exit code."""
    manager = ServiceManager(os.environ)
    progress = Progress(manager)
    try:
        overrides = {"role": options.role, "bootstrap.timeout": options.timeout}
        config = load_config(
            options.config,
            environ=os.environ,
            overrides={name: value for name, value in overrides.items() if value is not None},
        )
        node = machine(config, os.environ, token_file=options.token_file, min_epoch=int(options.min_epoch))
        try:
            outcome = run_bootstrap(node, seconds=config.bootstrap_timeout, notifier=progress)
        finally:
            progress.done()
    except KeydistError as exc:
        return fail(exc, as_json=options.as_json)
    manager.ready(f"holds epoch {outcome.held.keyset.epoch} ({outcome.how})")
    try:
        _show(node, outcome, as_json=options.as_json)
    except DiskError as exc:
        tell_alarms((exc,))  # the keyset is on disk, whoever cannot be told
    return 0


def _show(node: Machine, outcome: Outcome, *, as_json: bool) -> None:
    keyset, config = outcome.held.keyset, node.config
    tell_alarms(outcome.alarms)
    if as_json:
        print_json(
            {
                "outcome": outcome.how,
                "epoch": keyset.epoch,
                "kid": keyset.active.kid,
                "lineage": keyset.lineage,
                "role": config.role,
                "node": config.node,
                "cluster": config.cluster,
                "alarms": [alarm.as_json() for alarm in outcome.alarms],
                "changed": outcome.changed,
            }
        )
    else:
        print_line(
            f"{config.node} ({config.role}): {outcome.how} epoch {keyset.epoch} "
            f"of lineage {keyset.lineage}, key {keyset.active.kid}"
        )
