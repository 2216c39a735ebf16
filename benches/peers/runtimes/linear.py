"""A linear layer d -> d with INT8 weights, f32 in and out, bias: the input is quantized within the call ("dynamic")."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from runtimes import data, tflite, turns
from runtimes.products import add_row, onnx_model, session
from runtimes.table import Table

SIZES = [(1, 1024), (8, 1024), (32, 1024), (128, 1024), (512, 1024), (1, 4096), (128, 4096)]


def peers(m, d, threads):
    work = 2.0 * m * d * d
    x = data.inputs(m, d, 37)
    codes = data.codes(d, d, 91)
    scales, bias = np.full(d, 1e-2, np.float32), np.full(d, 0.5, np.float32)
    expected = x.astype(np.float64) @ codes.T.astype(np.float64) * 1e-2 + 0.5

    def verified(name, run, result):
        """7-bit activations, the coarsest here, leave an error of about 1 % of the results; a wrong layout leaves 100 %."""
        error = np.sqrt(np.mean((np.asarray(result, np.float64) - expected) ** 2) / np.mean(expected**2))
        if not error < 0.05:
            raise AssertionError(f"{name} is off by {100 * error:.1f} %")
        return turns.Subject(name, work, run)

    litert = tflite.Runner(tflite.linear(d, d, m, codes, scales, bias), threads, x)
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "w", "s", "", "b"], ["y"], domain="com.microsoft")
    model = onnx_model(
        [node],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [m, d])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [m, d])],
        [
            onnx.numpy_helper.from_array(np.ascontiguousarray(codes.T), "w"),
            onnx.numpy_helper.from_array(scales, "s"),
            onnx.numpy_helper.from_array(bias, "b"),
        ],
    )
    ort = session(model, threads)
    inputs = {"x": x}
    subjects = [
        verified("LiteRT", litert.run, litert.output()),
        verified("ONNX Runtime", lambda: ort.run(None, inputs), ort.run(None, inputs)[0]),
    ]
    for engine in ("fbgemm", "onednn"):
        torch.backends.quantized.engine = engine
        layer = torch.ao.nn.quantized.dynamic.Linear(d, d)
        zeros = torch.zeros(d, dtype=torch.int64)
        weight = torch._make_per_channel_quantized_tensor(torch.from_numpy(codes), torch.from_numpy(scales).double(), zeros, 0)
        layer.set_weight_bias(weight, torch.from_numpy(bias))
        tensor = torch.from_numpy(x)

        def run(layer=layer):
            with torch.inference_mode():
                return layer(tensor)

        subjects.append(verified(f"torch, {engine}", run, run().numpy()))
    return subjects


def run(threads):
    torch.set_num_threads(threads)
    table = Table("Dynamic INT8 linear layer, batch x d", "Gop/s", 1e9, "ours", ["ours_per_tensor"])
    server, ceiling_server = turns.Server(), turns.Server()
    for m, d in SIZES:
        subjects = server.prepare("linear", m, d)
        expected = data.check(data.inputs(m, d, 37) @ data.codes(d, d, 91).T.astype(np.float32) * 1e-2 + 0.5)
        for subject in subjects:
            if abs(subject.check / expected - 1) > 0.05:
                raise AssertionError(f"{subject.name} computed {subject.check}, not {expected}")
        subjects += peers(m, d, threads)
        ceilings = ceiling_server.prepare("ceilings", d * d)
        add_row(table, (m, d), subjects, ceilings, threads, turns.integer_instruction(ceilings), 2.0 * m)
    return table
