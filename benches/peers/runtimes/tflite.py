"""Writes small LiteRT models: a flatbuffer of tensors and operators, without a converter."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}


class Model:
    """Tensors are numbered in the order in which they are made."""

    def __init__(self):
        self.tensors, self.operators, self.codes, self.buffers = [], [], [], [schema.BufferT()]

    def tensor(self, shape, dtype, values=None, scales=None, zero_points=None, axis=0):
        """A tensor; constant if it has values, quantized if it has scales (one, or one per index along `axis`)."""
        tensor = schema.TensorT()
        tensor.name = f"t{len(self.tensors)}".encode()
        tensor.shape = list(shape)
        tensor.type = TYPES[np.dtype(dtype)]
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values, dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if scales is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.asarray(scales, np.float32))
            zeros = np.zeros(len(quantization.scale), np.int64) if zero_points is None else zero_points
            quantization.zeroPoint = np.atleast_1d(np.asarray(zeros, np.int64))
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def operator(self, builtin, inputs, outputs, options=None, options_type=0, version=1):
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.codes)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        operator.builtinOptions, operator.builtinOptionsType = options, options_type
        self.codes.append(code)
        self.operators.append(operator)

    def bytes(self, inputs, outputs):
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, self.codes, [graph], self.buffers
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class Runner:
    """An interpreter with XNNPACK, its input set once."""

    def __init__(self, model, threads, *inputs):
        self.interpreter = Interpreter(model_content=model, num_threads=threads)
        self.interpreter.allocate_tensors()
        for detail, values in zip(self.interpreter.get_input_details(), inputs):
            self.interpreter.set_tensor(detail["index"], values)
        self.run = self.interpreter.invoke

    def output(self):
        self.run()
        return self.interpreter.get_tensor(self.interpreter.get_output_details()[0]["index"])


def linear(k, n, m, codes, scales, bias):
    """f32 in and out, weights `codes` [n, k] INT8 per channel: XNNPACK quantizes the input row by row."""
    model = Model()
    x = model.tensor([m, k], np.float32)
    w = model.tensor([n, k], np.int8, codes, scales)
    b = model.tensor([n], np.float32, bias)
    y = model.tensor([m, n], np.float32)
    options = schema.FullyConnectedOptionsT()
    options.asymmetricQuantizeInputs = True
    kind = schema.BuiltinOptions.FullyConnectedOptions
    model.operator(schema.BuiltinOperator.FULLY_CONNECTED, [x, w, b], [y], options, kind, version=9)
    return model.bytes([x], [y])
