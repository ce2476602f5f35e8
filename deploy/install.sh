#!/usr/bin/env bash
# Installs the project, with the extras given, into the virtual environment `venv` of this folder's parent.
# usage: install.sh EXTRA,EXTRA [PIP ARGUMENT ...]
set -euo pipefail
extras=$1
shift
cd "$(dirname "$0")/.."

[ -x venv/bin/python ] || python3 -m venv venv
venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check "$@" ".[$extras]"
rm -rf build client/*.egg-info ./*.egg-info
