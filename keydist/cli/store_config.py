"""`keydist store config`: the NATS servers' configuration by least privilege, and for trying out the rest too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from keydist.adapters.clock import SystemClock
from keydist.adapters.entropy import SystemEntropy
from keydist.cli.command import ConfigOption, DryRunOption, JsonOption, configured, finish, named
from keydist.cli.render import print_bytes, print_json, print_line, tell
from keydist.errors import UsageError

if TYPE_CHECKING:
    from keydist.adapters.file_set import State, Wanted
    from keydist.adapters.store_files import Layout, Named, Server

_DEV_SERVERS: Final = ["nats-1=127.0.0.1:4222", "nats-2=127.0.0.1:4223", "nats-3=127.0.0.1:4224"]
_DEV_LEADERS: Final = ["lead-1"]
_DEV_FOLLOWERS: Final = ["node-a", "node-b"]
_CLIENT_PORT: Final = 4222
_LEAF_PORT: Final = 7422
_WIDTH: Final = len("replaced")


def store_config(
    *,
    leader: Annotated[
        list[str] | None,
        typer.Option("--leader", metavar="NAME[=NKEY]", help="A leader's node: and its public nkey; again for more."),
    ] = None,
    follower: Annotated[
        list[str] | None,
        typer.Option("--follower", metavar="NAME[=NKEY]", help="A follower's; again, or with commas, for more."),
    ] = None,
    operator: Annotated[
        str, typer.Option("--operator", metavar="NAME[=NKEY]", help="Who makes the buckets and forgets nodes.")
    ] = "operator",
    server: Annotated[
        list[str] | None,
        typer.Option(
            "--server",
            metavar="NAME[=HOST[:PORT]]",
            help="A server by the name that its peers use, and where clients reach it (default: nats.servers).",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Write a folder for each server; else print it.")
    ] = None,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="With --out: make the seeds of who has no nkey yet (0600, NAME/user.nk).")
    ] = False,
    dev_pki: Annotated[
        str | None,
        typer.Option("--dev-pki", metavar="DIR", help="For trying out: seeds, CAs, certificates, keydist.yaml files."),
    ] = None,
    client_certificates: Annotated[
        bool,
        typer.Option("--client-certificates/--no-client-certificates", help="Whether clients show certificates."),
    ] = True,
    files_dir: Annotated[
        str, typer.Option("--files-dir", metavar="DIR", help="Where a server finds its certificates.")
    ] = "/etc/nats",
    store_dir: Annotated[
        str, typer.Option("--store-dir", metavar="DIR", help="Where a server keeps JetStream.")
    ] = "/var/lib/nats",
    listen: Annotated[
        str,
        typer.Option(
            "--listen", metavar="ADDRESS", help="Where a server listens for clients; {name} and {host} are its own."
        ),
    ] = "0.0.0.0:4222",
    routes: Annotated[
        str, typer.Option("--routes", metavar="ADDRESS", help="Where a server listens for its peers.")
    ] = "0.0.0.0:6222",
    monitor: Annotated[
        str, typer.Option("--monitor", metavar="ADDRESS", help="Where a server answers health checks.")
    ] = "127.0.0.1:8222",
    link: Annotated[
        list[str] | None,
        typer.Option("--link", metavar="REGION[=NKEY]", help="A region that may link to these servers."),
    ] = None,
    leaf: Annotated[
        str, typer.Option("--leaf", metavar="ADDRESS", help="Where a server listens for regions' links.")
    ] = "0.0.0.0:7422",
    region: Annotated[
        str | None, typer.Option("--region", metavar="NAME", help="The servers and followers are this region's.")
    ] = None,
    home: Annotated[
        list[str] | None,
        typer.Option("--home", metavar="HOST[:PORT]", help="Where a region links to; again for more servers."),
    ] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="Instead of cluster:.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that differ; never a seed or a private key.")
    ] = False,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the configuration of the NATS servers: accounts that allow each node what it needs, TLS, JetStream, routes.

    Example: keydist store config --dev-pki nats-dev
    """

    def work() -> int:
        from keydist.adapters.store_files import Layout  # noqa: PLC0415 - what it needs, no other command does
        from keydist.cli.addresses import homes, listening_port  # noqa: PLC0415

        _check_options(out=out, dev_pki=dev_pki, seeds=seeds, force=force, files_dir=files_dir, store_dir=store_dir)
        listening = {"--listen": listen, "--routes": routes, "--monitor": monitor, "--leaf": leaf}
        port, *_ = (listening_port(option, address) for option, address in listening.items())
        linked = homes(home or [], port=_LEAF_PORT)
        _check_region(region, linked, link)
        name = cluster or ("dev" if dev_pki is not None and config is None else None)
        settings = configured(config, {"cluster": name} if name else {})
        is_default = dev_pki is not None and not (leader or follower)
        layout = Layout(
            cluster=settings.cluster,
            bucket=settings.nats.bucket,
            entry=settings.nats.entry,
            servers=_servers(server or (_DEV_SERVERS if dev_pki else None), settings.nats.servers, port=port),
            operator=_named([operator])[0],
            leaders=_named(_DEV_LEADERS if is_default else leader or []),
            followers=_named(_DEV_FOLLOWERS if is_default else follower or []),
            listen=listen,
            routes=routes,
            monitor=monitor,
            files_dir=files_dir,
            store_dir=store_dir,
            client_certificates=client_certificates,
            links=_named(link or []),
            leaf=leaf,
            region=region,
            home=linked,
        )
        directory = dev_pki if dev_pki is not None else out
        if directory is None:
            return _print(layout, as_json=as_json)
        files = _wanted(layout, directory.rstrip("/") or "/", seeds=seeds, dev=dev_pki is not None)
        _tell_removed(files)
        states = _write(directory, files.wanted, force=force, dry_run=dry_run)
        _show(directory, files, states, dry_run=dry_run, as_json=as_json)
        if not dry_run and not as_json:
            _tell_next(directory, layout, files.wanted, states, dev=dev_pki is not None)
        return 0

    finish(work, as_json=as_json)


