#!/bin/sh
# Types: mypy over the Python layer, and the core's .pyi files against the compiled modules: .ci/types.sh
set -u
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
status=0

mypy || status=1
stubtest vxlanfast._ext --allowlist .ci/stubtest-allow.txt || status=1
exit $status
