"""Writes the golden vectors that `main.rs` compares the crate with.

    pip install numpy safetensors torch
    python make_vectors.py            # rewrites *.safetensors beside this file

One safetensors file per topic. Its metadata holds one key, `golden`: a JSON document with the version of PyTorch, the seed
and the settings of each case. The tensors of a case are called `<case>/<name>`.

Inputs are drawn as f32. PyTorch computes in float64, and what it returns is rounded once to f32: an expected value is then
within half an ulp of the true one, and the tolerances in the tests pay for the rounding of our own arithmetic only.

`d_<name>` is the gradient of `sum(output * upstream)` with respect to `<name>`.
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
SEED = 20260


class Topic:
    """Collects the cases of one file."""

    def __init__(self, name):
        self.name, self.tensors, self.cases = name, {}, []
        # Each topic has its own generator, so that a new case in one does not change the numbers of another.
        self.generator = torch.Generator().manual_seed(SEED + sum(name.encode()))

    def normal(self, *shape, scale=1.0):
        """An f32 draw, held in float64: the Rust side reads exactly these numbers."""
        draw = torch.randn(*shape, generator=self.generator, dtype=torch.float32) * scale
        return draw.float().double()

    def case(self, name, settings, **tensors):
        self.cases.append({"name": name, **settings})
        for key, value in tensors.items():
            assert f"{name}/{key}" not in self.tensors
            self.tensors[f"{name}/{key}"] = value.detach().float().contiguous().clone()

    def save(self):
        golden = {"torch": torch.__version__, "seed": SEED, "cases": self.cases}
        path = HERE / f"{self.name}.safetensors"
        save_file(self.tensors, path, metadata={"golden": json.dumps(golden)})
        print(f"{path.name}: {len(self.cases)} cases, {path.stat().st_size} bytes")


def leaf(*tensors):
    return [t.clone().requires_grad_(True) for t in tensors]


def with_gradients(topic, function, inputs):
    """Runs `function` on named inputs; returns inputs, output, upstream and the gradient of every input."""
    leaves = {k: v.clone().requires_grad_(True) for k, v in inputs.items()}
    output = function(**leaves)
    upstream = topic.normal(*output.shape)
    gradients = torch.autograd.grad((output * upstream).sum(), list(leaves.values()))
    return dict(
        **inputs,
        output=output,
        upstream=upstream,
        **{f"d_{k}": g for k, g in zip(leaves, gradients)},
    )


def linear():
    topic = Topic("linear")
    for name, batch, inputs, outputs, bias in [
        ("small", 4, 7, 5, True),
        ("one_row", 1, 48, 10, True),
        ("without_bias", 3, 6, 4, False),
        ("wide", 17, 64, 20, True),
        ("one_by_one", 2, 1, 1, True),
    ]:
        tensors = {"x": topic.normal(batch, inputs), "weight": topic.normal(outputs, inputs, scale=inputs**-0.5)}
        if bias:
            tensors["bias"] = topic.normal(outputs)
        topic.case(name, {"bias": bias}, **with_gradients(topic, lambda x, weight, bias=None: F.linear(x, weight, bias), tensors))
    topic.save()


def conv2d():
    topic = Topic("conv2d")
    # name, [n, c, h, w], outputs, kernel, stride, padding, groups, bias
    for name, shape, outputs, kernel, stride, padding, groups, bias in [
        ("three_by_three", (2, 3, 6, 6), 4, (3, 3), (1, 1), (1, 1), 1, True),
        ("no_padding", (2, 2, 5, 5), 3, (3, 3), (1, 1), (0, 0), 1, True),
        ("stride_two", (2, 2, 7, 7), 3, (3, 3), (2, 2), (1, 1), 1, True),
        ("stride_leaves_a_rest", (1, 2, 6, 6), 2, (3, 3), (2, 2), (0, 0), 1, True),
        ("one_by_one", (2, 4, 3, 3), 5, (1, 1), (1, 1), (0, 0), 1, False),
        ("one_by_one_stride_two", (1, 3, 5, 5), 2, (1, 1), (2, 2), (0, 0), 1, True),
        ("non_square_image", (2, 2, 4, 9), 3, (3, 3), (1, 1), (1, 1), 1, True),
        ("non_square_kernel", (1, 2, 6, 5), 3, (1, 3), (1, 1), (0, 1), 1, True),
        ("non_square_everything", (2, 2, 9, 8), 3, (5, 2), (3, 1), (2, 1), 1, True),
        ("padding_wider_than_needed", (1, 1, 3, 3), 2, (3, 3), (1, 1), (2, 2), 1, True),
        ("kernel_is_the_image", (3, 2, 4, 4), 5, (4, 4), (1, 1), (0, 0), 1, True),
        ("two_groups", (2, 4, 5, 5), 6, (3, 3), (1, 1), (1, 1), 2, True),
        ("two_groups_stride_two", (1, 4, 6, 6), 4, (3, 3), (2, 2), (1, 1), 2, False),
        ("depthwise", (2, 5, 6, 6), 5, (3, 3), (1, 1), (1, 1), 5, True),
        ("depthwise_multiplier_two", (1, 3, 7, 5), 6, (3, 3), (2, 2), (1, 1), 3, True),
    ]:
        fan_in = shape[1] // groups * kernel[0] * kernel[1]
        tensors = {
            "x": topic.normal(*shape),
            "weight": topic.normal(outputs, shape[1] // groups, *kernel, scale=fan_in**-0.5),
        }
        if bias:
            tensors["bias"] = topic.normal(outputs)
        result = with_gradients(
            topic,
            lambda x, weight, bias=None: F.conv2d(x, weight, bias, stride=stride, padding=padding, groups=groups),
            tensors,
        )
        settings = {"kernel": kernel, "stride": stride, "padding": padding, "groups": groups, "bias": bias}
        topic.case(name, settings, **result)
    topic.save()


def pooling():
    topic = Topic("pooling")
    # name, kind, [n, c, h, w], kernel, stride, padding; `ties` rounds the input so that windows hold equal maxima:
    # PyTorch then sends the gradient to the first in row-major order.
    for name, kind, shape, kernel, stride, padding, ties in [
        ("max_two", "max", (2, 3, 6, 6), (2, 2), (2, 2), (0, 0), False),
        ("max_two_leaves_a_rest", "max", (1, 2, 5, 7), (2, 2), (2, 2), (0, 0), False),
        ("max_overlapping", "max", (2, 2, 7, 7), (3, 3), (2, 2), (0, 0), False),
        ("max_padded", "max", (1, 2, 6, 6), (3, 3), (2, 2), (1, 1), False),
        ("max_non_square", "max", (1, 2, 6, 8), (3, 2), (1, 2), (1, 0), False),
        ("max_with_ties", "max", (2, 2, 6, 6), (2, 2), (2, 2), (0, 0), True),
        ("max_overlapping_with_ties", "max", (1, 2, 7, 7), (3, 3), (1, 1), (0, 0), True),
        ("average_two", "average", (2, 3, 6, 6), (2, 2), (2, 2), (0, 0), False),
        ("average_leaves_a_rest", "average", (1, 2, 5, 7), (2, 2), (2, 2), (0, 0), False),
        ("average_overlapping", "average", (1, 2, 7, 7), (3, 3), (2, 2), (0, 0), False),
        ("average_padded", "average", (1, 2, 6, 6), (3, 3), (2, 2), (1, 1), False),
        ("average_whole_image", "average", (2, 3, 4, 4), (4, 4), (4, 4), (0, 0), False),
    ]:
        x = topic.normal(*shape)
        if ties:
            x = x.round().clamp(min=0)
        function = F.max_pool2d if kind == "max" else F.avg_pool2d
        result = with_gradients(topic, lambda x: function(x, kernel, stride=stride, padding=padding), {"x": x})
        settings = {"kind": kind, "kernel": kernel, "stride": stride, "padding": padding}
        topic.case(name, settings, **result)
    topic.save()


def batch_norm():
    topic = Topic("batch_norm")
    momentum, eps = 0.1, 1e-5
    for name, shape, offset, scale in [
        ("plain", (4, 3, 3, 3), 0.0, 1.0),
        ("far_from_zero", (3, 2, 4, 4), 5.0, 0.5),
        ("one_image", (1, 4, 3, 5), 0.0, 2.0),
    ]:
        channels = shape[1]
        weight, bias = 1 + topic.normal(channels, scale=0.3), topic.normal(channels)
        weight = weight.float().double()
        module = torch.nn.BatchNorm2d(channels, eps=eps, momentum=momentum).double()
        module.load_state_dict({"weight": weight, "bias": bias}, strict=False)
        tensors = {"weight": weight, "bias": bias}
        steps = 3
        for step in range(steps + 1):
            # Three batches in training mode, then one in evaluation mode with the statistics so far.
            module.train(step < steps)
            x = (offset + topic.normal(*shape, scale=scale)).float().double()
            (leaf_x,) = leaf(x)
            output = module(leaf_x)
            upstream = topic.normal(*shape)
            gradients = torch.autograd.grad((output * upstream).sum(), [leaf_x, module.weight, module.bias])
            tensors |= {
                f"{step}/x": x,
                f"{step}/output": output,
                f"{step}/upstream": upstream,
                f"{step}/d_x": gradients[0],
                f"{step}/d_weight": gradients[1],
                f"{step}/d_bias": gradients[2],
                f"{step}/running_mean": module.running_mean.clone(),
                f"{step}/running_var": module.running_var.clone(),
            }
        topic.case(name, {"steps": steps, "momentum": momentum, "eps": eps}, **tensors)
    topic.save()


def losses():
    topic = Topic("losses")

    def cross_entropy(name, batch, classes, scale):
        logits = topic.normal(batch, classes, scale=scale)
        targets = torch.randint(0, classes, (batch,), generator=topic.generator)
        (leaf_logits,) = leaf(logits)
        loss = F.cross_entropy(leaf_logits, targets)
        (gradient,) = torch.autograd.grad(loss, leaf_logits)
        settings = {"kind": "cross_entropy", "targets": targets.tolist()}
        topic.case(name, settings, x=logits, loss=loss.reshape(1), d_x=gradient)

    cross_entropy("cross_entropy", 6, 10, 1.0)
    cross_entropy("cross_entropy_one_row", 1, 3, 1.0)
    # exp(100) overflows f32: the maximum has to be taken out first.
    cross_entropy("cross_entropy_large_logits", 5, 4, 100.0)

    for name, shape, scale in [("mse", (4, 3), 1.0), ("mse_one_value", (1, 1), 3.0)]:
        x, target = topic.normal(*shape, scale=scale), topic.normal(*shape, scale=scale)
        (leaf_x,) = leaf(x)
        loss = F.mse_loss(leaf_x, target)
        (gradient,) = torch.autograd.grad(loss, leaf_x)
        topic.case(name, {"kind": "mse"}, x=x, target=target, loss=loss.reshape(1), d_x=gradient)

    for name, shape, scale in [("bce", (4, 3), 1.0), ("bce_large_logits", (5, 2), 60.0)]:
        x = topic.normal(*shape, scale=scale)
        target = torch.rand(*shape, generator=topic.generator).float().double()
        target[0] = target[0].round()
        (leaf_x,) = leaf(x)
        loss = F.binary_cross_entropy_with_logits(leaf_x, target)
        (gradient,) = torch.autograd.grad(loss, leaf_x)
        topic.case(name, {"kind": "bce_with_logits"}, x=x, target=target, loss=loss.reshape(1), d_x=gradient)
    topic.save()


def activations():
    topic = Topic("activations")
    functions = {
        "relu": lambda x: F.relu(x),
        "sigmoid": lambda x: torch.sigmoid(x),
        "tanh": lambda x: torch.tanh(x),
        "gelu": lambda x: F.gelu(x),
        "softmax": lambda x: F.softmax(x, dim=-1),
        "log_softmax": lambda x: F.log_softmax(x, dim=-1),
    }
    for kind, function in functions.items():
        for name, shape, scale in [("plain", (5, 8), 2.0), ("large", (3, 6), 30.0)]:
            result = with_gradients(topic, function, {"x": topic.normal(*shape, scale=scale)})
            topic.case(f"{kind}_{name}", {"kind": kind}, **result)
    topic.save()


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, dict(lr=0.1)),
    "sgd_momentum": (torch.optim.SGD, dict(lr=0.1, momentum=0.9)),
    "sgd_weight_decay": (torch.optim.SGD, dict(lr=0.1, weight_decay=0.01)),
    "sgd_momentum_weight_decay": (torch.optim.SGD, dict(lr=0.05, momentum=0.9, weight_decay=0.01)),
    "adam": (torch.optim.Adam, dict(lr=0.01)),
    "adam_weight_decay": (torch.optim.Adam, dict(lr=0.01, betas=(0.8, 0.99), weight_decay=0.1)),
    "adamw": (torch.optim.AdamW, dict(lr=0.01, weight_decay=0.01)),
    "adamw_weight_decay": (torch.optim.AdamW, dict(lr=0.02, betas=(0.8, 0.99), weight_decay=0.3)),
}


def optimizers():
    """Ten steps of a 6-5-3 network with tanh and cross-entropy, the same batch in each; weights and gradients of every step."""
    topic = Topic("optimizers")
    x = topic.normal(8, 6)
    targets = torch.randint(0, 3, (8,), generator=topic.generator)
    initial = {
        "0.weight": topic.normal(5, 6, scale=0.5),
        "0.bias": topic.normal(5, scale=0.5),
        "2.weight": topic.normal(3, 5, scale=0.5),
        "2.bias": topic.normal(3, scale=0.5),
    }
    topic.case("problem", {"targets": targets.tolist()}, x=x, **initial)
    for name, (optimizer_class, settings) in OPTIMIZERS.items():
        model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
        model.load_state_dict(initial)
        optimizer = optimizer_class(model.parameters(), **settings)
        tensors, losses = {}, []
        for step in range(10):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), targets)
            loss.backward()
            losses.append(loss.detach())
            for key, parameter in model.named_parameters():
                tensors[f"{step}/d_{key}"] = parameter.grad.clone()
            optimizer.step()
            for key, parameter in model.named_parameters():
                tensors[f"{step}/{key}"] = parameter.detach().clone()
        kind = optimizer_class.__name__.lower()
        topic.case(name, {"kind": kind, **settings}, losses=torch.stack(losses), **tensors)
    topic.save()


if __name__ == "__main__":
    for topic in [linear, conv2d, pooling, batch_norm, losses, activations, optimizers]:
        topic()
