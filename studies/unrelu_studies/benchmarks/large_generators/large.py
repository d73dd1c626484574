"""``auto`` on large generators: its seconds beside those of 200 steps of Adam and of three runs of L-BFGS, exact fits
of styled generators and of autoencoders' decoders, slow videos, and whether its confidence is right.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import unrelu
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.streams import stream, torch_stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.benchmarks.large_generators import slow_videos, styled_generators
from unrelu_studies.benchmarks.large_generators.convolutional_generators import (
    LATENT,
    RESIDUAL_LATENT,
    WEIGHTS,
    generator,
    residual_generator,
)
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.timing import one_thread, processor_seconds, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

NOISES = (0.0, 0.1)
STEPS, RATE = 200, 0.1
# Channels of the first layer, in the tutorial and for a quick look.
_CHANNELS, _QUICK_CHANNELS = 512, 256


@dataclass(frozen=True)
class LargeInstance:
    """A picture, and how to make its generator anew.

    Attributes:
        module: in evaluation mode, without gradients.
        y: the picture, (3, 64, 64).
    """

    module: nn.Module
    y: Array

    def network(self) -> Network:
        """A new object, of which nothing is kept."""
        network = unrelu.from_torch(self.module, latent_shape=(LATENT, 1, 1))
        assert isinstance(network, Network)
        return network


def _drawn(command: Command, weights: str, noise: float, index: int) -> LargeInstance:
    channels = _QUICK_CHANNELS if command.quick else _CHANNELS
    module = generator(weights, channels, command.seed + index)
    key = (command.seed, index, weights)
    z = torch.tensor(stream("large, truth", *key).standard_normal((1, LATENT, 1, 1)))
    x = module.double()(z)[0].numpy()
    return LargeInstance(module.float(), x + noise * stream("large, noise", *key).standard_normal(x.shape))


def adam(module: nn.Module, y: Array) -> Array:
    """The output after 200 steps of PyTorch's Adam on the squared error, in single precision."""
    z = torch.randn(1, LATENT, 1, 1, generator=torch_stream("large, start")).requires_grad_(True)
    target = torch.tensor(y, dtype=torch.float32)
    steps = torch.optim.Adam([z], lr=RATE)

    def misfit() -> Tensor:
        steps.zero_grad()
        f: Tensor = (module(z)[0] - target).square().sum()
        f.backward()  # type: ignore[no-untyped-call]
        return f

    for _ in range(STEPS):
        steps.step(misfit)  # a closure that returns a tensor is what its documentation shows
    with torch.no_grad():
        return np.asarray(module(z)[0].double().numpy())


def _beside_adam(command: Command, weights: str, noise: float, index: int) -> dict[str, Any]:
    instance = _drawn(command, weights, noise, index)
    network, y = instance.network(), instance.y
    with one_thread():
        adam_x, adam_seconds = timed(partial(adam, instance.module, y), processor_seconds)
        first, first_seconds = timed(partial(unrelu.invert, network, y), processor_seconds)
        second, second_seconds = timed(partial(unrelu.invert, network, y, seed=1), processor_seconds)
    size = float(np.linalg.norm(y))
    return {
        "weights": weights,
        "noise": noise,
        "index": index,
        "adam": adam_seconds,
        "first": first_seconds,
        "second": second_seconds,
        "residual_adam": float(np.linalg.norm(y - adam_x)) / size,
        "residual": [float(r.residual("l2")) / size for r in (first, second)],
        "status": [r.verdict.name for r in (first, second)],
        "confidence": [float(r.confidence) for r in (first, second)],
    }


# Generators of the comparison with L-BFGS and of the confidence: pictures, and dense ones by their sizes.
PICTURES = ("DCGAN", "residual")
DENSE = ("100-300-1000", "200-600-2000")
# Observations whose confidence is judged, the noise as a share of the outputs' spread, and other seeds that judge it.
_JUDGED, _QUICK_JUDGED, _SHARE, _SEEDS = 24, 2, 0.1, (1, 2)


