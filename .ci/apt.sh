#!/bin/sh
# Install Debian packages where that is allowed (root, or sudo without a password): .ci/apt.sh PACKAGE...
# Otherwise one line names exactly what is missing, and the exit code is 1.
set -eu

if ! command -v apt-get >/dev/null; then
    echo "missing: the equivalents of the Debian packages $*; install them and run this again" >&2
    exit 1
elif [ "$(id -u)" = 0 ]; then
    root=""
elif sudo -n true 2>/dev/null; then
    root="sudo -n"
else
    echo "missing: Debian packages; as root, run: apt-get install --no-install-recommends $*" >&2
    exit 1
fi

# python3-venv brings the package ca-certificates, which writes this file anew: what an administrator put there by hand
# (a proxy's certificate, say) is added again afterwards, since the downloads that follow need it.
bundle=/etc/ssl/certs/ca-certificates.crt
by_hand=$(mktemp)
trap 'rm -f "$by_hand"' EXIT
if [ -f "$bundle" ] && ! dpkg -s ca-certificates >/dev/null 2>&1; then
    cat "$bundle" >"$by_hand"
fi

echo "installing Debian packages: $*"
$root apt-get -qq update || echo "apt-get update failed: going on with the package lists at hand" >&2
$root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null || {
    echo "apt-get could not install: $*" >&2
    exit 1
}
if [ -s "$by_hand" ]; then
    $root sh -c 'cat "$1" >>"$2"' - "$by_hand" "$bundle"
fi
