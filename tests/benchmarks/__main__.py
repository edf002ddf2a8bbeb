"""``python -m tests.benchmarks [--quick]``: all benchmarks, as ratios against named alternatives."""

from __future__ import annotations

from tests.benchmarks import bench_extract, bench_read, bench_readout, bench_stack, bench_targets


def main() -> None:
    """Run all benchmarks and print their tables."""
    bench_read.main()
    print()
    bench_extract.main()
    print()
    bench_readout.main()
    print()
    bench_stack.main()
    print()
    bench_targets.main()


if __name__ == "__main__":
    main()
