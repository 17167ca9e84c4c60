#!/bin/sh
# Build a profile of setup.py in a copy of the tree, build/PROFILE, and run a command there, with .venv's programs:
#     .ci/profile.sh PROFILE [COMMAND...]
# The copy keeps its own .c and .so files: the working tree stays a release build, and the next run builds what changed.
set -eu
cd "$(dirname "$0")/.."
profile=$1
shift
export VENV="$PWD/.venv" PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD/build/$profile" VXLANFAST_BUILD="$profile"
if [ "$profile" = fuzz ]; then
    CC=${CC:-$(command -v clang-14 || command -v clang || echo clang)}
    export CC
fi

.ci/copy.sh "$profile"
cd "build/$profile"
.ci/build.sh
[ $# -gt 0 ] || exit 0
if [ "$profile" = asan ]; then
    # detect_leaks: the interpreter itself frees little at exit. exitcode: one that no program of ours has.
    # PYTHONMALLOC: the interpreter's own pools would hide an overrun of a small object.
    # Programs of others run without them: in Wireshark's tools the preloaded library waits for itself for ever.
    rm -rf others
    mkdir others
    for program in tshark editcap mergecap capinfos tcpdump tcprewrite bittwiste; do
        path=$(command -v $program) || continue
        printf '#!/bin/sh\nexec env -u LD_PRELOAD %s "$@"\n' "$path" >others/$program
        chmod +x others/$program
    done
    PATH="$PWD/others:$PATH"
    sanitizers="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
    exec env LD_PRELOAD="$sanitizers" PYTHONMALLOC=malloc \
        ASAN_OPTIONS="detect_leaks=0:exitcode=99${ASAN_OPTIONS:+:$ASAN_OPTIONS}" \
        UBSAN_OPTIONS="print_stacktrace=1:exitcode=99${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}" "$@"
fi
exec "$@"
