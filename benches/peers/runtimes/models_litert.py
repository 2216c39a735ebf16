"""LiteRT (XNNPACK): f32 and full INT8. The INT8 model quantizes its input and dequantizes its logits itself."""

import numpy as np

from runtimes import models_quantization as quantization
from runtimes import tflite


def run(model, x, threads):
    # Images are channels last there; with one channel the bytes are the same.
    runner = tflite.Runner(model, threads, np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim == 4 else x)
    return [("LiteRT", runner.run, runner.output())]


def channels_last(layers):
    """Weights in LiteRT's order: `[out, height, width, in]`, and a linear layer behind images reads channels last."""
    for i, layer in enumerate(layers):
        weight = layer.weight
        if layer.is_conv:
            yield np.moveaxis(weight, 1, -1)
        elif i and layers[i - 1].is_conv:
            channels = layers[i - 1].weight.shape[0]
            side = round((weight.shape[1] // channels) ** 0.5)
            yield np.moveaxis(weight.reshape(len(weight), channels, side, side), 1, -1).reshape(len(weight), -1)
        else:
            yield weight


def f32(layers, x, values, threads):
    model = tflite.Model()
    shape = [len(x), 28, 28, 1] if layers[0].is_conv else list(x.shape)
    first = value = model.tensor(shape, np.float32)
    for layer, weight in zip(layers, channels_last(layers)):
        w = model.tensor(weight.shape, np.float32, weight)
        b = model.tensor(layer.bias.shape, np.float32, layer.bias)
        value = model.layer(value, w, b, layer.relu, layer.pool)
    return run(model.bytes([first], [value]), x, threads)


def int8(layers, x, values, threads):
    model = tflite.Model()
    shape = [len(x), 28, 28, 1] if layers[0].is_conv else list(x.shape)
    first = model.tensor(shape, np.float32)
    scale, zero_point = quantization.activation(values[0])
    value = model.tensor(shape, np.int8, scales=scale, zero_points=zero_point - 128)
    model.quantize(first, value)
    for layer, order, after in zip(layers, channels_last([*layers]), values[1:]):
        _, weight_scales = quantization.weights(layer)
        codes = np.rint(order / weight_scales.reshape(-1, *[1] * (order.ndim - 1))).astype(np.int8)
        w = model.tensor(codes.shape, np.int8, codes, weight_scales, axis=0)
        bias_scales = np.float32(scale) * weight_scales
        b = model.tensor(layer.bias.shape, np.int32, np.rint(layer.bias / bias_scales), bias_scales)
        scale, zero_point = quantization.activation(after)
        value = model.layer(value, w, b, layer.relu, layer.pool, scale, zero_point - 128)
    last = model.tensor([len(x), layers[-1].weight.shape[0]], np.float32)
    model.dequantize(value, last)
    return run(model.bytes([first], [last]), x, threads)
