"""Writes `onnx_nodes.safetensors`: the node tests of the `onnx` package that concern quantization and casts.

    pip install numpy safetensors onnx==1.23.2 ml_dtypes
    python make_onnx_nodes.py         # rewrites onnx_nodes.safetensors beside this file

The package ships the generators of its backend tests, not their data; this runs them. All cases of the operators below are
taken, none is chosen by hand. (The `_expanded` variants are left out: the same data for graphs of other operators.)

Every tensor is stored as its raw bytes, little-endian, one byte for each element of fewer than 8 bits; its ONNX type and its
shape are in the metadata key `golden`, a JSON document.

The data of onnx is under the Apache License 2.0.
"""

import json
import pathlib
import warnings

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from safetensors.numpy import save_file

OPERATORS = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul", "QLinearConv", "MatMulInteger",
    "ConvInteger", "Cast", "CastLike",
}  # fmt: skip


def arrays(tensors):
    return [numpy_helper.to_array(t) if isinstance(t, onnx.TensorProto) else np.asarray(t) for t in tensors]


def main():
    warnings.simplefilter("ignore")
    tensors, cases = {}, []
    for case in sorted(collect_testcases(None), key=lambda case: case.name):
        nodes = case.model.graph.node
        if len(nodes) != 1 or nodes[0].op_type not in OPERATORS or "expanded" in case.name:
            continue
        (node,), ((inputs, outputs),) = nodes, case.data_sets
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
        settings = {"name": case.name, "op": node.op_type, "attributes": attributes}
        for kind, group in ("in", arrays(inputs)), ("out", arrays(outputs)):
            settings[kind] = [{"type": a.dtype.name, "shape": list(a.shape)} for a in group]
            for i, a in enumerate(group):
                raw = np.frombuffer(np.ascontiguousarray(a).tobytes(), np.uint8)
                tensors[f"{case.name}/{kind}{i}"] = raw.copy()
        cases.append(settings)
    golden = {"onnx": onnx.__version__, "ml_dtypes": ml_dtypes.__version__, "numpy": np.__version__, "cases": cases}
    path = pathlib.Path(__file__).with_name("onnx_nodes.safetensors")
    save_file(tensors, path, metadata={"golden": json.dumps(golden)})
    path.chmod(0o644)
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
