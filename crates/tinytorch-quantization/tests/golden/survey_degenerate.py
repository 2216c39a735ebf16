"""Prints what other tools make of NaN and infinity: the row of `docs/comparison.md` that has no document to look up.

    pip install numpy onnx==1.23.2 onnxruntime==1.32.0 ai-edge-litert==2.3.0 ai-edge-quantizer==0.10.0 torch==2.15.0
    python survey_degenerate.py

Nothing is written, and no test reads it: it is here so that the row can be checked, and seen to change.
"""

import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor import tensor_zp_scale_from_min_max
from onnx import TensorProto, helper
from onnxruntime.quantization.quant_utils import quantize_data
from torch.ao.quantization import MinMaxObserver

import make_dialect_vectors as litert

NAN, INF = float("nan"), float("inf")


def attempt(what, run):
    try:
        print(f"{what}: {run()}")
    except Exception as error:
        print(f"{what}: {type(error).__name__}: {error}")


def observed(values):
    observer = MinMaxObserver(dtype=torch.qint8)
    observer(torch.tensor(values))
    return observer.calculate_qparams()


def run_onnx(values):
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])], "quantize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(values)])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [len(values)])],
        [helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0]), helper.make_tensor("zero", TensorProto.INT8, [], [0])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": np.float32(values)})


def run_litert(values):
    kinds = schema.TensorType
    content = litert.model(
        schema.BuiltinOperator.QUANTIZE, schema.BuiltinOptions.QuantizeOptions, schema.QuantizeOptionsT(),
        [((len(values),), kinds.FLOAT32, None, None)], [], ((len(values),), kinds.INT8, np.float32(1.0), 0),
    )  # fmt: skip
    return litert.run(content, np.float32(values))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name, values in ("NaN", [1.0, NAN, 2.0]), ("infinity", [1.0, INF]):
        attempt(f"ONNX Runtime's quantizer, {name}", lambda: quantize_data(np.float32(values), onnx.TensorProto.INT8, True))
        attempt(f"PyTorch's MinMaxObserver, {name}", lambda: observed(values))
        ends = np.float32([[min(values)]]), np.float32([[max(values, key=abs) if name == "infinity" else NAN]])
        per_tensor = qtyping.QuantGranularity.TENSORWISE
        attempt(f"AI Edge Quantizer, {name}", lambda: tensor_zp_scale_from_min_max(*ends, 8, False, per_tensor))
    attempt("ONNX Runtime, NaN, infinities and 1e10 at run time", lambda: run_onnx([NAN, INF, -INF, 1e10]))
    attempt("LiteRT, the same, by the reference kernel and by the default one", lambda: run_litert([NAN, INF, -INF, 1e10]))
