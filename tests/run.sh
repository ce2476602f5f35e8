#!/usr/bin/env bash
# All tests, in the order in which a failure costs least time; `make test` runs it.
#   1. unit and contract tests, on all cores
#   2. end-to-end tests and slow unit tests, several files at a time; each worker has a server of its own
#   3. those that break a server, or fill it for minutes, one at a time: where cores are short, Triton 24.10
#      crashes now and then (triton-inference-server/server#8882), and they would count that
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

# What the tests need beyond Python's packages: program, Debian package, what goes untested without it.
needed=(
    "chromium chromium the web page and /docs in a real browser"
    "chromedriver chromium-driver the web page in a real browser"
    "redis-server redis-server answers kept in a Redis of several frontends"
    "prometheus prometheus metrics, alerts and the dashboard's queries in a real Prometheus"
    "nginx nginx the example configuration for nginx"
    "haproxy haproxy the example configuration for HAProxy"
)

# Prints the packages that are missing.
missing() {
    local program package untested
    for entry in "${needed[@]}"; do
        read -r program package untested <<<"$entry"
        command -v "$program" >/dev/null || echo "$package"
    done
}

mapfile -t packages < <(missing)
if [ ${#packages[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "tests: installing ${packages[*]}"
    # RUNLEVEL=1: a package that is a service is not started.
    {
        apt-get -qq update
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get -qq install --yes --no-install-recommends "${packages[@]}"
    } >/dev/null || true # the line at the end says what is missing
fi

report_untested() {
    local program package untested
    for entry in "${needed[@]}"; do
        read -r program package untested <<<"$entry"
        command -v "$program" >/dev/null ||
            printf '\n!!! NOT TESTED: %s. To test it: apt-get install %s\n' "$untested" "$package"
    done
}
trap report_untested EXIT

# More would only be more servers in memory.
workers=$(($(nproc) < 8 ? $(nproc) : 8))
began=$SECONDS
run() {
    echo "tests: $1"
    shift
    "$python" -m pytest --durations=10 --durations-min=1 "$@"
}

run "unit and contract" -m "not slow" --numprocesses "$workers" --dist loadfile --no-loadscope-reorder tests/unit tests/contract
echo "tests: unit and contract tests took $((SECONDS - began)) s"
# Slow files first, as conftest.py sorts them.
run "end to end" -m "(e2e or slow) and not alone" --numprocesses "$workers" --dist loadfile --no-loadscope-reorder tests
run "end to end, one at a time" -m alone tests
echo "tests: all took $((SECONDS - began)) s"