def _check_options(
    *, out: str | None, dev_pki: str | None, seeds: bool, force: bool, files_dir: str, store_dir: str
) -> None:
    if out is not None and dev_pki is not None:
        raise UsageError("--out and --dev-pki exclude each other", fix="leave out --out: --dev-pki names the directory")
    for option, path in (("--out", out), ("--dev-pki", dev_pki)):
        if path is not None:
            named(path, option)
    if out is None and dev_pki is None and (seeds or force):
        raise UsageError("--seeds and --force are about files", fix="name a directory: --out DIR")
    for option, path in (("--files-dir", files_dir), ("--store-dir", store_dir)):
        if not path.startswith("/"):
            raise UsageError(
                f"{option} is a place on the server's machine", expected="an absolute path", found=ascii(path)[:80]
            )


def _check_region(region: str | None, home: tuple[str, ...], link: list[str] | None) -> None:
    from keydist.adapters.nats.accounts import check_name  # noqa: PLC0415 - as above

    if (region is None) != (not home):
        raise UsageError("--region and --home go together", fix="name both: the region, and where it links to")
    if region is not None:
        check_name(region)
        if link:
            raise UsageError("a region takes no links", fix="--link is for the servers at home")


def _named(texts: list[str]) -> tuple[Named, ...]:
    from keydist.adapters.nats.accounts import check_name, check_nkey  # noqa: PLC0415 - as above
    from keydist.adapters.store_files import Named  # noqa: PLC0415

    found = []
    for text in (part for one in texts for part in re.split(r"[,\s]+", one) if part):
        name, mark, nkey = text.partition("=")
        found.append(Named(check_name(name), check_nkey(name, nkey) if mark else None))
    return tuple(found)


def _servers(texts: list[str] | None, urls: tuple[str, ...], *, port: int) -> tuple[Server, ...]:
    from keydist.cli.addresses import named_servers, servers_of_urls  # noqa: PLC0415 - as above

    return servers_of_urls(urls, port=_CLIENT_PORT) if texts is None else named_servers(texts, port=port)


