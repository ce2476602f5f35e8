#!/usr/bin/env bash
# In the container with Jupyter: starts Triton, the API on 8000 and the page on 7860. Ctrl-C stops them.
# 在 Jupyter 容器中启动 Triton、8000 端口的 API 与 7860 端口的网页;Ctrl-C 停止。
set -euo pipefail
cd /opt/glm
exec python -m launcher "$@"
