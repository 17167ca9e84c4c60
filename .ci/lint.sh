#!/bin/sh
# The style of the Python, and the Cython compiler's own complaints about the core: .ci/lint.sh
set -eu
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
status=0

ruff check . || status=1

# All of the core goes through Cython afresh, in a copy: the working tree's .c files stay as they are.
.ci/copy.sh lint
cd build/lint
VXLANFAST_FORCE=1 python setup.py --version >cython.log 2>&1 || { cat cython.log; exit 1; }
if grep -E '^(performance hint|warning): .*_ext/' cython.log; then
    echo "Cython complains (above); for a performance hint the cure is usually a missing noexcept or nogil" >&2
    status=1
fi
exit $status
