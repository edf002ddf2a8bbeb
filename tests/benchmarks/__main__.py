"""``python -m tests.benchmarks [--quick]``: all benchmarks, then one table of ratios to named alternatives."""

from __future__ import annotations

import sys

from tests.benchmarks import (
    bench_busy,
    bench_decode,
    bench_extract,
    bench_growth,
    bench_memory,
    bench_onthefly,
    bench_probe,
    bench_read,
    bench_readout,
    bench_stack,
    bench_targets,
    bench_verify,
)
from tests.benchmarks.figures import Figure, print_table

BENCHMARKS = (
    bench_read,
    bench_verify,
    bench_decode,
    bench_extract,
    bench_probe,
    bench_onthefly,
    bench_readout,
    bench_stack,
    bench_targets,
    bench_memory,
    bench_growth,
    bench_busy,
)


def main() -> None:
    """Run all benchmarks, each printing its own tables, and print the table of all."""
    figures: list[Figure] = []
    for benchmark in BENCHMARKS:
        print(f"== {benchmark.__name__.rpartition('.')[2]}", flush=True)
        figures += benchmark.main()
        print(flush=True)
    quick = "--quick" in sys.argv[1:]
    if quick:
        print("The sizes are tiny, to see that everything runs: these ratios say nothing of speed.")
    print_table(figures, judged=not quick)


if __name__ == "__main__":
    main()
