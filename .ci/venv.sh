#!/bin/sh
# Make .venv with the extra EXTRA of pyproject.toml, and build the core in place: .ci/venv.sh EXTRA
# Starts from python3, gcc and make alone: what else a build needs comes from Debian packages (see .ci/apt.sh).
set -eu
cd "$(dirname "$0")/.."
extra=$1
base=${PYTHON:-python3}
trial=$(mktemp -d)
trap 'rm -rf "$trial"' EXIT

"$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "vxlanfast needs Python 3.11 or newer; name it with PYTHON=... (now: $base)" >&2
    exit 1
}

missing=""
"$base" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
[ -f "$("$base" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing="$missing python3-dev"
command -v "${CC:-gcc}" >/dev/null || missing="$missing gcc"
printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' >"$trial/a.c"
"${CC:-gcc}" -o "$trial/a" "$trial/a.c" 2>/dev/null || missing="$missing libc6-dev"
pcap='import ctypes, ctypes.util; ctypes.CDLL(ctypes.util.find_library("pcap") or "libpcap.so.0.8")'
[ "$extra" != test ] || "$base" -c "$pcap" 2>/dev/null || missing="$missing libpcap0.8"  # the filters are tested with it
[ -z "$missing" ] || .ci/apt.sh $missing

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    "$base" -m venv .venv
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check install --quiet "$@"; }

echo "installing Python packages into .venv: vxlanfast[$extra] needs them"
.venv/bin/python >"$trial/build.txt" <<'PYTHON'
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")
PYTHON
pip -r "$trial/build.txt"
.ci/build.sh
export VXLANFAST_BUILD=none  # or it would compile all of it a second time
pip --no-build-isolation --editable ".[$extra]"