def _picture(command: Command, name: str, seed: int) -> tuple[nn.Module, Generator]:
    """A module, and its network."""
    if name == "residual":
        module = residual_generator(command.quick, seed)
        return module, unrelu.from_torch(module, latent_shape=(RESIDUAL_LATENT,))
    module = generator("normalised", _QUICK_CHANNELS if command.quick else _CHANNELS, seed)
    return module, unrelu.from_torch(module, latent_shape=(LATENT, 1, 1))


def _beside_lbfgs(command: Command, name: str, index: int) -> dict[str, Any]:
    """One picture with noise .1, on as many threads as PyTorch has."""
    seed = command.seed + index
    module, network = _picture(command, name, seed)
    y = network.outputs(stream("large, picture", name, seed).standard_normal((1, network.latent_dim)))[0]
    y = y + 0.1 * stream("large, picture's noise", name, seed).standard_normal(y.shape)
    call = partial(unrelu.invert, network, y, noise="gaussian:0.1")
    peers, peer_seconds = timed(partial(styled_generators.limited_memory, module, network.latent_shape, y, seed))
    first, first_seconds = timed(call)
    second, second_seconds = timed(partial(call, seed=1))
    _, unlearned = timed(partial(unrelu.invert, _picture(command, name, seed)[1], y, noise="gaussian:0.1", learn=False))
    return {
        "generator": name, "index": index, "lbfgs": peer_seconds, "first": first_seconds, "second": second_seconds,
        "unlearned": unlearned, "objective": max(float(r.fun) for r in (first, second)) / min(peers),
        "confidence": min(float(r.confidence) for r in (first, second)),
    }  # fmt: skip


