"""Writes `dialects.safetensors`: what LiteRT and PyTorch answer where they differ from ONNX.

    pip install numpy safetensors ai-edge-litert==2.3.0 ai-edge-quantizer==0.10.0 torch==2.15.0
    python make_dialect_vectors.py    # rewrites dialects.safetensors beside this file

- `litert_quantize_*`: the operator QUANTIZE, by LiteRT's reference kernel (`y`) and its default one (`y_default`).
- `litert_fully_connected_*`: the operator FULLY_CONNECTED on int8, by both, with the exact sums of products and bias (`sums`).
- `litert_qparams_*`: what the AI Edge Quantizer, which makes models for LiteRT, chooses for a range.
- `torch_qparams_*`: what PyTorch's MinMaxObserver chooses for a range.
- `torch_linear_*`: PyTorch's quantized linear layer (engine in the metadata), with the exact sums.

PyTorch's fake quantization is in `fake_quantize.safetensors`, by `make_vectors.py`.
"""

import json
import pathlib
import warnings
from importlib.metadata import version

import flatbuffers
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from safetensors.numpy import save_file

SEED = 20262
random = np.random.Generator(np.random.PCG64(SEED))
tensors, cases = {}, []


def case(name, settings, **arrays):
    cases.append({"name": name, **settings})
    for key, value in arrays.items():
        tensors[f"{name}/{key}"] = np.atleast_1d(np.ascontiguousarray(value)).copy()


def model(operator, options_type, options, inputs, constants, output):
    """A model of one operator. Each tensor is (shape, type, scale, zero point), and its data if it is constant."""
    graph, buffers = schema.SubGraphT(), [schema.BufferT()]
    graph.tensors = []
    for shape, kind, scale, zero_point, data in [(*t, None) for t in inputs] + constants + [(*output, None)]:
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.name = list(shape), kind, f"t{len(graph.tensors)}"
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(buffers)
            buffers.append(buffer)
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            tensor.quantization.zeroPoint = np.full(tensor.quantization.scale.size, zero_point, np.int64)
        graph.tensors.append(tensor)
    count = len(graph.tensors)
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = 0, list(range(count - 1)), [count - 1]
    op.builtinOptionsType, op.builtinOptions = options_type, options
    graph.operators, graph.inputs, graph.outputs = [op], list(range(len(inputs))), [count - 1]
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = operator, min(operator, 127), 4 if operator == schema.BuiltinOperator.FULLY_CONNECTED else 1
    whole = schema.ModelT()
    whole.version, whole.operatorCodes, whole.subgraphs, whole.buffers = 3, [code], [graph], buffers
    builder = flatbuffers.Builder(1024)
    builder.Finish(whole.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def run(content, value):
    """By the reference kernel and by the default one."""
    results = []
    for resolver in OpResolverType.BUILTIN_REF, OpResolverType.AUTO:
        interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], value)
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).copy())
    return results


def litert_quantize():
    for name, scale, zero_point, grid in [
        ("random", 0.05, 0, None),
        ("odd_zero_point", 0.0123, -37, None),
        ("ties", 0.25, 5, 0.125),
        ("ties_odd", 0.5, -3, 0.25),
        ("half_grid", 2.0**-6, 3, 2.0**-8),
        ("thirds", 1 / 3, 1, None),
        ("lowest", 0.0235, -128, None),
    ]:
        scale = np.float32(scale)
        x = (random.standard_normal(1500) * scale * 60).astype(np.float32)
        if grid is not None:
            x = (np.round(x / grid) * grid).astype(np.float32)
        near = (np.arange(-130, 130, dtype=np.float32) + np.float32(0.5)) * scale
        x = np.concatenate([x, near, np.nextafter(near, np.float32(9e9)), np.nextafter(near, np.float32(-9e9))])
        # Beyond 2³¹ steps the kernels overflow; there is nothing to agree with.
        x = np.concatenate([x, np.float32([0.0, -0.0, 1e5, -1e5])]).astype(np.float32)
        content = model(
            schema.BuiltinOperator.QUANTIZE, schema.BuiltinOptions.QuantizeOptions, schema.QuantizeOptionsT(),
            [((x.size,), schema.TensorType.FLOAT32, None, None)], [], ((x.size,), schema.TensorType.INT8, scale, zero_point),
        )  # fmt: skip
        y, default = run(content, x)
        settings = {"op": "litert_quantize", "zero_point": zero_point}
        case(f"litert_quantize_{name}", settings, x=x, scale=scale, y=y, y_default=default)


def litert_fully_connected():
    for name, m, k, n, scales, x_zero, y_zero in [
        ("one_scale", 60, 16, 8, (0.02, [0.01], 0.05), -5, 4),
        ("per_channel", 60, 40, 6, (0.013, [0.011, 0.004, 0.02, 0.007, 0.0009, 0.03], 0.05), 17, -21),
        ("ties", 200, 8, 4, (0.5, [0.25], 1.0), 3, 7),
        ("ties_odd", 200, 3, 4, (0.5, [0.125], 4.0), -128, -1),
        ("saturating", 40, 24, 5, (0.05, [0.05], 0.03), -128, 0),
        ("large_multiplier", 40, 2, 4, (0.9, [0.8], 0.1), 0, 0),
    ]:
        sx, sw, sy = np.float32(scales[0]), np.float32(scales[1]), np.float32(scales[2])
        x = random.integers(-128, 128, (m, k)).astype(np.int8)
        w = random.integers(-127, 128, (n, k)).astype(np.int8)
        if "ties" in name:
            w = random.integers(-3, 4, (n, k)).astype(np.int8)
        bias = random.integers(-200, 200, n).astype(np.int32)
        sums = (x.astype(np.int64) - x_zero) @ w.astype(np.int64).T + bias
        kinds = schema.TensorType
        content = model(
            schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOptions.FullyConnectedOptions, schema.FullyConnectedOptionsT(),
            [((m, k), kinds.INT8, sx, x_zero)],
            [((n, k), kinds.INT8, sw, 0, w), ((n,), kinds.INT32, sx * sw, 0, bias)],
            ((m, n), kinds.INT8, sy, y_zero),
        )  # fmt: skip
        y, default = run(content, x)
        settings = {"op": "litert_requantize", "zero_point": y_zero}
        case(
            f"litert_fully_connected_{name}", settings, sums=sums.astype(np.int32), x_scale=sx, w_scale=sw, y_scale=sy,
            y=y, y_default=default,
        )  # fmt: skip


