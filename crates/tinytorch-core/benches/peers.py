"""Compares the crate with PyTorch: same models, same machine, same run, measured in turns.

    cargo bench -p tinytorch-core --bench peers -- --list       # builds the other side
    python peers.py [THREADS]                                   # from anywhere; THREADS defaults to 1

Needs PyTorch (`pip install torch`). Prints, per model, the medians of both and their ratio: below 1 we are faster. On a busy
machine the ratio of the shortest samples, in the last column, says more.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import time

THREADS = int(sys.argv[1]) if len(sys.argv) > 1 else 1
os.environ.update(RAYON_NUM_THREADS=str(THREADS), OMP_NUM_THREADS=str(THREADS))

import torch  # noqa: E402
from torch import nn  # noqa: E402

ROUNDS, SAMPLE_SECONDS = 31, 0.02


def mlp(*widths):
    layers = []
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnn(side, first, second):
    """conv 3x3, relu, pool, conv 3x3, relu, pool, linear; padded, so that only pooling shrinks the image."""
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(second * (side // 4) ** 2, 10),
    )  # fmt: skip


def inference(model, *shape):
    x = torch.randn(*shape)

    def run():
        with torch.inference_mode():
            model(x)

    return run


def training(model, *shape):
    x, targets = torch.randn(*shape), torch.arange(shape[0]) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def run():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), targets).backward()
        optimizer.step()

    return run


# The names are those of peers.rs.
MODELS = {
    "mlp_784_128_64_10/batch_1": lambda: inference(mlp(784, 128, 64, 10), 1, 784),
    "mlp_784_128_64_10/batch_128": lambda: inference(mlp(784, 128, 64, 10), 128, 784),
    "mlp_784_1024_1024_10/batch_1": lambda: inference(mlp(784, 1024, 1024, 10), 1, 784),
    "mlp_784_1024_1024_10/batch_128": lambda: inference(mlp(784, 1024, 1024, 10), 128, 784),
    "cnn_28_32_64/batch_1": lambda: inference(cnn(28, 32, 64), 1, 1, 28, 28),
    "cnn_28_32_64/batch_64": lambda: inference(cnn(28, 32, 64), 64, 1, 28, 28),
    "digits_cnn_8_16_32/batch_1": lambda: inference(cnn(8, 16, 32), 1, 1, 8, 8),
    "digits_cnn_8_16_32/batch_64": lambda: inference(cnn(8, 16, 32), 64, 1, 8, 8),
    "digits_cnn_8_16_32/training_step_batch_32": lambda: training(cnn(8, 16, 32), 32, 1, 8, 8),
    "mlp_784_128_64_10/training_step_batch_128": lambda: training(mlp(784, 128, 64, 10), 128, 784),
}


def newest_binary():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path(__file__).parents[3] / "target"))
    found = [p for p in (target / "release" / "deps").glob("peers-*") if p.suffix == ""]
    if not found:
        sys.exit("build the other side first: cargo bench -p tinytorch-core --bench peers -- --list")
    return max(found, key=lambda path: path.stat().st_mtime)


class Ours:
    def __init__(self):
        self.process = subprocess.Popen([newest_binary(), "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, name, calls):
        self.process.stdin.write(f"{name} {calls}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline()) / calls


def torch_seconds(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def main():
    torch.set_num_threads(THREADS)
    ours = Ours()
    print(f"PyTorch {torch.__version__}, {THREADS} thread(s), median of {ROUNDS} interleaved samples")
    print(f"{'':46}{'ours':>11}{'PyTorch':>11}{'ratio':>7}{'of minima':>11}")
    for name, build in MODELS.items():
        run = build()
        torch_seconds(run, 3), ours.seconds(name, 3)
        my_calls = max(1, int(SAMPLE_SECONDS / ours.seconds(name, 3)))
        their_calls = max(1, int(SAMPLE_SECONDS / torch_seconds(run, 3)))
        pairs = [(ours.seconds(name, my_calls), torch_seconds(run, their_calls)) for _ in range(ROUNDS)]
        mine, theirs = (statistics.median(side) for side in zip(*pairs))
        least = min(m for m, _ in pairs) / min(t for _, t in pairs)
        print(f"{name:46}{mine * 1e6:>8.1f} us{theirs * 1e6:>8.1f} us{mine / theirs:>7.2f}{least:>11.2f}", flush=True)


if __name__ == "__main__":
    main()
