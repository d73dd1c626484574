"""What an answer costs: the first call on a generator and later ones, learned and not, beside ten starts of a peer.

Observations are own outputs with Gaussian noise, stated. A first call samples the generator and learns how sure it can
be; nothing is kept from earlier runs, and kernels are compiled before. The peer knows the Jacobian and starts from the
prior: SciPy's trust region reflective method, or L-BFGS where a Jacobian takes seconds. All times are seconds of the
processor on one thread.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from itertools import pairwise
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
from scipy.optimize import least_squares, minimize
from torch import Tensor, nn

import unrelu
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array
from unrelu.runtime.streams import stream, torch_stream
from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, rows_of
from unrelu_studies.benchmarks.measurements.trf_fits import WITHIN, any_model, dense_model
from unrelu_studies.kit.emulators import emulator
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.timing import one_thread, processor_seconds, timed
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.zoo.recipes import global_torch_stream

STARTS, QUICK_STARTS = 10, 2
OBSERVATIONS, QUICK_OBSERVATIONS = 6, 2
# The noise, as a share of the root mean square of outputs about their mean.
NOISE = 0.1
_PIXELS, _WIDTH, _SHAPE = 7214, 300, 5
# The evaluations of the peer's fit.
_MOST = 400


# --- generators -------------------------------------------------------------------------------------------------------


def _matrices() -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of a spectrum of 7,214 pixels by five parameters, as wide as The Payne's; lines are smooth."""
    random, sizes = torch_stream("cost, spectrum"), ((_WIDTH, _SHAPE), (_WIDTH, _WIDTH), (_PIXELS, _WIDTH))
    draws = [
        (torch.randn(*size, generator=random) * 2 / size[1] ** 0.5, 0.3 * torch.randn(size[0], generator=random))
        for size in sizes
    ]
    kernel = torch.exp(-0.5 * (torch.arange(-20.0, 21.0) / 4) ** 2)
    smooth = nn.functional.conv1d(draws[2][0].T[:, None], (kernel / kernel.sum())[None, None], padding=20)[:, 0].T
    return [(w.double(), b.double()) for w, b in (*draws[:2], (smooth, draws[2][1]))]


