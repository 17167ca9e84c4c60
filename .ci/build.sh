#!/bin/sh
# Build the core in place with .venv, only what changed: .ci/build.sh. VXLANFAST_BUILD is the profile (see setup.py).
set -eu
python=${VENV:-.venv}/bin/python

# Cython and setuptools watch the sources; a change of setup.py (flags, directives) means all of them again.
find _ext -name '*.c' ! -newer setup.py -delete
"$python" setup.py --quiet build_ext --inplace