def _print(layout: Layout, *, as_json: bool) -> int:
    """Print the one server's configuration."""
    from keydist.adapters.store_files import configurations, users_of  # noqa: PLC0415 - as above

    if len(layout.servers) != 1:
        raise UsageError(
            "the configurations of several servers do not go to standard output",
            expected="one --server",
            found=str(len(layout.servers)),
            fix="name a directory: --out DIR",
        )
    (text,) = configurations(layout, users_of(layout, {})).values()
    if as_json:
        print_json({"server": layout.servers[0].name, "configuration": text, "changed": False})
    else:
        print_bytes(text.encode("utf-8"))
    return 0


class _Files(NamedTuple):
    """What is to be written, and who is let in by the configurations that are there, and by these no more."""

    wanted: list[Wanted]
    removed: list[str]


def _wanted(layout: Layout, directory: str, *, seeds: bool, dev: bool) -> _Files:
    from keydist.adapters.file_set import read_file  # noqa: PLC0415 - as above
    from keydist.adapters.store_files import SEED, dev_files, removed_users, seeds_of, wanted_files  # noqa: PLC0415

    def read(path: str, secret: bool) -> bytes | None:
        return read_file(directory, path, secret=secret)

    held = seeds_of(layout, read, SystemEntropy().random if seeds or dev else None)
    link = read(f"{layout.region}/{SEED}", True) if layout.region is not None else None  # noqa: FBT003 - a secret
    wanted = wanted_files(layout, held, link)
    removed = removed_users(wanted, read)
    return _Files([*dev_files(layout, read, SystemClock().now()), *wanted] if dev else wanted, removed)


def _tell_removed(files: _Files) -> None:
    if files.removed:
        tell(f"keydist: not named, or with another nkey, and so not let in any more: {', '.join(files.removed)}")


def _write(directory: str, wanted: list[Wanted], *, force: bool, dry_run: bool) -> list[State]:
    from keydist.adapters.file_set import compare, write_files  # noqa: PLC0415 - as above

    return compare(directory, wanted) if dry_run else write_files(directory, wanted, overwrite=force)


def _show(directory: str, files: _Files, states: list[State], *, dry_run: bool, as_json: bool) -> None:
    words = {"new": "would write" if dry_run else "wrote", "same": "kept"}
    words["differs"] = "would replace, with --force" if dry_run else "replaced"
    rows = [
        {"path": f"{directory}/{file.path}", "state": str(state)}
        for file, state in zip(files.wanted, states, strict=True)
    ]
    if as_json:
        changed = not dry_run and any(row["state"] != "same" for row in rows)
        print_json({"directory": directory, "files": rows, "removed": files.removed, "changed": changed})
        return
    width = max(_WIDTH, *(len(words[row["state"]]) for row in rows))
    for row in rows:
        print_line(f"{words[row['state']]:<{width}}  {row['path']}")


def _tell_next(directory: str, layout: Layout, wanted: list[Wanted], states: list[State], *, dev: bool) -> None:
    from keydist.adapters.store_files import CONFIGURATION, LINK, SEED  # noqa: PLC0415 - as above

    if layout.region is not None and not any(file.path.endswith(f"/{LINK}") for file in wanted):
        tell(f"keydist: no {LINK} is written, and without it no server of a region starts: {layout.region}/{SEED} is")
        tell("  not there. Take it over from home and run this again, or write it yourself: nkey: SU…")
    if dev:
        tell("keydist: for development only: the CAs' keys are in there too")
    changed = {str(state) for file, state in zip(wanted, states, strict=True) if file.path.endswith(CONFIGURATION)}
    if "differs" in changed:
        tell("keydist: next, on each server, with its folder's files in place: nats-server --signal reload")
        if layout.links:
            tell("  for a region or a leader that is new instead: restart them, one after the other")
    elif dev:
        tell("keydist: next, with the servers running:")
        tell(f"  keydist token generate --out {directory}/token")
        more = "".join(f" --link {region.name}" for region in layout.links)
        more = more if layout.region is None else f" --mirror {layout.region}"
        tell(f"  keydist store init{more} --config {directory}/{layout.operator.name}/keydist.yaml")
        for one in (*layout.leaders[:1], *layout.followers[:1]) if layout.region is None else layout.followers[:1]:
            tell(f"  keydist bootstrap --config {directory}/{one.name}/keydist.yaml")
        tell("  and so on for each node")