def ranges():
    ends = [(-1, 2), (0, 0), (1, 6), (-6, -1), (-0.3, 0.3), (-2, 0.1), (0, 1e-12), (-1e-9, 1e-9), (-1e4, 3e4), (-1.5, 3.25)]
    return ends + [tuple(sorted(random.standard_normal(2) * 10.0**e)) for e in random.integers(-4, 5, 60)]


def litert_qparams():
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithms.uniform_quantize.uniform_quantize_tensor import tensor_zp_scale_from_min_max

    reals = np.array(ranges(), np.float32)
    for name, bits, symmetric in [("affine_i8", 8, False), ("symmetric_i8", 8, True), ("affine_i4", 4, False), ("symmetric_i4", 4, True)]:
        zeros, scales = tensor_zp_scale_from_min_max(reals[:, 0], reals[:, 1], bits, symmetric, qtyping.QuantGranularity.TENSORWISE)
        settings = {"op": "litert_qparams", "low": -(2 ** (bits - 1)), "high": 2 ** (bits - 1) - 1, "symmetric": int(symmetric)}
        case(
            f"litert_qparams_{name}", settings, min=reals[:, 0], max=reals[:, 1],
            scale=np.asarray(scales, np.float32), zero_point=zeros.astype(np.int32),
        )  # fmt: skip


def torch_qparams():
    from torch.ao.quantization import MinMaxObserver

    ends = ranges()
    for name, dtype, scheme, low, high in [
        ("affine_i8", torch.qint8, torch.per_tensor_affine, -128, 127),
        ("affine_u8", torch.quint8, torch.per_tensor_affine, 0, 255),
        ("affine_i4", torch.qint8, torch.per_tensor_affine, -8, 7),
        ("symmetric_i8", torch.qint8, torch.per_tensor_symmetric, -128, 127),
        ("symmetric_narrow", torch.qint8, torch.per_tensor_symmetric, -127, 127),
        ("symmetric_i4", torch.qint8, torch.per_tensor_symmetric, -8, 7),
    ]:
        scales, zeros = [], []
        for low_end, high_end in ends:
            observer = MinMaxObserver(dtype=dtype, qscheme=scheme, quant_min=low, quant_max=high)
            observer(torch.tensor([low_end, high_end], dtype=torch.float32))
            scale, zero = observer.calculate_qparams()
            scales.append(scale.item())
            zeros.append(zero.item())
        settings = {"op": "torch_qparams", "low": low, "high": high, "symmetric": int("symmetric" in name)}
        reals = np.array(ends, np.float32)
        case(
            f"torch_qparams_{name}", settings, min=reals[:, 0], max=reals[:, 1],
            scale=np.array(scales, np.float32), zero_point=np.array(zeros, np.int32),
        )  # fmt: skip


def torch_linear():
    for name, m, k, n, sx, x_zero, sy, y_zero in [
        ("random", 80, 32, 8, 0.017, 100, 0.043, 120),
        ("odd", 80, 20, 5, 0.031, 3, 0.07, 17),
        ("ties", 200, 8, 4, 0.5, 3, 1.0, 7),
    ]:
        sw = 0.25 if name == "ties" else 0.0091
        x = random.integers(0, 128, (m, k)).astype(np.uint8)
        w = random.integers(-3 if name == "ties" else -127, 4 if name == "ties" else 128, (n, k)).astype(np.int8)
        weight = torch._make_per_tensor_quantized_tensor(torch.from_numpy(w), sw, 0)
        packed = torch.ops.quantized.linear_prepack(weight, None)
        value = torch._make_per_tensor_quantized_tensor(torch.from_numpy(x), sx, x_zero)
        y = torch.ops.quantized.linear(value, packed, sy, y_zero).int_repr().numpy()
        sums = (x.astype(np.int64) - x_zero) @ w.astype(np.int64).T
        case(
            f"torch_linear_{name}", {"op": "torch_requantize", "zero_point": y_zero}, sums=sums.astype(np.int32),
            x_scale=np.float32(sx), w_scale=np.float32(sw), y_scale=np.float32(sy), y=y,
        )  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    litert_quantize()
    litert_fully_connected()
    litert_qparams()
    torch_qparams()
    torch_linear()
    golden = {
        "ai_edge_litert": version("ai-edge-litert"), "ai_edge_quantizer": version("ai-edge-quantizer"), "torch": torch.__version__,
        "torch_engine": torch.backends.quantized.engine, "numpy": np.__version__, "seed": SEED, "cases": cases,
    }  # fmt: skip
    path = pathlib.Path(__file__).with_name("dialects.safetensors")
    save_file(tensors, path, metadata={"golden": json.dumps(golden)})
    path.chmod(0o644)
    print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")
