"""``python -m tests.benchmarks [--quick]``: all benchmarks, as ratios against named alternatives."""

from __future__ import annotations

from tests.benchmarks import bench_read


def main() -> None:
    """Run all benchmarks and print their tables."""
    bench_read.main()


if __name__ == "__main__":
    main()
