"""Seconds of ``auto`` on convolutional generators of real size, beside those of 200 steps of Adam."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import unrelu
from unrelu.models.network import Network
from unrelu.runtime.streams import stream, torch_stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.timing import one_thread, processor_seconds, timed
from unrelu_studies.kit.unit_runner import Unit

Array = npt.NDArray[np.float64]

WEIGHTS = ("tutorial", "normalised", "He")
NOISES = (0.0, 0.1)
STEPS, RATE = 200, 0.1
# Channels of the first layer, in the tutorial and for a quick look.
_CHANNELS, _QUICK_CHANNELS = 512, 256
_LATENT, _BATCH, _BATCHES = 100, 64, 4


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
        network = unrelu.from_torch(self.module, latent_shape=(_LATENT, 1, 1))
        assert isinstance(network, Network)
        return network


def generator(weights: str, channels: int, seed: int) -> nn.Module:
    """The generator of PyTorch's DCGAN tutorial with random weights.

    Args:
        weights: "tutorial": N(0, 0.02^2), factors of the batch normalisations N(1, 0.02^2), statistics 0 and 1, as the
            tutorial begins; its outputs are close to 0. "normalised": the same with the statistics that training
            leaves, those of batches. "He": variances that keep the size from layer to layer.
        channels: of the first layer; the tutorial has 512.
        seed: of the weights.
    """
    random = torch_stream("large, weights", seed, weights, channels)
    sizes = [channels, channels // 2, channels // 4, channels // 8]
    modules: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(zip([_LATENT, *sizes], [*sizes, 3], strict=True)):
        layer = nn.ConvTranspose2d(n_in, n_out, 4, 2 if i else 1, 1 if i else 0, bias=False)
        # Each output of a layer of stride 2 is a sum over 4 positions of the kernel, of the first over one.
        deviation = (2 / (n_in * (4 if i else 1))) ** 0.5 if weights == "He" else 0.02
        nn.init.normal_(layer.weight, 0.0, deviation, generator=random)
        modules.append(layer)
        if i < len(sizes):
            normalisation = nn.BatchNorm2d(n_out, momentum=None)
            if weights != "He":
                nn.init.normal_(normalisation.weight, 1.0, 0.02, generator=random)
            modules += [normalisation, nn.ReLU()]
    module = nn.Sequential(*modules, nn.Tanh()).requires_grad_(False)
    if weights == "normalised":
        for _ in range(_BATCHES):
            module(torch.randn(_BATCH, _LATENT, 1, 1, generator=random))
    return module.eval()


def _drawn(command: Command, weights: str, noise: float, index: int) -> LargeInstance:
    channels = _QUICK_CHANNELS if command.quick else _CHANNELS
    module = generator(weights, channels, command.seed + index)
    key = (command.seed, index, weights)
    z = torch.tensor(stream("large, truth", *key).standard_normal((1, _LATENT, 1, 1)))
    x = module.double()(z)[0].numpy()
    return LargeInstance(module.float(), x + noise * stream("large, noise", *key).standard_normal(x.shape))


def adam(module: nn.Module, y: Array) -> Array:
    """The output after 200 steps of PyTorch's Adam on the squared error, in single precision."""
    z = torch.randn(1, _LATENT, 1, 1, generator=torch_stream("large, start")).requires_grad_(True)
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


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    weights, noise, index = str(unit[0]), float(unit[1]), int(unit[2])
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
        "status": [r.status.name for r in (first, second)],
        "confidence": [float(r.confidence) for r in (first, second)],
    }


def _units(command: Command) -> list[Unit]:
    weights = WEIGHTS[:1] if command.quick else WEIGHTS
    count = command.count(2, 1)
    return [(name, noise, i) for name in weights for noise in NOISES for i in range(count)]


def _table(results: Results) -> str:
    rows = []
    for r in results["rows"]:
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


BENCHMARK = Benchmark(units=_units, measure=_measure, blocks={"large": _table})
