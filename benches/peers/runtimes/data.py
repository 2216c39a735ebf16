"""The same numbers as in `src/data.rs`."""

import numpy as np


def codes(rows, columns, step):
    """Codes in -125..=125."""
    index = np.arange(rows * columns, dtype=np.int64)
    return (index * step % 251 - 125).astype(np.int8).reshape(rows, columns)


def reals(rows, columns, step):
    """Multiples of 1/64 within ±2."""
    return codes(rows, columns, step).astype(np.float32) / 64


def inputs(rows, columns, step):
    """Within ±2, nowhere evenly spaced, as inputs are: multiples of a step would often fall between two codes."""
    index = np.arange(rows * columns, dtype=np.int64).reshape(rows, columns)
    return reals(rows, columns, step) + (index * 7919 % 1009).astype(np.float32) / 65536


def check(values):
    """Σ value · (1 + i mod 7): the number by which results are compared. In parts, so that long results need no copies of theirs."""
    values, part = np.asarray(values).ravel(), 7 << 17
    weights = 1.0 + np.arange(part) % 7
    parts = (values[first : first + part].astype(np.float64) for first in range(0, values.size, part))
    return float(sum(part @ weights[: part.size] for part in parts))
