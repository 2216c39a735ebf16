"""Scales and codes for the runtimes that take them ready-made; ONNX Runtime's own tool makes its own."""

import numpy as np


def activation(values):
    """Scale and zero point, codes 0..=255, of a range that is widened to hold zero."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    scale = np.float32((high - low) / 255)
    return float(scale), int(np.rint(-low / scale))


def weights(layer):
    """Codes -127..=127 in the weight's shape, and one scale per output channel."""
    flat = layer.weight.reshape(layer.weight.shape[0], -1)
    scales = np.abs(flat).max(axis=1) / np.float32(127)
    codes = np.rint(flat / scales[:, None]).astype(np.int8)
    return codes.reshape(layer.weight.shape), scales.astype(np.float32)
