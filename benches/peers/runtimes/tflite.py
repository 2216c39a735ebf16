"""Writes small LiteRT models: a flatbuffer of tensors and operators, without a converter."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
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

    def quantize(self, x, y):
        self.operator(schema.BuiltinOperator.QUANTIZE, [x], [y])

    def dequantize(self, x, y):
        self.operator(schema.BuiltinOperator.DEQUANTIZE, [x], [y])

    def layer(self, x, w, b, relu, pool, scale=None, zero_point=None):
        """A 3x3 convolution (same size) or a linear layer, by the weight's shape, and a 2x2 max pooling; returns the result."""
        activation = schema.ActivationFunctionType.RELU if relu else schema.ActivationFunctionType.NONE
        builtins, kinds = schema.BuiltinOperator, schema.BuiltinOptions
        quantization = {} if scale is None else {"scales": scale, "zero_points": zero_point}
        dtype = next(dtype for dtype, number in TYPES.items() if number == self.tensors[x].type)
        batch, outputs = self.tensors[x].shape[0], self.tensors[w].shape[0]
        if len(self.tensors[w].shape) == 2:
            inputs = self.tensors[w].shape[1]
            if self.tensors[x].shape != [batch, inputs]:
                flat = self.tensor([batch, inputs], dtype)
                self.tensors[flat].quantization = self.tensors[x].quantization
                reshape = schema.ReshapeOptionsT()
                reshape.newShape = [batch, inputs]
                shape = self.tensor([2], np.int32, [batch, inputs])
                self.operator(builtins.RESHAPE, [x, shape], [flat], reshape, kinds.ReshapeOptions)
                x = flat
            y = self.tensor([batch, outputs], dtype, **quantization)
            options = schema.FullyConnectedOptionsT()
            options.fusedActivationFunction = activation
            self.operator(builtins.FULLY_CONNECTED, [x, w, b], [y], options, kinds.FullyConnectedOptions, version=4)
            return y
        _, height, width, _ = self.tensors[x].shape
        y = self.tensor([batch, height, width, outputs], dtype, **quantization)
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
        options.fusedActivationFunction = activation
        self.operator(builtins.CONV_2D, [x, w, b], [y], options, kinds.Conv2DOptions, version=3)
        if not pool:
            return y
        pooled = self.tensor([batch, height // 2, width // 2, outputs], dtype, **quantization)
        options = schema.Pool2DOptionsT()
        options.padding = schema.Padding.VALID
        options.strideH = options.strideW = options.filterHeight = options.filterWidth = 2
        self.operator(builtins.MAX_POOL_2D, [y], [pooled], options, kinds.Pool2DOptions, version=2)
        return pooled

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
