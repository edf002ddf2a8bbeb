#!/bin/sh
# Everything that only a GPU can show, in under 8 minutes and without a network: CUDA tests, then tables of speed.
#
# usage: tests/benchmarks/gpu.sh [--dry-run] [--seconds N] [--only PART,...]
#
# Writes gpu.json and gpu.md into $OUT (./gpu-figures), after every part. Needs Python 3.11 or newer ($PYTHON, python3)
# with PyTorch. Wheels of packages that this Python lacks may lie in $WHEELS (./wheels): they are installed into a folder
# that goes away at the end. What is still missing is named, and what does not need it goes on.
# --dry-run runs all of it tiny, on the CPU.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
OUT=${OUT:-$PWD/gpu-figures}
WHEELS=${WHEELS:-$PWD/wheels}
PYTHON=${PYTHON:-python3}

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "gpu.sh: $PYTHON is $("$PYTHON" --version 2>&1), expected Python 3.11 or newer: name one in PYTHON" >&2
    exit 2
}
mkdir -p "$OUT" || exit 2
OUT=$(cd "$OUT" && pwd)
site=$(mktemp -d) || exit 2
trap 'rm -rf "$site"' EXIT
PYTHONPATH=$root:$site${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH OUT

if ls "$WHEELS"/*.whl >/dev/null 2>&1; then
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --find-links "$WHEELS" --no-deps \
        --no-compile --target "$site" "$WHEELS"/*.whl || echo "gpu.sh: the wheels in $WHEELS could not be installed" >&2
fi
# the package's own version and entry points, which a checkout alone does not have
"$PYTHON" -c 'import importlib.metadata as m; m.version("deapcache")' 2>/dev/null || {
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml")
    mkdir "$site/deapcache-$version.dist-info"
    printf 'Metadata-Version: 2.1\nName: deapcache\nVersion: %s\n' "$version" >"$site/deapcache-$version.dist-info/METADATA"
}
cd "$root" && "$PYTHON" -m tests.benchmarks.bench_gpu --out "$OUT" "$@"
