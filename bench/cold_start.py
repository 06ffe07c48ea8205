"""What a start costs beside a bare script that does the same work: whole processes, paired, medians.

`accept`: the key is in the store, the disk is empty; at most 1.15 × the bare script.
`restart`: the key is on disk, NATS is down; at most 1.3 ×.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench.paired import paired, report, run_once
from keydist.adapters.embedded import EmbeddedServer
from keydist.adapters.token_file import write_token
from keydist.core.token import format_token, generate_token

HERE = Path(__file__).parent
RUNS = int(os.environ.get("BENCH_RUNS", "40"))
ACCEPT_TARGET = 1.15
RESTART_TARGET = 1.3

CONFIG = """\
cluster: bench
node: node-a
role: {role}
token_file: {root}/token
state_dir: {root}/{state}
runtime_dir: {root}/run
nats:
  servers: [{url}]
"""


def keydist(*arguments: str) -> list[str]:
    """Return the installed command, run by this interpreter."""
    return [sys.executable, str(Path(sys.executable).parent / "keydist"), *arguments]


def main() -> None:
    """Measure both starts and print a row for each; exit 1 where a target is missed."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        server = EmbeddedServer(root / "nats")
        server.start()
        try:
            ok = measure(root, server)
        finally:
            server.stop()
    sys.exit(0 if ok else 1)


def measure(root: Path, server: EmbeddedServer) -> bool:
    """Measure in `root` against a running server, which is stopped on the way."""
    write_token(str(root / "token"), format_token(generate_token(os.urandom)))
    configs = {}
    for state, role in (("leader", "leader"), ("state", "follower")):
        configs[state] = root / f"{state}.yaml"
        configs[state].write_text(CONFIG.format(role=role, root=root, state=state, url=server.url), encoding="utf-8")
    run_once(keydist("bootstrap", "--config", str(configs["leader"]), "--json"), "generated")
    follower = ["--config", str(configs["state"])]
    accepted = paired(
        keydist("bootstrap", *follower, "--json"),
        [sys.executable, str(HERE / "bare_accept.py"), str(configs["state"])],
        runs=RUNS,
        expected='"epoch": 1',
        before=lambda: shutil.rmtree(root / "state", ignore_errors=True),
    )
    shutil.rmtree(root / "state", ignore_errors=True)
    run_once(keydist("bootstrap", *follower, "--json"), "retrieved")
    server.stop()
    restarted = paired(
        keydist("bootstrap", *follower, "--json"),
        [sys.executable, str(HERE / "bare_restart.py"), str(configs["state"])],
        runs=RUNS,
        expected="from-disk",
    )
    met = report("first start, key in the store", accepted, target=ACCEPT_TARGET)
    return report("restart from disk, NATS down", restarted, target=RESTART_TARGET) and met


if __name__ == "__main__":
    main()
