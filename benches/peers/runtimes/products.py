"""Matrix products [m, k] x [k, n], weights prepacked where the library can do that."""

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from runtimes import data, turns
from runtimes.table import Table

# (m, k, n).
SHAPES = [
    (1, 1024, 1024),
    (1, 4096, 4096),
    (8, 768, 768),
    (32, 784, 128),
    (128, 768, 3072),
    (256, 1024, 1024),
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
]


def session(model, threads):
    """An ONNX Runtime session that stops spinning when a run ends: idle it would take the next subject's second core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def onnx_model(nodes, inputs, outputs, initializers):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def verify(subjects, expected):
    """Every subject must have computed one of the expected results."""
    for subject in subjects:
        if subject.check is None:
            continue
        if not any(np.isclose(subject.check, value, rtol=1e-5) for value in expected):
            raise AssertionError(f"{subject.name} computed {subject.check}, not one of {expected}")


def exact_product(a, b):
    """All sums are below 2^53, so exact in f64."""
    return a.astype(np.float64) @ b.astype(np.float64)


def i8_peers(m, k, n, threads):
    work = 2.0 * m * k * n
    signed, weights = data.codes(m, k, 37), data.codes(k, n, 91)
    unsigned = (signed.astype(np.int32) + 125).astype(np.uint8)
    a, b = torch.from_numpy(signed), torch.from_numpy(np.ascontiguousarray(weights.T)).t()
    node = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    model = onnx_model(
        [node],
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [m, k])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [m, n])],
        [onnx.numpy_helper.from_array(weights, "b")],
    )
    ort = session(model, threads)
    torch.backends.quantized.engine = "fbgemm"
    linear = torch.ao.nn.quantized.Linear(k, n)
    scales, zeros = torch.full((n,), 1e-2, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
    codes = torch._make_per_channel_quantized_tensor(torch.from_numpy(weights.T.copy()), scales, zeros, 0)
    linear.set_weight_bias(codes, torch.zeros(n))
    linear.scale, linear.zero_point = 1.0, 3
    x = torch._make_per_tensor_quantized_tensor(torch.from_numpy(unsigned), 1e-2, 0)

    def fbgemm():
        with torch.inference_mode():
            linear(x)

    int_mm = torch._int_mm
    inputs = {"a": unsigned}
    return [
        turns.Subject("oneDNN (torch)", work, lambda: int_mm(a, b), data.check(int_mm(a, b).numpy())),
        turns.Subject("ONNX Runtime", work, lambda: ort.run(None, inputs), data.check(ort.run(None, inputs)[0])),
        turns.Subject("FBGEMM (torch)", work, fbgemm),
    ], [data.check(exact_product(signed, weights)), data.check(exact_product(unsigned, weights))]


def run_i8(threads):
    torch.set_num_threads(threads)
    table = Table("INT8 products, m x k x n", "Gop/s", 1e9, "ours", ["ours_requantized"])
    server, ceiling_server = turns.Server(), turns.Server()
    for m, k, n in SHAPES:
        peers, expected = i8_peers(m, k, n, threads)
        rust = server.prepare("i8", m, k, n)
        verify([s for s in rust if s.name != "ours_requantized"] + peers, expected)
        # One byte of weights is 2 · m operations.
        ceilings = ceiling_server.prepare("ceilings", k * n)
        add_row(table, (m, k, n), rust + peers, ceilings, threads, turns.integer_instruction(ceilings), 2.0 * m)
    return table


def f32_peers(m, k, n, threads):
    work = 2.0 * m * k * n
    a, weights = data.reals(m, k, 37), data.reals(k, n, 91)
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    model = onnx_model(
        [node],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [m, k])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [m, n])],
        [onnx.numpy_helper.from_array(weights, "b")],
    )
    ort = session(model, threads)
    x, w = torch.from_numpy(a), torch.from_numpy(np.ascontiguousarray(weights.T))
    packed = torch.ops.mkldnn._reorder_linear_weight(w, m)
    linear = torch.ops.mkldnn._linear_pointwise.default
    out = np.empty((m, n), np.float32)
    inputs = {"a": a}

    def onednn():
        with torch.inference_mode():
            return linear(x, packed, None, "none", [], "")

    return [
        turns.Subject("oneDNN (torch)", work, onednn, data.check(onednn().numpy())),
        turns.Subject("ONNX Runtime", work, lambda: ort.run(None, inputs), data.check(ort.run(None, inputs)[0])),
        turns.Subject("numpy", work, lambda: np.matmul(a, weights, out=out), data.check(np.matmul(a, weights))),
    ], [data.check(exact_product(a, weights))]


def run_f32(threads):
    torch.set_num_threads(threads)
    table = Table("f32 products, m x k x n", "Gop/s", 1e9, "ours", ["ours_unpacked"])
    server, ceiling_server = turns.Server(), turns.Server()
    for m, k, n in SHAPES:
        peers, expected = f32_peers(m, k, n, threads)
        rust = server.prepare("f32", m, k, n)
        verify(rust + peers, expected)
        ceilings = ceiling_server.prepare("ceilings", 4 * k * n)
        add_row(table, (m, k, n), rust + peers, ceilings, threads, "fma", 2.0 * m / 4)
    return table


def add_row(table, shape, subjects, ceilings, threads, instruction, operations_per_byte):
    """One row: the lower of the two ceilings counts, arithmetic or the bytes of the weights."""
    wanted = [ceiling for ceiling in ceilings if ceiling.name in (instruction, "read")]
    speeds = turns.measure(subjects + wanted, threads)
    bounds = {instruction: speeds.pop(instruction, np.nan), "reading the weights": operations_per_byte * speeds.pop("read", np.nan)}
    name = min(bounds, key=bounds.get)
    table.add(" x ".join(map(str, shape)), speeds, bounds[name], name)