def _confidence(command: Command, name: str) -> dict[str, Any]:
    """How many answers are sure, and how many of these a search with other seeds, or from the truth, improves by 1%."""
    seed = command.seed
    if name in PICTURES:
        network = _picture(command, name, seed)[1]
    else:
        sizes = [int(size) // (10 if command.quick else 1) for size in name.split("-")]
        rng = stream("large, dense", name, seed)
        weights = [(2 / k) ** 0.5 * rng.standard_normal((n, k)) for k, n in pairwise(sizes)]
        network = unrelu.from_arrays(weights)
    count = command.count(_JUDGED if name in DENSE else _JUDGED // 3, _QUICK_JUDGED)
    truth = stream("large, codes", name, seed).standard_normal((count, network.latent_dim))
    x = network.outputs(truth)
    noise = unrelu.Gaussian(_SHARE * float(x.std()))
    y = x + noise.size * stream("large, errors", name, seed).standard_normal(x.shape)
    with one_thread():
        unrelu.invert(network, y[0], noise=noise)
        found, seconds = timed(partial(unrelu.invert, network, y, noise=noise), processor_seconds)
        others = [unrelu.invert(network, y, noise=noise, seed=s, learn=False).fun for s in _SEEDS]
        others.append(unrelu.invert(network, y, noise=noise, z0=truth, learn=False).fun)
    best = np.minimum(found.fun, np.min(others, axis=0))
    wrong, sure = found.fun > 1.01 * best, found.confidence >= 0.99
    return {
        "generator": name, "observations": count, "milliseconds": 1e3 * seconds / count, "best": int((~wrong).sum()),
        "sure": int(sure.sum()), "wrong": int((wrong & sure).sum()), "mean": float(found.confidence.mean()),
    }  # fmt: skip


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, UNRELU_CACHE=folder):
        return _measured(command, unit)  # nothing is known of the confidence from earlier runs


def _measured(command: Command, unit: Unit) -> dict[str, Any]:
    question, name = str(unit[0]), str(unit[1])
    if question == "adam":
        return {"adam": [_beside_adam(command, name, float(unit[2]), int(unit[3]))]}
    if question == "lbfgs":
        return {"lbfgs": [_beside_lbfgs(command, name, int(unit[2]))]}
    if question == "confidence":
        return {"confidence": [_confidence(command, name)]}
    if question == "styled":
        return {"styled": styled_generators.rows(command.quick, command.seed, (name,))}
    return {"videos": slow_videos.rows(command.quick, command.seed, (name,))}


def _units(command: Command) -> list[Unit]:
    weights = WEIGHTS[:1] if command.quick else WEIGHTS
    count = command.count(2, 1)
    units: list[Unit] = [("adam", name, noise, i) for name in weights for noise in NOISES for i in range(count)]
    units += [("lbfgs", name, i) for name in PICTURES for i in range(count)]
    units += [("confidence", name) for name in (*PICTURES, *DENSE)]
    units += [
        ("styled", name)
        for name in (styled_generators.GENERATORS[1:2] if command.quick else styled_generators.GENERATORS)
    ]
    return units + [("videos", name) for name in slow_videos.VIDEOS]


def _gathered(_: Command, parts: Sequence[Any]) -> Results:
    return gathered(parts, "adam", "lbfgs", "confidence", "styled", "videos")


def _adam_table(results: Results) -> str:
    rows = []
    for r in results["adam"]:
        rows.append(
            (
                r["weights"], f"{r['noise']:g}", f"{r['adam']:.1f}", f"{r['first'] / r['adam']:.2f}",
                f"{r['second'] / r['adam']:.2f}", f"{r['residual_adam']:.1e}", f"{max(r['residual']):.1e}",
                f"{max(r['residual']) / r['residual_adam'] - 1:+.0e}", f"{min(r['confidence']):.2f}",
            )
        )  # fmt: skip
    head = (
        "weights", "noise", "Adam, seconds", "first call / Adam", "second call / Adam", "residual of Adam",
        "residual of `auto`", "beside Adam's", "confidence",
    )  # fmt: skip
    return table(head, rows)


def _lbfgs_table(results: Results) -> str:
    rows = [
        (
            r["generator"], f"{r['lbfgs']:.1f}", f"{r['unlearned'] / r['lbfgs']:.2f}", f"{r['first'] / r['lbfgs']:.2f}",
            f"{r['second'] / r['lbfgs']:.2f}", f"{r['objective']:.5f}", f"{r['confidence']:.3f}",
        )
        for r in results["lbfgs"]
    ]  # fmt: skip
    head = (
        "generator", "three runs, seconds", "first call with `learn=False`", "first call", "second call",
        "objective / best of three", "confidence",
    )  # fmt: skip
    return table(head, rows)


def _confidence_table(results: Results) -> str:
    rows = [
        (
            r["generator"], r["observations"], f"{r['milliseconds']:.0f}", r["best"], r["sure"], r["wrong"],
            f"{r['mean']:.3f}",
        )
        for r in results["confidence"]
    ]  # fmt: skip
    head = ("generator", "observations", "ms each", "best codes", "sure", "sure and wrong", "mean confidence")
    return table(head, rows)


def _styled_table(results: Results) -> str:
    rows = [
        (
            r["generator"], f"{r['lbfgs']:.1f}", f"{r['first'] / r['lbfgs']:.1f}", f"{r['second'] / r['lbfgs']:.1f}",
            f"{min(r['objective_lbfgs']):.0e}", f"{max(r['objective']):.0e}", ", ".join(dict.fromkeys(r["status"])),
        )
        for r in results["styled"]
    ]  # fmt: skip
    head = (
        "generator", "three runs, seconds", "first call", "second call", "best of three", "`auto`", "status",
    )  # fmt: skip
    return table(head, rows)


def _video_table(results: Results) -> str:
    rows = [
        (
            r["name"], r["frames"], f"{r['cold']:.2f}", f"{r['sequence'] / r['cold']:.2f}", r["same"], r["descended"],
            f"{r['ratio']:.4f}",
        )
        for r in results["videos"]
    ]  # fmt: skip
    head = (
        "generator", "frames", "in one batch, seconds", "as a sequence", "same status", "descended only",
        "largest ratio of objectives",
    )  # fmt: skip
    return table(head, rows)


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    collect=_gathered,
    blocks={
        "large": _adam_table,
        "large lbfgs": _lbfgs_table,
        "large confidence": _confidence_table,
        "large styled": _styled_table,
        "large videos": _video_table,
    },
)
