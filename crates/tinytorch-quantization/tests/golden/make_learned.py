"""Writes `learned.safetensors`, the golden vectors of learned step sizes.

    pip install numpy safetensors torch
    python make_learned.py

From PyTorch's `_fake_quantize_learnable_per_tensor_affine` and `_fake_quantize_learnable_per_channel_affine`: output, and
the gradients of values, scale and zero point for a random upstream gradient. Zero points have fractions, which both round.

Per tensor no zero point is negative: the backward pass of PyTorch there truncates `zero_point + 0.5` towards zero, so that
-2 becomes -1, while its forward pass rounds to -2. Per channel both round.
"""

import json
import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file

SEED = 20262
HERE = pathlib.Path(__file__).parent
random = np.random.Generator(np.random.PCG64(SEED))
tensors, cases = {}, []


def case(name, shape, axis, low, high, scale, zero_point, factor):
    def normal(spread):
        return (random.standard_normal(shape) * spread).astype(np.float32)

    scale = np.asarray(scale, np.float32)
    # A third of the values beyond the last codes, so that all three gradients of the scale matter.
    x = torch.tensor(normal(0.5 * (high - low) * float(scale.mean())), requires_grad=True)
    s = torch.tensor(scale, requires_grad=True)
    z = torch.tensor(np.asarray(zero_point, np.float32), requires_grad=True)
    upstream = normal(1.0)
    if axis is None:
        y = torch._fake_quantize_learnable_per_tensor_affine(x, s, z, low, high, factor)
    else:
        y = torch._fake_quantize_learnable_per_channel_affine(x, s, z, axis, low, high, factor)
    y.backward(torch.tensor(upstream))
    cases.append({"name": name, "granularity": "tensor" if axis is None else "channel",
                  "axis": axis or 0, "low": low, "high": high, "factor": factor})
    parts = {"x": x, "scale": s, "zero_point": z, "y": y, "dx": x.grad, "ds": s.grad, "dz": z.grad}
    for key, value in parts.items():
        tensors[f"{name}/{key}"] = np.ascontiguousarray(value.detach().numpy()).copy()
    tensors[f"{name}/upstream"] = upstream


for bits in (2, 3, 4, 8):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    count = 96
    case(f"weights_{bits}", (count,), None, low, high, [0.037], [0.0], 1 / (count * high) ** 0.5)
    case(f"channels_{bits}", (4, 3, 2, 2), 0, -high, high, [0.02, 0.5, 0.13, 1.0], [0.0] * 4, 1 / (12 * high) ** 0.5)
    case(f"activations_{bits}", (3, 20), None, low, high, [0.25], [high - 0.4], 1.0)
case("inner_axis", (3, 5, 2), 1, -8, 7, [0.1, 0.2, 0.3, 0.4, 0.7], [0.0, 1.2, -2.0, 3.4, -4.6], 0.25)

metadata = {"torch": torch.__version__, "numpy": np.__version__, "seed": SEED, "cases": cases}
path = HERE / "learned.safetensors"
save_file(tensors, path, metadata={"golden": json.dumps(metadata)})
print(f"{path.name}: {len(cases)} cases, {path.stat().st_size} bytes")
