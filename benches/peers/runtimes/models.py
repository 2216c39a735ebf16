"""Whole models, forward only, f32 in and out: one table for f32, one for INT8, every runtime with the weights of ours.

A runtime is a module with two functions, `f32` and `int8`, that take the layers, the input, the values at the layers' borders
(from which ranges follow) and the number of threads, and return, for each way of
calling it, a name, a call and the logits that call computes.
"""

import dataclasses

import numpy as np
import torch

from runtimes import data, models_litert, models_onnx, models_torch, turns
from runtimes.table import Table

# Label, number in `src/models.rs`, batch.
MODELS = [
    ("MLP 784-1024-1024-10, batch 128", 1, 128),
    ("CNN, batch 64", 0, 64),
    ("CNN, batch 1", 0, 1),
    ("MLP 784-128-64-10, batch 1", 2, 1),
    ("MLP 784-128-64-10, batch 128", 2, 128),
]
# The largest relative error (root mean square over the logits) that a result may have. f32 sums of a few thousand products
# differ by some 1e-6. Eight bits leave about 1 % per layer; a wrong layout of one layer leaves more than 50 %.
F32_ERROR, INT8_ERROR = 1e-4, 0.05
RUNTIMES = ["LiteRT", "ONNX Runtime", "torch"]


@dataclasses.dataclass
class Layer:
    """A convolution 3x3 with padding 1 or a linear layer, then a ReLU and a 2x2 max pooling where it has them."""

    weight: np.ndarray
    bias: np.ndarray
    relu: bool
    pool: bool

    @property
    def is_conv(self):
        return self.weight.ndim == 4


def layers(number):
    """The layers of a model, with the same parameters as in `src/models.rs`."""
    shapes = {
        0: [(32, 1, 3, 3), (64, 32, 3, 3), (10, 64 * 7 * 7)],
        1: [(1024, 784), (1024, 1024), (10, 1024)],
        2: [(128, 784), (64, 128), (10, 64)],
    }[number]
    made = []
    for i, shape in enumerate(shapes):
        fan_in = np.float32(np.prod(shape[1:]))
        weight = data.reals(shape[0], int(fan_in), 91) * (np.float32(1.2) / np.sqrt(fan_in))
        bias = data.reals(1, shape[0], 91)[0] * np.float32(0.05)
        made.append(Layer(weight.reshape(shape), bias, i + 1 < len(shapes), len(shape) == 4))
    return made


def forward(made, x):
    """The values at each layer's border, in f64: the input, what each layer gives, the logits last."""
    values = [torch.from_numpy(x).double()]
    for layer in made:
        weight, bias, value = torch.from_numpy(layer.weight).double(), torch.from_numpy(layer.bias).double(), values[-1]
        if layer.is_conv:
            value = torch.nn.functional.conv2d(value, weight, bias, padding=1)
        else:
            value = torch.nn.functional.linear(value.flatten(1), weight, bias)
        value = value.relu() if layer.relu else value
        values.append(torch.nn.functional.max_pool2d(value, 2) if layer.pool else value)
    return [value.numpy() for value in values]


def operations(made, batch):
    """Multiplications and additions of one call."""
    positions = [28 * 28, 14 * 14]
    return batch * sum(2.0 * l.weight.size * (positions[i] if l.is_conv else 1) for i, l in enumerate(made))


def verify(name, result, expected, allowed):
    result = np.asarray(result, np.float64).reshape(expected.shape)
    error = np.sqrt(np.mean((result - expected) ** 2) / np.mean(expected**2))
    if not error < allowed:
        raise AssertionError(f"{name} is off by {100 * error:.3g} %")


def subjects(server, made, number, batch, threads):
    """Those that compute in f32, ours first, and those in INT8, each of them verified."""
    x = data.inputs(batch, 784, 37)
    x = x.reshape(batch, 1, 28, 28) if made[0].is_conv else x
    values = forward(made, x)
    served = {subject.name: subject for subject in server.prepare("model", number, batch)}
    results = server.values("model_values", number, batch)
    groups = []
    for kind, allowed in (("f32", F32_ERROR), ("int8", INT8_ERROR)):
        ours = f"ours_{kind}"
        verify(ours, results[ours], values[-1], allowed)
        group = [served[ours]]
        for runtime in (models_litert, models_onnx, models_torch):
            for name, run, logits in getattr(runtime, kind)(made, x, values, threads):
                verify(f"{name} in {kind}", logits, values[-1], allowed)
                group.append(turns.Subject(name, 1.0, run))
        groups.append(group)
    return groups


class Times(Table):
    """Microseconds per call; the speeds are calls per second, so a ratio above 1 still says that ours is faster."""

    def number(self, speed):
        microseconds = 1e6 / speed
        return f"{microseconds:.0f}" if microseconds >= 100 else f"{microseconds:.2f}"


    def __init__(self, title, ours, extra=()):
        super().__init__(title, "µs per call", 1.0, ours, extra)
        self.ways = []

    def add_best(self, label, speeds, ceiling, instruction):
        """Of the ways to call one runtime (`torch, fbgemm`, `torch, onednn` ...) only the fastest becomes a cell of the row."""
        best, ways = {}, []
        for name in sorted(speeds, key=speeds.get, reverse=True):
            runtime, _, way = name.partition(", ")
            if runtime not in best and way:
                ways.append(f"{runtime} {way}")
            best.setdefault(runtime, speeds[name])
        self.ways.append(f"{label}: {', '.join(sorted(ways))}" if ways else None)
        self.add(label, {name: best[name] for name in [self.ours, *self.extra, *RUNTIMES]}, ceiling, instruction)

    def markdown(self, threads):
        ways = "; ".join(way for way in self.ways if way)
        return super().markdown(threads) + f"\nFastest of several ways to call a runtime: {ways}.\n"


class Tables:
    """f32, then INT8."""

    def __init__(self):
        self.f32 = Times("Whole models, f32", "ours_f32")
        self.int8 = Times("Whole models, INT8", "ours_int8", ["ours_f32"])

    def markdown(self, threads):
        gains = [f"{speeds['ours_int8'] / speeds['ours_f32']:.2f}" for _, speeds, _, _ in self.int8.rows]
        gain = f"INT8 over f32, both ours, in the order of the rows: {', '.join(gains)}.\n"
        return "\n".join([self.f32.markdown(threads), self.int8.markdown(threads), gain])


def run(threads):
    torch.set_num_threads(threads)
    tables, ceiling_server = Tables(), turns.Server()
    ceilings = {ceiling.name: ceiling for ceiling in ceiling_server.prepare("ceilings", 1 << 16)}
    for label, number, batch in MODELS:
        made, server = layers(number), turns.Server()
        work = operations(made, batch)
        f32, int8 = subjects(server, made, number, batch, threads)
        speeds = turns.measure([*f32, ceilings["fma"]], threads)
        tables.f32.add_best(label, speeds, speeds.pop("fma") / work, "fma")
        # Our f32 model takes part again, so that the gain by INT8 is a ratio within one run as well.
        instruction = turns.integer_instruction(ceilings.values())
        speeds = turns.measure([*int8, f32[0], ceilings[instruction]], threads)
        tables.int8.add_best(label, speeds, speeds.pop(instruction) / work, instruction)
    return tables
