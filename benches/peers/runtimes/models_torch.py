"""torch: INT8 by FBGEMM, by oneDNN and by its own choice (x86); called as it is and as a frozen trace. Nothing is
compiled: that would need a C++ compiler wherever the comparison runs."""

import torch
from torch.ao.nn import quantized
from torch.ao.nn.intrinsic import quantized as fused

from runtimes import models_quantization as quantization


def runs(name, model, x):
    """The module called as it is, and traced."""

    def run(model=model):
        with torch.inference_mode():
            return model(x)

    model.eval()
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(model, x))
    # The first calls of a trace still specialize it.
    for _ in range(3):
        run(traced)
    return [(name, run, run().numpy()), (f"{name} traced", lambda: run(traced), run(traced).numpy())]


def channels_last(x):
    x = torch.from_numpy(x)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def f32(layers, x, values, threads):
    modules = []
    for layer in layers:
        outputs, inputs = layer.weight.shape[:2]
        if layer.is_conv:
            module = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
        else:
            modules.append(torch.nn.Flatten())
            module = torch.nn.Linear(inputs, outputs)
        module.weight.data, module.bias.data = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
        modules.append(module)
        modules += [torch.nn.ReLU()] if layer.relu else []
        modules += [torch.nn.MaxPool2d(2)] if layer.pool else []
    made = runs("torch, contiguous", torch.nn.Sequential(*modules), torch.from_numpy(x))
    if layers[0].is_conv:
        model = torch.nn.Sequential(*modules).to(memory_format=torch.channels_last)
        made += runs("torch, channels last", model, channels_last(x))
    return made


def static(layers, values):
    """The modules of torch's own conversion: a ReLU belongs to the layer before it."""
    modules = [quantized.Quantize(*quantization.activation(values[0]), torch.quint8)]
    for layer, after in zip(layers, values[1:]):
        outputs, inputs = layer.weight.shape[:2]
        if layer.is_conv:
            module = (fused.ConvReLU2d if layer.relu else quantized.Conv2d)(inputs, outputs, 3, padding=1)
        else:
            modules.append(torch.nn.Flatten())
            module = (fused.LinearReLU if layer.relu else quantized.Linear)(inputs, outputs)
        module.set_weight_bias(weight(layer), torch.from_numpy(layer.bias))
        # A pooling is included in `after`: the largest value survives it, and the least is the ReLU's 0.
        module.scale, module.zero_point = quantization.activation(after)
        modules.append(module)
        modules += [torch.nn.MaxPool2d(2)] if layer.pool else []
    return torch.nn.Sequential(*modules, quantized.DeQuantize())


def dynamic(layers):
    modules = []
    for layer in layers:
        outputs, inputs = layer.weight.shape
        module = quantized.dynamic.Linear(inputs, outputs)
        module.set_weight_bias(weight(layer), torch.from_numpy(layer.bias))
        modules += [module, torch.nn.ReLU()] if layer.relu else [module]
    return torch.nn.Sequential(*modules)


def weight(layer):
    codes, scales = quantization.weights(layer)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(torch.from_numpy(codes), torch.from_numpy(scales).double(), zeros, 0)


def int8(layers, x, values, threads):
    made = []
    for engine in ("x86", "fbgemm", "onednn"):
        torch.backends.quantized.engine = engine
        # oneDNN's static linear layer runs a reference implementation here: seconds where FBGEMM takes a millisecond.
        if layers[0].is_conv or engine != "onednn":
            made += runs(f"torch, {engine} static", static(layers, values), channels_last(x))
        if not layers[0].is_conv:
            made += runs(f"torch, {engine} dynamic", dynamic(layers), torch.from_numpy(x))
    return made
