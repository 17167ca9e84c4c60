#!/bin/sh
# Run the suite under coverage in a trace build, and hold both layers to their threshold: .ci/coverage.sh [PYTEST ARGS...]
# `make coverage` calls it in the copy of the tree that .ci/profile.sh made.
set -u
export PYTHONPATH="$PWD/.ci:$PYTHONPATH"
least=95
status=0

layer() {  # NAME PATTERN
    echo
    echo "$1, at least $least %:"
    coverage report --show-missing --skip-empty --fail-under=$least --include="$2" || status=1
}

coverage erase
coverage run -m pytest "$@" || status=1
coverage combine --quiet
layer "Python layer" "vxlanfast/**"
layer "Cython core" "_ext/**"
exit $status
