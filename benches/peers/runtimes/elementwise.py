"""Real numbers to codes and back: where a cache holds them, and where none does."""

import ctypes

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from runtimes import data, tflite, turns
from runtimes.products import onnx_model, session, verify
from runtimes.table import Table

# As in `src/elementwise.rs`.
SCALE, ZERO_POINT, PERIOD = np.float32(0.0161), 3, 1 << 16
SIZES = [("64 Ki, in cache", 1 << 16), ("64 Mi, from memory", 1 << 26)]
# Codes: numpy, ONNX, torch, what is added to the zero point.
KINDS = [(np.int8, TensorProto.INT8, torch.qint8, 0), (np.uint8, TensorProto.UINT8, torch.quint8, 128)]


def keep_memory():
    """Makes malloc keep what is freed: torch's new result for every call would otherwise be new pages, which the system clears."""
    m_mmap_max, m_trim_threshold = -4, -1
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1)):
        raise OSError("mallopt")


def aligned(array):
    """A copy that begins with a cache line, as ours does: a vector across two lines takes longer."""
    line = 64
    memory = np.empty(array.nbytes + line, np.uint8)
    skipped = -memory.ctypes.data % line
    copy = memory[skipped : skipped + array.nbytes].view(array.dtype)
    copy[:] = array
    return copy


def codes_of(reals, dtype, zero_point):
    limits = np.iinfo(dtype)
    return np.clip(np.rint(reals / SCALE) + zero_point, limits.min, limits.max).astype(dtype)


def ort_subjects(work, operator, x, result, onnx_type, dtype, zero_point, threads):
    """Two ways to call it: it makes the result's memory, or is given it."""
    kind_of_x = TensorProto.FLOAT if operator == "QuantizeLinear" else onnx_type
    kind_of_y = onnx_type if operator == "QuantizeLinear" else TensorProto.FLOAT
    model = onnx_model(
        [helper.make_node(operator, ["x", "s", "z"], ["y"])],
        [helper.make_tensor_value_info("x", kind_of_x, [x.size])],
        [helper.make_tensor_value_info("y", kind_of_y, [x.size])],
        [onnx.numpy_helper.from_array(SCALE.reshape(()), "s"), onnx.numpy_helper.from_array(dtype(zero_point).reshape(()), "z")],
    )
    ort = session(model, threads)
    inputs = {"x": x}
    given = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(x.size, result.dtype))
    binding = ort.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", given)
    ort.run_with_iobinding(binding)
    return [
        turns.Subject("ONNX Runtime", work, lambda: ort.run(None, inputs), data.check(ort.run(None, inputs)[0])),
        turns.Subject("ONNX Runtime, bound", work, lambda: ort.run_with_iobinding(binding), data.check(given.numpy())),
    ]


def peers(direction, size, kind, threads):
    """The subjects, and the check of the right result."""
    dtype, onnx_type, torch_type, shift = kind
    zero_point, work = ZERO_POINT + shift, 5.0 * size
    reals = aligned(np.resize(data.inputs(1, PERIOD, 37), size))
    codes = aligned(np.resize(codes_of(reals[:PERIOD], dtype, zero_point), size))
    model = tflite.Model()
    tensor = torch.from_numpy(reals)
    if direction == "quantize":
        x, result, operator = reals, codes, "QuantizeLinear"
        ends = [model.tensor([size], np.float32), model.tensor([size], dtype, scales=SCALE, zero_points=zero_point)]
        model.quantize(*ends)
        call = lambda: torch.quantize_per_tensor(tensor, float(SCALE), zero_point, torch_type)
        torch_result = lambda: call().int_repr().numpy()
    else:
        x, operator = codes, "DequantizeLinear"
        back = (np.arange(256, dtype=np.float32) - zero_point + np.iinfo(dtype).min) * SCALE
        result = np.resize(back[codes[:PERIOD].astype(np.int32) - np.iinfo(dtype).min], size)
        ends = [model.tensor([size], dtype, scales=SCALE, zero_points=zero_point), model.tensor([size], np.float32)]
        model.dequantize(*ends)
        quantized = torch.quantize_per_tensor(tensor, float(SCALE), zero_point, torch_type)
        call = quantized.dequantize
        torch_result = lambda: call().numpy()
    litert = tflite.Runner(model.bytes(ends[:1], ends[1:]), threads, x)

    def run_torch():
        with torch.inference_mode():
            call()

    return [
        *ort_subjects(work, operator, x, result, onnx_type, dtype, zero_point, threads),
        turns.Subject("torch", work, run_torch, data.check(torch_result())),
        turns.Subject("LiteRT", work, litert.run, data.check(litert.output())),
    ], data.check(result)


def run(threads):
    torch.set_num_threads(threads)
    keep_memory()
    table = Table("Real numbers to codes and back, bytes read and written", "GB/s", 1e9, "ours")
    server = turns.Server()
    for direction in ("quantize", "dequantize"):
        for label, size in SIZES:
            for kind in KINDS:
                subjects, expected = peers(direction, size, kind, threads)
                # Moves as many bytes from and to the same memory.
                ours, *ceilings = server.prepare(direction, size, int(kind[0] is np.uint8))
                subjects = [ours, *subjects]
                verify(subjects, [expected])
                speeds = turns.measure(subjects + ceilings, threads)
                bounds = {ceiling.name: speeds.pop(ceiling.name) for ceiling in ceilings}
                best = max(bounds, key=bounds.get, default=None)
                names = {"moved": "the bytes", "moved_past": "the bytes, past the caches", None: "not measured on this CPU"}
                table.add(f"{direction}, {kind[0].__name__}, {label}", speeds, bounds.get(best, np.nan), names[best])
    return table
