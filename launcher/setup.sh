#!/usr/bin/env bash
# Makes the virtual environment and installs the project into it. Called by the Makefile.
# usage: setup.sh PYTHON VENV EXTRA [PIP ARGUMENT ...]
set -euo pipefail
python=$1 venv=$2 extra=$3
shift 3

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

if [ -z "$python" ]; then
    fail "no Python 3.11 or 3.12 found." \
        "Debian 12: apt install python3.11 python3.11-venv. Ubuntu 24.04: apt install python3.12 python3.12-venv." \
        "Or name one: make setup PYTHON=/path/to/python3.12"
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python does not run."
case $version in
3.11 | 3.12) ;;
*) fail "$python is Python $version, but 3.11 or 3.12 is needed." ;;
esac
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    fail "this is $(uname -sm), but the Triton binary is for Linux x86_64."
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    fail "Python $version has no venv module. Install it: apt install python$version-venv"
fi

# An environment of another Python, or one whose Python is gone, is made anew.
if ! "$venv/bin/python" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
    echo "setup: making $venv with Python $version ($python)"
    "$python" -m venv --clear "$venv"
fi

echo "setup: installing the packages for '$extra'. The first time this takes some minutes."
if [ "$extra" != notebook ]; then
    echo "setup: Triton is 55 MB, torch 200 MB (CPU build) to some GB (CUDA build)."
fi
start=$SECONDS
if ! "$venv/bin/python" -m pip install --progress-bar off "$@" --editable ".[$extra]" |
    sed -u -n \
        -e 's/^ *Downloading \([^ /]*\) (\([0-9.]* [MG]B\)).*/  downloading \1 (\2)/p' \
        -e 's/^Installing collected packages.*/  installing/p'; then
    fail "pip could not install the packages; its message is above." \
        "Triton's package needs glibc 2.35 or newer (Debian 12, Ubuntu 22.04); this is $(ldd --version | head -n 1)."
fi
rm -f "$venv"/."$extra"-*
echo "setup: done after $((SECONDS - start)) s"
