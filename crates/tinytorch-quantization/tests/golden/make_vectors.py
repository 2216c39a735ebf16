"""Writes the golden vectors that `main.rs` compares the crate with.

    pip install numpy safetensors onnx torch
    python make_vectors.py            # rewrites *.safetensors beside this file

One safetensors file per source. Its metadata holds one key, `golden`: a JSON document with the versions, the seed and the
settings of each case. The tensors of a case are called `<case>/<name>`.

`onnx.safetensors` comes from the reference evaluator of the `onnx` package, one node per case.
`fake_quantize.safetensors` comes from PyTorch's `fake_quantize_per_tensor_affine` and `fake_quantize_per_channel_affine`:
output and gradient with an upstream gradient of ones (that is, the straight-through mask).
"""

import json
import pathlib

import numpy as np
import onnx
import onnx.helper as oh
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).parent
SEED = 20261
OPSET = 21


class Topic:
    def __init__(self, name, versions):
        self.name, self.versions, self.tensors, self.cases = name, versions, {}, []
        self.random = np.random.Generator(np.random.PCG64(SEED + sum(name.encode())))

    def normal(self, *shape, scale=1.0):
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    def codes(self, dtype, *shape):
        info = np.iinfo(dtype)
        return self.random.integers(info.min, info.max + 1, shape).astype(dtype)

    def case(self, name, settings, **tensors):
        self.cases.append({"name": name, **settings})
        for key, value in tensors.items():
            assert f"{name}/{key}" not in self.tensors
            self.tensors[f"{name}/{key}"] = np.atleast_1d(np.ascontiguousarray(value)).copy()

    def save(self):
        golden = {**self.versions, "seed": SEED, "cases": self.cases}
        path = HERE / f"{self.name}.safetensors"
        save_file(self.tensors, path, metadata={"golden": json.dumps(golden)})
        print(f"{path.name}: {len(self.cases)} cases, {path.stat().st_size} bytes")


def edges(scale, zero_point, low, high):
    """Reals on, and next to, the borders between codes: ties, both ends of the range, far outside, signed zeros."""
    scale = np.float32(scale)
    ties = (np.array([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5], np.float32) * scale).astype(np.float32)
    ends = np.array([low - zero_point, high - zero_point], np.float32)
    ends = np.concatenate([(ends + d) * scale for d in np.float32([-1, -0.5, 0, 0.5, 1])]).astype(np.float32)
    near = np.concatenate([ties, ends])
    near = np.concatenate([near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))])
    # Codes of values beyond 2^31 · scale are left out: the evaluator computes in i32 and wraps where ours saturates.
    far = np.array([1e6, -1e6], np.float32) * scale
    return np.concatenate([near, far, np.array([0.0, -0.0], np.float32)]).astype(np.float32)


