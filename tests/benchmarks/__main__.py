"""``python -m tests.benchmarks [--quick]``: all benchmarks, as ratios against named alternatives."""

from __future__ import annotations

import sys

from tests.benchmarks import bench_read


def main() -> None:
    """Run all benchmarks and print their tables."""
    bench_read.main(quick="--quick" in sys.argv[1:])


if __name__ == "__main__":
    main()
