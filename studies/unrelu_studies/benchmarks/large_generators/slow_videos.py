"""Ten frames of a slow video: ``auto`` on a sequence, beside ``auto`` on the same frames in one batch."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

import unrelu
from unrelu.models.generator import Generator
from unrelu.runtime.streams import stream
from unrelu_studies.benchmarks.large_generators.convolutional_generators import generator
from unrelu_studies.kit.timing import one_thread, processor_seconds, timed

Array = npt.NDArray[np.float64]

VIDEOS = ("DCGAN", "dense decoder")
NOISE = 0.1
# Frames, and the angle between the codes of two of them on a circle.
_FRAMES, _QUICK_FRAMES, _ANGLE = 10, 4, 0.05
# Channels of the DCGAN's first layer, and the sizes of the dense decoder's layers.
_CHANNELS = 256
_SIZES, _QUICK_SIZES = (16, 64, 256, 4096), (8, 32, 256)


def dense(sizes: tuple[int, ...], seed: int) -> Generator:
    """A decoder with ReLUs and sigmoid outputs, and weights N(0, 2 / n) for n inputs."""
    rng = stream("slow videos, weights", seed)
    weights = [(2 / k) ** 0.5 * rng.standard_normal((n, k)) for k, n in pairwise(sizes)]
    return unrelu.from_arrays(weights, activation=["relu"] * (len(weights) - 1) + ["sigmoid"])


def slow_video(network: Generator, frames: int, seed: int) -> Array:
    """Frames with noise whose codes go along a circle through two draws of N(0, I)."""
    ends = stream("slow videos, codes", seed).standard_normal((2, network.latent_dim))
    angles = _ANGLE * np.arange(frames)[:, None]
    clean = network.outputs(np.cos(angles) * ends[0] + np.sin(angles) * ends[1])
    return np.asarray(clean + NOISE * stream("slow videos, noise", seed).standard_normal(clean.shape))


def rows(quick: bool, seed: int, names: tuple[str, ...] = VIDEOS) -> list[dict[str, Any]]:
    """The measurements of each video: seconds, the frames with equal status, and the largest ratio of objectives."""
    with one_thread():
        return [_row(name, quick, seed) for name in names]


def _row(name: str, quick: bool, seed: int) -> dict[str, Any]:
    network: Generator
    if name == "DCGAN":
        module = generator("normalised", _CHANNELS, seed)
        network = unrelu.from_torch(module, latent_shape=(100, 1, 1))
    else:
        network = dense(_QUICK_SIZES if quick else _SIZES, seed)
    y = slow_video(network, _QUICK_FRAMES if quick else _FRAMES, seed)
    call = partial(unrelu.invert, network, y, noise=f"gaussian:{NOISE}")
    unrelu.invert(network, y[:1], noise=f"gaussian:{NOISE}")  # samples and kernels are kept
    cold, cold_seconds = timed(call, processor_seconds)
    warm, seconds = timed(partial(call, sequence=True), processor_seconds)
    return {
        "name": name,
        "cold": cold_seconds,
        "sequence": seconds,
        "same": int((cold.status == warm.status).sum()),
        "frames": len(y),
        "descended": int(np.isnan(warm.confidence).sum()),
        "ratio": float((warm.fun / cold.fun).max()),
    }