def _flux(p: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The spectrum at parameters (B, 5)."""
    *hidden, (last, offset) = [(w.to(p), b.to(p)) for w, b in layers]
    for weight, bias in hidden:
        p = nn.functional.leaky_relu(p @ weight.T + bias, 0.01)
    return 1 - 0.1 * nn.functional.softplus(p @ last.T + offset)


def _shifted(flux: Tensor, velocity: Tensor) -> Tensor:
    """A spectrum (B, n) moved by three pixels a unit of velocity, (B, 1)."""
    place = (torch.arange(flux.shape[1]).to(flux) + 3 * velocity).clamp(0, flux.shape[1] - 1.001)
    left = place.floor().long()
    share = place - left
    return torch.take_along_dim(flux, left, 1) * (1 - share) + torch.take_along_dim(flux, left + 1, 1) * share


def single_star(p: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """A star by five parameters and its velocity, (B, 6)."""
    return _shifted(_flux(p[:, :5], layers), p[:, 5:6])


def binary_star(p: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Two stars that share four parameters, with a temperature and a velocity each, and a share of the light."""
    other = torch.cat([p[:, 6:7], p[:, 1:5]], dim=1)
    share = torch.sigmoid(p[:, 8:9])
    one, two = (_shifted(_flux(q, layers), v) for q, v in ((p[:, :5], p[:, 5:6]), (other, p[:, 7:8])))
    return share * one + (1 - share) * two


class Upsampled(nn.Module):
    """A residual block that doubles the resolution."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(n, out, 3, padding=1) for n in (channels, out))
        self.skip, self.up = nn.Conv2d(channels, out, 1), nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        """Twice the height and width."""
        x = self.up(x)
        return torch.add(self.skip(x), self.second(torch.relu(self.first(torch.relu(x)))))


def residual_decoder() -> nn.Module:
    """A decoder 128 -> 3 x 128 x 128 of five residual blocks with random weights."""
    channels = (64, 64, 64, 32, 16, 8)
    with global_torch_stream("cost, residual decoder"):
        blocks = [Upsampled(*pair) for pair in pairwise(channels)]
        head = nn.Sequential(nn.ReLU(), nn.Conv2d(channels[-1], 3, 3, padding=1), nn.Tanh())
        return nn.Sequential(nn.Linear(128, 64 * 16), nn.Unflatten(1, (64, 4, 4)), *blocks, head).eval()


def _layers() -> Generator:
    """The spectrum as a chain of layers, without the softplus."""
    weights, biases = zip(*_matrices(), strict=True)
    return unrelu.from_arrays(
        [w.numpy() for w in weights], [b.numpy() for b in biases], ["leaky_relu", "leaky_relu", "identity"]
    )


GENERATORS: dict[str, tuple[str, Callable[[], Generator]]] = {
    "digits": ("dense decoder 20 -> 784", lambda: unrelu.zoo.load("mnist-relu")),
    "emulator": ("emulator 5 -> 90", lambda: emulator("dust")),
    "layers": ("spectrum of layers 5 -> 7,214", _layers),
    "function": (
        "spectrum by a function 6 -> 7,214", lambda: unrelu.from_torch(partial(single_star, layers=_matrices()), 6)
    ),
    "binary": (
        "two stars, a function 9 -> 7,214", lambda: unrelu.from_torch(partial(binary_star, layers=_matrices()), 9)
    ),
    "convolutions": ("decoder of convolutions 64 -> 784", lambda: unrelu.zoo.load("mnist-dcgan")),
    "residual": ("residual decoder 128 -> 3 x 128 x 128", lambda: unrelu.from_torch(residual_decoder(), 128)),
}  # fmt: skip
QUICK = ("digits", "emulator")


# --- calls ------------------------------------------------------------------------------------------------------------


def _measure(command: Command, unit: Unit) -> dict[str, Any]:
    name = str(unit[0])
    title, make = GENERATORS[name]
    network = make()
    k, count = network.latent_dim, command.count(OBSERVATIONS, QUICK_OBSERVATIONS)
    truth = _drawn(network, stream("cost, truth", command.seed, name), count)
    x = network.outputs(truth).reshape(count, -1)
    size = NOISE * float(np.sqrt(np.square(x - x.mean(axis=0)).mean()))
    y = x + size * stream("cost, noise", command.seed, name).standard_normal(x.shape)
    row: dict[str, Any] = {"generator": title, "latent": k, "observations": count}
    found: dict[str, list[unrelu.Inversion]] = {}
    with one_thread(), tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, UNRELU_CACHE=folder):
        os.environ["UNRELU_CACHE"] = f"{folder}/warm"
        unrelu.invert(deepcopy(network), y[0].reshape(network.output_shape), noise=f"gaussian:{size}")
        for learn in (True, False):
            os.environ["UNRELU_CACHE"] = f"{folder}/{learn}"
            fresh, results, seconds = deepcopy(network), [], []
            for each in y:
                call = partial(
                    unrelu.invert, fresh, each.reshape(network.output_shape), noise=f"gaussian:{size}", learn=learn
                )
                result, spent = timed(call, processor_seconds)
                results.append(result)
                seconds.append(spent)
            found["learned" if learn else "not learned"] = results
            row["learned" if learn else "not learned"] = {"first": seconds[0], "later": float(np.median(seconds[1:]))}
        row["with the rank"] = timed(lambda: found["learned"][-1].rank, processor_seconds)[1]
        peer, runs, spent = _peer(network, y, size, command, name)
    own = np.array([float(r.fun) / size**2 for r in found["learned"]])
    best = np.minimum(own, runs)
    return row | {
        "peer": peer, "seconds of the peer": spent, "starts": QUICK_STARTS if command.quick else STARTS,
        "confidence": [float(r.confidence) for r in found["learned"]],
        "best": int((own <= (1 + WITHIN) * best).sum()), "best of the peer": int((runs <= (1 + WITHIN) * best).sum()),
    }  # fmt: skip


def _drawn(network: Generator, random: np.random.Generator, count: int) -> Array:
    return np.asarray(network.bounds(None).draw(random, (count,)))


def _peer(network: Generator, y: Array, size: float, command: Command, name: str) -> tuple[str, Array, float]:
    """The name of the peer, its best chi-square of each observation, and its seconds for one, the median."""
    starts, steep = QUICK_STARTS if command.quick else STARTS, name == "residual"
    box = network.bounds(None)
    chi_squares, seconds = [], []

    dense = isinstance(network, Network) and name != "convolutions"
    value, slopes = dense_model(cast(Network, network)) if dense else any_model(network)

    def residual(z: Array, target: Array) -> Array:
        return np.asarray((value(z).ravel() - target) / size)

    def jacobian(z: Array, _: Array) -> Array:
        return slopes(z) / size

    def misfit(z: Array, target: Tensor) -> tuple[float, Array]:
        code = torch.tensor(z[None], dtype=torch.float32, requires_grad=True)
        f = (network.to(torch.float32).forward(code).flatten() - target).square().sum() / size**2
        (gradient,) = torch.autograd.grad(f, code)
        return float(f.detach()), gradient[0].double().numpy()

    def fit(target: Array, start: Array) -> float:
        if steep:
            given = torch.tensor(target, dtype=torch.float32)
            run = minimize(misfit, start, (given,), jac=True, method="L-BFGS-B", options={"maxiter": _MOST})
            return float(run.fun)
        ends = (-np.inf, np.inf) if box.none else (box.lower, box.upper)
        run = least_squares(residual, start, jacobian, ends, "trf", args=(target,), max_nfev=_MOST)
        return float(2 * run.cost)

    def fitted(target: Array, draws: Array) -> list[float]:
        return [fit(target, start) for start in draws]

    for i, target in enumerate(y[:1] if steep else y):
        draws = _drawn(network, stream("cost, starts", command.seed, name, i), starts)
        fits, spent = timed(partial(fitted, target, draws), processor_seconds)
        chi_squares.append(min(fits))
        seconds.append(spent)
    chi_squares += [np.inf] * (len(y) - len(chi_squares))
    return "L-BFGS" if steep else "trf", np.array(chi_squares), float(np.median(seconds))


def _table(results: Results) -> str:
    head = (
        "generator", "first call", "later", "not learned: first", "later", "rank, if asked for", "peer, all starts",
        "best codes", "best codes of the peer",
    )  # fmt: skip
    rows = []
    for row in results["rows"]:
        count = row["observations"]
        times = [row[kind][which] for kind in ("learned", "not learned") for which in ("first", "later")]
        times += [row["with the rank"], row["seconds of the peer"]]
        rows.append((
            row["generator"], *(f"{seconds:.2g} s" if seconds else "< 0.01 s" for seconds in times[:-1]),
            f"{row['peer']} x{row['starts']}: {times[-1]:.2g} s", f"{row['best']} of {count}",
            "-" if row["peer"] == "L-BFGS" else f"{row['best of the peer']} of {count}",
        ))  # fmt: skip
    return table(head, rows)


BENCHMARK = Benchmark(
    units=lambda command: [(name,) for name in (QUICK if command.quick else GENERATORS)
                           if not command.parts or name in command.parts],
    measure=_measure, blocks={"cost": _table}, collect=rows_of, parts=tuple(GENERATORS), workers=1,
)  # fmt: skip