def run_node(op, inputs, outputs, **attributes):
    """Evaluates one ONNX node. `inputs` is name -> array; returns the outputs in order."""
    node = oh.make_node(op, list(inputs), outputs, **attributes)
    infos = [oh.make_tensor_value_info(k, oh.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in inputs.items()]
    outs = [oh.make_tensor_value_info(o, onnx.TensorProto.UNDEFINED, None) for o in outputs]
    graph = oh.make_graph([node], op, infos, outs)
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", OPSET)])
    return ReferenceEvaluator(model).run(None, inputs)


def quantize_linear(topic):
    for name, scale, zero_point, dtype in [
        ("i8_symmetric", 0.05, 0, np.int8),
        ("i8_odd_zero_point", 0.0123, -37, np.int8),
        ("i8_power_of_two", 0.25, 5, np.int8),
        ("i8_lowest_zero_point", 1 / 3, -128, np.int8),
        ("u8_middle", 0.02, 128, np.uint8),
        ("u8_odd_zero_point", 0.7, 77, np.uint8),
        ("u8_relu", 0.0235, 0, np.uint8),
        ("i8_tiny_scale", 1.5e-38, 3, np.int8),
    ]:
        info = np.iinfo(dtype)
        scale, zero_point = np.array(scale, np.float32), np.array(zero_point, dtype)
        x = np.concatenate([topic.normal(160, scale=float(scale) * 60), edges(scale, int(zero_point), info.min, info.max)])
        (codes,) = run_node("QuantizeLinear", {"x": x, "s": scale, "z": zero_point}, ["y"])
        (back,) = run_node("DequantizeLinear", {"x": codes, "s": scale, "z": zero_point}, ["y"])
        topic.case(f"quantize_{name}", {"op": "QuantizeLinear"}, x=x, scale=scale, zero_point=zero_point, y=codes, back=back)

    for name, shape, axis, dtype in [
        ("rows", (5, 24), 0, np.int8),
        ("columns", (7, 4), 1, np.int8),
        ("filters", (4, 3, 3, 3), 0, np.int8),
        ("channels_of_images", (2, 3, 4, 5), 1, np.int8),
    ]:
        channels = shape[axis]
        scale = topic.random.uniform(0.005, 0.1, channels).astype(np.float32)
        zero_point = np.zeros(channels, dtype)
        x = topic.normal(*shape, scale=float(scale.mean()) * 70)
        (codes,) = run_node("QuantizeLinear", {"x": x, "s": scale, "z": zero_point}, ["y"], axis=axis)
        (back,) = run_node("DequantizeLinear", {"x": codes, "s": scale, "z": zero_point}, ["y"], axis=axis)
        settings = {"op": "QuantizeLinearPerAxis", "axis": axis}
        topic.case(f"per_axis_{name}", settings, x=x, scale=scale, zero_point=zero_point, y=codes, back=back)


def dequantize_linear(topic):
    every_code = np.arange(-128, 128).astype(np.int8)
    for name, scale, zero_point in [("symmetric", 0.0371, 0), ("shifted", 0.1, -43), ("extreme", 1e-3, 127)]:
        scale, zero_point = np.array(scale, np.float32), np.array(zero_point, np.int8)
        (y,) = run_node("DequantizeLinear", {"x": every_code, "s": scale, "z": zero_point}, ["y"])
        topic.case(f"dequantize_{name}", {"op": "DequantizeLinear"}, x=every_code, scale=scale, zero_point=zero_point, y=y)


def dynamic_quantize_linear(topic):
    # All zeros are left out: there the evaluator answers scale 1/255, where our contract says 1.
    for name, x in [
        ("mixed", topic.normal(200)),
        ("positive", np.abs(topic.normal(64)) + np.float32(1)),
        ("negative", -np.abs(topic.normal(64)) - np.float32(2)),
        ("worked_example", np.array([-1, 0, 0.5, 2], np.float32)),
        ("one_value", np.array([5], np.float32)),
        ("small", topic.normal(50, scale=1e-6)),
        ("large", topic.normal(50, scale=1e6)),
    ] + [(f"random_{i}", topic.normal(24, scale=float(3.0**i)) + np.float32(i - 3)) for i in range(-4, 8)]:
        y, scale, zero_point = run_node("DynamicQuantizeLinear", {"x": x}, ["y", "s", "z"])
        topic.case(f"dynamic_{name}", {"op": "DynamicQuantizeLinear"}, x=x, y=y, scale=scale, zero_point=zero_point)


def integer_products(topic):
    # ONNX multiplies [m, k] by [k, n]; `b` is stored as [k, n] here, as the node takes it.
    for name, m, k, n, a_dtype, az, bz in [
        ("s8_s8", 4, 9, 5, np.int8, 0, 0),
        ("s8_s8_zero_points", 3, 33, 7, np.int8, -12, 9),
        ("u8_s8", 5, 16, 3, np.uint8, 128, 0),
        ("u8_s8_odd_zero_point", 1, 70, 6, np.uint8, 3, -1),
        ("one_by_one", 1, 1, 1, np.int8, 127, -128),
        ("extreme_zero_points", 2, 20, 2, np.int8, -128, 127),
    ]:
        a, b = topic.codes(a_dtype, m, k), topic.codes(np.int8, k, n)
        a_zero, b_zero = np.array(az, a_dtype), np.array(bz, np.int8)
        (c,) = run_node("MatMulInteger", {"a": a, "b": b, "az": a_zero, "bz": b_zero}, ["c"])
        topic.case(f"integer_{name}", {"op": "MatMulInteger"}, a=a, b=b, a_zero_point=a_zero, b_zero_point=b_zero, c=c)

    for name, m, k, n, sa, az, sb, sy, yz in [
        ("one_scale", 6, 16, 8, 0.02, -5, [0.01], 0.07, 4),
        ("per_column", 9, 40, 6, 0.013, 17, [0.011, 0.004, 0.02, 0.007, 0.0009, 0.03], 0.09, -21),
        ("saturating", 5, 24, 5, 0.05, -128, [0.05], 0.06, 0),
        ("one_row", 1, 64, 10, 0.03, -128, [0.012], 0.11, 33),
    ]:
        a, b = topic.codes(np.int8, m, k), np.clip(topic.codes(np.int8, k, n), -127, 127)
        names = {
            "a": a, "sa": np.float32(sa), "az": np.int8(az),
            "b": b, "sb": np.array(sb if len(sb) > 1 else sb[0], np.float32), "bz": np.zeros(len(sb) if len(sb) > 1 else (), np.int8),
            "sy": np.float32(sy), "yz": np.int8(yz),
        }  # fmt: skip
        names = {key: np.asarray(value) for key, value in names.items()}
        (y,) = run_node("QLinearMatMul", names, ["y"])
        topic.case(
            f"linear_{name}", {"op": "QLinearMatMul"},
            a=a, b=b, a_scale=names["sa"], a_zero_point=names["az"], b_scale=names["sb"],
            y_scale=names["sy"], y_zero_point=names["yz"], y=y,
        )  # fmt: skip


def q_linear_conv(topic):
    # name, [n, c, h, w], outputs, kernel, stride, padding, groups; weights have one scale per output channel.
    for name, shape, outputs, kernel, stride, padding, groups in [
        ("padded", (2, 3, 5, 6), 4, (3, 3), (1, 1), (1, 1), 1),
        ("stride_two", (1, 2, 7, 7), 3, (3, 3), (2, 2), (1, 1), 1),
        ("non_square", (1, 2, 6, 5), 3, (3, 2), (2, 1), (1, 0), 1),
        ("two_groups", (1, 4, 5, 5), 6, (3, 3), (1, 1), (1, 1), 2),
        ("depthwise", (2, 4, 5, 5), 4, (3, 3), (1, 1), (1, 1), 4),
        ("pointwise", (2, 5, 3, 3), 4, (1, 1), (1, 1), (0, 0), 1),
    ]:
        depth = shape[1] // groups * kernel[0] * kernel[1]
        names = {
            "x": topic.codes(np.int8, *shape), "sx": np.float32(0.021), "zx": np.int8(-11),
            "w": np.clip(topic.codes(np.int8, outputs, shape[1] // groups, *kernel), -127, 127),
            "sw": topic.random.uniform(0.002, 0.02, outputs).astype(np.float32), "zw": np.zeros(outputs, np.int8),
            "sy": np.float32(0.02 * depth**0.5), "zy": np.int8(7),
            "b": topic.random.integers(-3000, 3000, outputs).astype(np.int32),
        }  # fmt: skip
        names = {key: np.asarray(value) for key, value in names.items()}
        attributes = {"strides": stride, "pads": padding * 2, "group": groups, "kernel_shape": kernel}
        (y,) = run_node("QLinearConv", names, ["y"], **attributes)
        topic.case(
            f"conv_{name}", {"op": "QLinearConv", "stride": stride, "padding": padding, "groups": groups},
            x=names["x"], x_scale=names["sx"], x_zero_point=names["zx"], w=names["w"], w_scale=names["sw"],
            bias=names["b"], y_scale=names["sy"], y_zero_point=names["zy"], y=y,
        )  # fmt: skip


def fake_quantize(topic):
    for name, scale, zero_point, low, high in [
        ("symmetric", 0.05, 0, -127, 127),
        ("asymmetric", 0.0123, -37, -128, 127),
        ("power_of_two", 0.125, 3, -128, 127),
        ("lowest_zero_point", 0.0235, -128, -128, 127),
        ("four_bits", 0.3, 0, -7, 7),
        ("four_bits_asymmetric", 0.21, -3, -8, 7),
        ("two_bits", 0.9, 0, -1, 1),
        ("thirds", 1 / 3, 1, -128, 127),
    ]:
        scale = float(np.float32(scale))
        spread = scale * (high - low) * 0.4
        x = np.concatenate([topic.normal(400, scale=spread), edges(scale, zero_point, low, high)])
        leaf = torch.from_numpy(x).requires_grad_(True)
        y = torch.fake_quantize_per_tensor_affine(leaf, scale, zero_point, low, high)
        (mask,) = torch.autograd.grad(y.sum(), leaf)
        settings = {"granularity": "tensor", "scale": scale, "zero_point": zero_point, "low": low, "high": high}
        topic.case(name, settings, x=x, y=y.detach().numpy(), mask=mask.numpy().astype(np.uint8))

    for name, shape, axis, low, high in [
        ("per_row", (6, 40), 0, -127, 127),
        ("per_filter_four_bits", (4, 3, 3, 3), 0, -7, 7),
        ("per_column", (12, 5), 1, -127, 127),
    ]:
        channels = shape[axis]
        scale = topic.random.uniform(0.01, 0.1, channels).astype(np.float32)
        x = topic.normal(*shape, scale=float(scale.mean()) * high * 0.6)
        leaf = torch.from_numpy(x).requires_grad_(True)
        y = torch.fake_quantize_per_channel_affine(leaf, torch.from_numpy(scale), torch.zeros(channels, dtype=torch.int32), axis, low, high)
        (mask,) = torch.autograd.grad(y.sum(), leaf)
        settings = {"granularity": "channel", "axis": axis, "low": low, "high": high}
        topic.case(name, settings, x=x, scale=scale, y=y.detach().numpy(), mask=mask.numpy().astype(np.uint8))


if __name__ == "__main__":
    topic = Topic("onnx", {"onnx": onnx.__version__, "numpy": np.__version__, "opset": OPSET})
    for add in [quantize_linear, dequantize_linear, dynamic_quantize_linear, integer_products, q_linear_conv]:
        add(topic)
    topic.save()
    topic = Topic("fake_quantize", {"torch": torch.__version__, "numpy": np.__version__})
    fake_quantize(topic)
    topic.save()
