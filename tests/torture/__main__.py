"""python -m torture [PART...] [--size sample|nightly] [--times N] [--seed S] [--only CASE] [--results FILE]

Runs the parts (all of them when none is named), prints a table, and exits 1 if an invariant was violated or a negative
control was not caught. `--only` hands one case to one part, as it was printed beside a violation. `--results` keeps the
table there too, with the commit, the date and the machine; parts that did not run keep their rows. The commands under
torture are those in $PYSENDMAIL_TEST_BIN, or else beside this Python.
"""

from __future__ import annotations

import argparse
import importlib
import secrets
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from torture.report import Part, Size, details, results, table

# name on the command line -> module:function, called as run(size, seed, directory, only)
PARTS = {
    "checker": "torture.sabotage:run",
    "kill-sweep": "torture.kill_sweep:run",
    "kill-daemon": "torture.random_kills:run_daemon",
    "kill-client": "torture.random_kills:run_client",
    "hand-over": "torture.handover:run",
    "load": "torture.load:run",
    "power-cut": "torture.power_cut:run",
    "call-faults": "torture.call_faults:run",
    "full-disks": "torture.full_disks:run",
    "limits": "torture.limits:run",
    "pages": "torture.pages:run",
    "clocks": "torture.clocks:run",
    "descriptors": "torture.descriptors:run",
    "matrix": "torture.matrix:run",
    "tls": "torture.tls:run",
    "encoder": "torture.encoder:run",
    "model": "torture.model:run",
    "corpora": "torture.corpora:run",
    "fuzz": "torture.fuzz:run",
    "soak": "torture.soak:run",
    "peers": "torture.peers:run",
}
Run = Callable[[Size, int, Path, str], Part]


def load(name: str) -> Run:
    module, _, function = PARTS[name].partition(":")
    run: Run = getattr(importlib.import_module(module), function)
    return run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torture", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--size", choices=("sample", "nightly"), default="sample")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="nightly, N times over")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    parser.add_argument("--only", default="", metavar="CASE", help="this case of the one part that is named")
    parser.add_argument("--results", type=Path, metavar="FILE")
    asked = parser.parse_args()
    names: list[str] = asked.parts or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)} (there are {', '.join(PARTS)})")
    if asked.only and len(names) != 1:
        parser.error("--only: name the one part it is for")
    size = Size(name=asked.size, times=asked.times)
    parts: list[Part] = []
    for name in names:
        print(f"{name}: size {size.name} x {size.times}, seed {asked.seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix="torture-") as directory:
            Path(directory).chmod(0o755)
            try:
                part = load(name)(size, asked.seed, Path(directory), asked.only)
            except Exception:  # the others have their turn all the same
                part = Part(name=name, seed=asked.seed, broken=traceback.format_exc())
                print(part.broken, flush=True)
            parts.append(part.done())
        if asked.results is not None:  # after each: a long run may be cut off
            page = asked.results.read_text() if asked.results.exists() else ""
            asked.results.write_text(results([part], size, page))
    print(f"\n{table(parts)}\n{details(parts)}")
    return 0 if all(part.good for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
