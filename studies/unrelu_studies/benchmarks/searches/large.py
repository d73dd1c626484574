"""``auto`` on a DCGAN of the size of PyTorch's tutorial: its seconds and its residual beside 200 steps of Adam."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import unrelu
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream, torch_stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.timing import one_thread, processor_seconds, timed
from unrelu_studies.kit.unit_runner import Unit

LATENT = 100
WEIGHTS = ("tutorial", "normalised", "He")
NOISES = (0.0, 0.1)
STEPS, RATE = 200, 0.1
# Channels of the first layer, in the tutorial and for a quick look.
_CHANNELS, _QUICK_CHANNELS = 512, 256
# Batches whose statistics normalise.
_BATCH, _BATCHES = 64, 4


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
    for i, (n_in, n_out) in enumerate(zip([LATENT, *sizes], [*sizes, 3], strict=True)):
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
            module(torch.randn(_BATCH, LATENT, 1, 1, generator=random))
    return module.eval()


def _drawn(command: Command, weights: str, noise: float, index: int) -> tuple[nn.Module, Array]:
    """A module in evaluation mode, and a picture (3, 64, 64)."""
    module = generator(weights, _QUICK_CHANNELS if command.quick else _CHANNELS, command.seed + index)
    key = (command.seed, index, weights)
    z = torch.tensor(stream("large, truth", *key).standard_normal((1, LATENT, 1, 1)))
    x = module.double()(z)[0].numpy()
    return module.float(), x + noise * stream("large, noise", *key).standard_normal(x.shape)


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


def _units(command: Command) -> list[Unit]:
    weights = WEIGHTS[:1] if command.quick else WEIGHTS
    return [(name, noise, i) for name in weights for noise in NOISES for i in range(command.count(1, 1))]


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    weights, noise, index = str(unit[0]), float(unit[1]), int(unit[2])
    module, y = _drawn(command, weights, noise, index)
    network = unrelu.from_torch(module, latent_shape=(LATENT, 1, 1))
    with one_thread():
        adam_x, adam_seconds = timed(partial(adam, module, y), processor_seconds)
        first, first_seconds = timed(partial(unrelu.invert, network, y), processor_seconds)
        second, second_seconds = timed(partial(unrelu.invert, network, y, seed=1), processor_seconds)
    size = float(np.linalg.norm(y))
    return {
        "weights": weights, "noise": noise, "index": index, "adam": adam_seconds, "first": first_seconds,
        "second": second_seconds, "residual_adam": float(np.linalg.norm(y - adam_x)) / size,
        "residual": [float(r.residual("l2")) / size for r in (first, second)],
        "status": [r.verdict.name for r in (first, second)],
        "confidence": [float(r.confidence) for r in (first, second)],
    }  # fmt: skip


def _table(results: Results) -> str:
    """Means over the pictures of weights and noise; the larger residual of both calls."""
    groups: dict[tuple[str, float], list[Results]] = {}
    for r in results["adam"]:
        groups.setdefault((r["weights"], r["noise"]), []).append(r)
    rows = []
    for (weights, noise), group in groups.items():
        first, second = (float(np.mean([r[call] / r["adam"] for r in group])) for call in ("first", "second"))
        worst = (max(r["residual_adam"] for r in group), max(max(r["residual"]) for r in group))
        seconds = np.mean([r["adam"] for r in group])
        rows.append((weights, f"{noise:g}", f"{seconds:.1f}", f"{first:.2f}", f"{second:.2f}",
                     *(f"{value:.1e}" for value in worst)))  # fmt: skip
    head = ("weights", "noise", "Adam, s", "first call / Adam", "second call / Adam", "residual of Adam", "of `auto`")
    return table(head, rows)


BENCHMARK = Benchmark(
    units=_units, measure=_measure, collect=lambda command, parts: {"adam": parts}, blocks={"large": _table}
)
