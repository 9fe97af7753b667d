"""Run many cases of all kinds: ``python -m tests.fuzz --count 3000 --seed 0``."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

import nsmae_plugin  # noqa: F401  (before torch: sets the OpenMP policy)

# isort: split
from tests.fuzz import harness
from tests.fuzz.kinds import KINDS


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="cases of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), metavar="KIND")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one case, as reports name it")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    logging.basicConfig(level=logging.ERROR)
    numbers = range(-(-args.count // len(args.kinds)))
    kinds = args.kinds
    if args.only:
        kind, number = args.only.rsplit(":", 1)
        kinds, numbers = [kind], range(int(number), int(number) + 1)
    faults = []
    for kind in kinds:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            draw = KINDS[kind](Path(folder))
            harness.run_kind(kind, draw, range(3), args.seed)  # imports and compiles
            tally = harness.run_kind(kind, draw, numbers, args.seed, limited=True)
        faults += tally.faults
        counts = ", ".join(f"{count} {word}" for word, count in tally.counts.items())
        seconds = time.perf_counter() - start
        print(f"{kind}: {counts}, {len(tally.faults)} faults, {seconds:.0f} s", flush=True)
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
