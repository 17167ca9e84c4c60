#!/bin/sh
# Feed hostile bytes to the core, coverage-guided, under AddressSanitizer and UndefinedBehaviorSanitizer:
#
#     tests/fuzz/run.sh SECONDS [TARGET...]        (a target is tests/fuzz/TARGET.pyx or .py; all of them if none is named)
#
# Builds what changed in build/fuzz (profile fuzz of setup.py), makes first inputs of fixtures/pcaps and of other people's
# captures where they are (VXLANFAST_CAPTURES, or shared/captures beside the tree or further up), runs each target for
# SECONDS, and prints executions and coverage. Everything found is kept in fuzz-work/: inputs that reached something new
# in corpus/ (the next run starts from them), findings as TARGET-crash-…, logs as TARGET.log. To see a finding again:
#
#     build/fuzz/tests/fuzz/TARGET fuzz-work/TARGET-crash-…
#
# Exit code: 0 nothing found, 1 a finding, 2 the build failed, 77 skipped (the last line says why).
set -u
cd "$(dirname "$0")/../.."
root=$PWD
seconds=${1:?usage: tests/fuzz/run.sh SECONDS [TARGET...]}
shift
python=$(command -v "${PYTHON:-python3}") || { echo "no ${PYTHON:-python3} on PATH" >&2; exit 2; }
CC=${CC:-$(command -v clang-14 || command -v clang || echo clang)}
export CC VXLANFAST_BUILD=fuzz

skip() { echo "skipped: $1"; exit 77; }
trial=$(mktemp -d)
trap 'rm -rf "$trial"' EXIT
echo 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { (void)p; (void)n; return 0; }' >"$trial/a.c"
command -v "$CC" >/dev/null || skip "$CC is not installed (Debian: clang-14)"
"$CC" -fsanitize=fuzzer,address,undefined -o "$trial/a" "$trial/a.c" 2>"$trial/log" ||
    skip "$CC links no libFuzzer (Debian: libclang-rt-14-dev): $(tail -n 1 "$trial/log")"
"$python" tests/fuzz/build.py --check || skip "$python has no library to link a program with (Debian: python3-dev)"

.ci/copy.sh fuzz || exit 2
(
    cd build/fuzz
    find _ext -name '*.c' ! -newer setup.py -delete
    "$python" setup.py --quiet build_ext --inplace && "$python" tests/fuzz/build.py
) || { echo "the build failed" >&2; exit 2; }

mkdir -p fuzz-work
captures=${VXLANFAST_CAPTURES:-}
place=$root
while [ -z "$captures" ] && [ "$place" != / ]; do
    place=$(dirname "$place")
    [ ! -d "$place/shared/captures" ] || captures=$place/shared/captures
done
rm -rf fuzz-work/seeds
"$python" tests/fuzz/seeds.py fuzz-work/seeds fixtures/pcaps ${captures:+"$captures"} || exit 2

[ $# -gt 0 ] || set -- $(cd tests/fuzz && for file in fuzz_*.py*; do echo "${file%.*}"; done)
# No leak detection: the interpreter frees little at exit. The rest keeps the allocator from returning memory to the
# system that the next input wants again.
export ASAN_OPTIONS="detect_leaks=0:quarantine_size_mb=8:allocator_release_to_os_interval_ms=-1:malloc_context_size=8"
export UBSAN_OPTIONS="print_stacktrace=1"
status=0
for target; do
    length=70000 control=100
    [ "$target" != fuzz_frame ] || length=4000
    # Short sequences of steps lead nowhere: they may be long from the start.
    case $target in fuzz_plane | fuzz_mesh) length=2000 control=0 ;; esac
    log=fuzz-work/$target.log
    mkdir -p "fuzz-work/corpus/$target" "fuzz-work/seeds/$target"
    "build/fuzz/tests/fuzz/$target" -max_total_time="$seconds" -max_len=$length -len_control=$control -timeout=20 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="fuzz-work/$target-" \
        "fuzz-work/corpus/$target" "fuzz-work/seeds/$target" >"$log" 2>&1
    code=$?
    sed -n 's/^stat::number_of_executed_units: */executions /p; s/^stat::peak_rss_mb: */peak memory in MB /p' "$log" |
        paste -sd, | sed "s/^/$target: /; s/,/, /g"
    edges=$(sed -n 's/^INFO: Loaded .* modules* *(\([0-9]*\) inline 8-bit counters).*/\1/p' "$log")
    sed -n 's/^#[0-9]*.*cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\).*/    edges \1, features \2, corpus \3/p' "$log" |
        tail -n 1 | sed "s/edges \([0-9]*\)/edges \1 of ${edges:-?} (generated code for Python included)/"
    if [ $code != 0 ]; then
        status=1
        echo "$target: FOUND SOMETHING (exit code $code); $root/$log ends:"
        grep -av '^#[0-9]' "$log" | tail -n 60
    fi
done
exit $status
