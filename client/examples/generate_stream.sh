#!/usr/bin/env bash
# curl against Triton's own generate_stream: no frontend, no library.
#
#   client/examples/generate_stream.sh [URL of Triton's HTTP port] [PICTURE]
#
# The URL is $GLM_TRITON_HTTP_URL or http://127.0.0.1:8003 by default. Prints server-sent events, one for each
# piece of the answer, with the demo checkpoint such as
#
#   data: {"finish_reason":"","model_name":"generation","model_version":"1","text_output":"A red"}
#   data: {"finish_reason":"stop","model_name":"generation","model_version":"1","text_output":" circle ..."}
#
# An error is an event {"error": "..."}; curl exits with 22 if it is the first. Ctrl-C closes the connection,
# which cancels the request. Another process can cancel it, too, where the request has a "cancel_key": by
# posting {"cancel": KEY} to the same address.
set -euo pipefail

url=${1:-${GLM_TRITON_HTTP_URL:-http://127.0.0.1:8003}}
picture=${2:-$(dirname "$0")/pictures/circle-and-square.png}

# By standard input, because a picture may be longer than a command line.
{
    printf '{"text_input": "What is in this image?", "image": "'
    base64 -w 0 "$picture"
    printf '", "stream": true, "return_finish_reason": true,'
    printf '"chat_template_kwargs": "{\\"enable_thinking\\": false}",'
    printf '"sampling_parameters": "{\\"temperature\\": 0}"}'
} | curl --silent --show-error --fail-with-body --no-buffer --max-time 60 --data-binary @- \
    "$url/v2/models/generation/generate_stream"
