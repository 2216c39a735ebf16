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
    """Σ value · (1 + i mod 7): the number by which results are compared."""
    values = np.asarray(values, dtype=np.float64).ravel()
    return float(values @ (1.0 + np.arange(values.size) % 7))
