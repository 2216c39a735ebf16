"""ONNX Runtime: f32, static INT8 (u8 x s8, both forms of its own tool), dynamic INT8 for models of linear layers."""

import logging
import pathlib
import tempfile

import onnx
from onnx import TensorProto, helper
from onnxruntime import quantization

from runtimes.products import onnx_model, session


def model(layers, x):
    nodes, constants, value = [], [], "x"

    def node(kind, inputs, **attributes):
        nodes.append(helper.make_node(kind, inputs, [f"v{len(nodes)}"], name=f"n{len(nodes)}", **attributes))
        return nodes[-1].output[0]

    for i, layer in enumerate(layers):
        constants += [onnx.numpy_helper.from_array(layer.weight, f"w{i}"), onnx.numpy_helper.from_array(layer.bias, f"b{i}")]
        if layer.is_conv:
            value = node("Conv", [value, f"w{i}", f"b{i}"], pads=[1, 1, 1, 1])
        else:
            value = node("Flatten", [value]) if i and layers[i - 1].is_conv else value
            value = node("Gemm", [value, f"w{i}", f"b{i}"], transB=1)
        value = node("Relu", [value]) if layer.relu else value
        value = node("MaxPool", [value], kernel_shape=[2, 2], strides=[2, 2]) if layer.pool else value
    outputs = [helper.make_tensor_value_info(value, TensorProto.FLOAT, [len(x), layers[-1].weight.shape[0]])]
    return onnx_model(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)], outputs, constants)


def runs(name, made, x, threads):
    ready, inputs = session(made, threads), {"x": x}
    return name, lambda: ready.run(None, inputs), ready.run(None, inputs)[0]


def f32(layers, x, values, threads):
    return [runs("ONNX Runtime", model(layers, x), x, threads)]


class Reader(quantization.CalibrationDataReader):
    """Hands over one batch."""

    def __init__(self, x):
        self.batches = iter([{"x": x}])

    def get_next(self):
        return next(self.batches, None)


def int8(layers, x, values, threads):
    # The tool advises its preprocessing, which only infers shapes and folds what these models do not have.
    logging.getLogger().setLevel(logging.ERROR)
    made = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        for name, form in (("QDQ", quantization.QuantFormat.QDQ), ("QOperator", quantization.QuantFormat.QOperator)):
            types = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
            quantization.quantize_static(model(layers, x), path, Reader(x), quant_format=form, per_channel=True, **types)
            made.append(runs(f"ONNX Runtime, {name}", onnx.load(path), x, threads))
        if not layers[0].is_conv:
            quantization.quantize_dynamic(model(layers, x), path, per_channel=True, weight_type=quantization.QuantType.QInt8)
            made.append(runs("ONNX Runtime, dynamic", onnx.load(path), x, threads))
    return made
