"""Writes `requantize.safetensors`: sums beside a tie, where the last bit of the multiplier decides the code.

    pip install numpy safetensors onnx==1.23.2 onnxruntime==1.32.0 ai-edge-litert==2.3.0 ai-edge-quantizer==0.10.0 torch==2.15.0
    python make_requantize_vectors.py    # rewrites requantize.safetensors beside this file

For random sums and scales of input and weights, the scale of the output is the `f32` that brings the sum next to the middle of two codes. What
comes out is computed by

- `y_torch`: PyTorch's quantized linear layer, engine fbgemm;
- `y_ort`: ONNX Runtime's QLinearMatMul;
- `y_reference`: the reference evaluator of the `onnx` package, QLinearMatMul;
- `y_litert`: LiteRT's FULLY_CONNECTED, reference kernel;
- `y_exact`: rational numbers, a tie to the even code.

All zero points are 0.
"""

import json
import pathlib
import warnings
from fractions import Fraction
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import torch
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save_file

import make_dialect_vectors as litert

SEED, COUNT = 20263, 400
random = np.random.Generator(np.random.PCG64(SEED))


def onnx_codes(x, w, sx, sw, sy):
    real = lambda name, value: helper.make_tensor(name, TensorProto.FLOAT, [], [float(value)])
    zero = lambda name, kind: helper.make_tensor(name, kind, [], [0])
    u8, i8 = TensorProto.UINT8, TensorProto.INT8
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"]
    graph = helper.make_graph(
        [helper.make_node("QLinearMatMul", names, ["y"])], "product",
        [helper.make_tensor_value_info("a", u8, [1, 2]), helper.make_tensor_value_info("b", i8, [2, 1])],
        [helper.make_tensor_value_info("y", u8, [1, 1])],
        [real("a_scale", sx), zero("a_zero", u8), real("b_scale", sw), zero("b_zero", i8), real("y_scale", sy), zero("y_zero", u8)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    feed = {"a": x.astype(np.uint8)[None], "b": w.astype(np.int8)[:, None]}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0].item(), ReferenceEvaluator(model).run(None, feed)[0].item()


def torch_code(x, w, sx, sw, sy):
    weight = torch._make_per_tensor_quantized_tensor(torch.from_numpy(w.astype(np.int8)[None]), float(sw), 0)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    value = torch._make_per_tensor_quantized_tensor(torch.from_numpy(x.astype(np.uint8)[None]), float(sx), 0)
    return torch.ops.quantized.linear(value, packed, float(sy), 0).int_repr().item()


def litert_code(x, w, sx, sw, sy):
    kinds = schema.TensorType
    content = litert.model(
        schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT(),
        [((1, 2), kinds.INT8, sx, 0)],
        [((1, 2), kinds.INT8, sw, 0, w.astype(np.int8)[None]), ((1,), kinds.INT32, sx * sw, 0, np.zeros(1, np.int32))],
        ((1, 1), kinds.INT8, sy, 0),
    )  # fmt: skip
    return litert.run(content, x.astype(np.int8)[None])[0].item()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.backends.quantized.engine = "fbgemm"
    columns = {name: [] for name in ["sums", "x_scale", "w_scale", "y_scale", "y_torch", "y_ort", "y_reference", "y_litert", "y_exact"]}
    for _ in range(COUNT):
        x, w = random.integers(1, 128, 2), random.integers(1, 128, 2)
        total, code = int(x @ w), int(random.integers(1, 100))
        sx, sw = np.float32(random.uniform(0.001, 0.1, 2))
        sy = np.float32(float(sx) * float(sw) * total / (code + 0.5))
        exact = round(total * Fraction(float(sx)) * Fraction(float(sw)) / Fraction(float(sy)))
        row = [total, sx, sw, sy, torch_code(x, w, sx, sw, sy), *onnx_codes(x, w, sx, sw, sy), litert_code(x, w, sx, sw, sy), exact]
        for column, value in zip(columns.values(), row):
            column.append(value)
    tensors = {
        f"near_ties/{name}": np.array(column, np.float32 if "scale" in name else np.int32) for name, column in columns.items()
    }
    golden = {
        "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "torch": torch.__version__, "torch_engine": "fbgemm",
        "ai_edge_litert": version("ai-edge-litert"), "numpy": np.__version__, "seed": SEED,
        "cases": [{"name": "near_ties", "op": "requantize"}],
    }  # fmt: skip
    path = pathlib.Path(__file__).with_name("requantize.safetensors")
    save_file(tensors, path, metadata={"golden": json.dumps(golden)})
    path.chmod(0o644)
    print(f"{path.name}: {COUNT} sums, {path.stat().st_size} bytes")
