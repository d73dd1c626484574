"""Inverse design: three tasks of the neural-adjoint benchmark, with simulators and surrogates of our own.

A design z is wanted whose simulation is a target y. A surrogate, a ReLU network that is trained on simulations, takes
the simulator's place, and T proposals are simulated again. The re-simulation error is the least mean squared error of
T proposals, averaged over targets. All methods have the same surrogate, box and targets. Targets are
simulations of designs from the prior that lie in the box; none of them was seen in training.

* Neural adjoint: Adam descends from designs of the prior in the surrogate's error, with a loss outside of the box. Of
  these, the T designs of least error on the surrogate are proposed. The rate is that of the ballistics task for all
  three: the published rate of the sine wave gave ten times its error. It is halved on plateaus.
* ``invert``: the best design that the search finds on the surrogate, then those of further seeds.
* Corrected: the simulations that the surrogate was trained on are known designs near the target. From the T nearest in
  y, ``invert`` descends to y - e, with e the surrogate's known error at the start. This is output space mapping, a
  defect correction: what remains is the change of the error on the way. No new simulation is used.
* Nearest simulation: the T designs nearest in y as they are, without a network.

Evaluations of the network are counted in passes of one design: of Adam one forward and one backward pass a step, of
``invert`` one forward pass and one for each output of a Jacobian a step.

Sources: Ren, Padilla and Malof, "Benchmarking deep inverse models over time, and the neural-adjoint method", NeurIPS
2020, with github.com/BensonRen/BDIMNNA for simulators, boxes and settings; Bandler et al., "Space mapping: the state of
the art", IEEE Transactions on Microwave Theory and Techniques 52 (2004).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import unrelu
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array, Flags, Index
from unrelu.runtime.host import computing
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.timing import processor_seconds, timed

PROPOSALS = (1, 10, 50)
# The neural adjoint: designs that it starts from, steps, rate, and the weight of the boundary loss.
_STARTS, _STEPS, _RATE, _BOUNDARY = 128, 300, 1e-2, 0.1
# Of training: simulations, largest rate, rows of a step.
_TRAINED, _LEARNING_RATE, _BATCH = 8000, 1e-3, 256


class Size(NamedTuple):
    """How much is done: hidden sizes, epochs of training, targets, and searches of ``invert`` for each."""

    hidden: tuple[int, ...]
    epochs: int
    targets: int
    searches: int


FULL, QUICK = Size((500,) * 4, 40, 15, 10), Size((30, 30), 2, 3, 2)


class DesignTask(NamedTuple):
    """A task.

    Attributes:
        simulate: y of designs, (B, m) of (B, k).
        prior: draws designs, (count, k).
        lower, upper: the box of designs, (k,).
        published: the neural adjoint's error at T = 50, read off figure 3 of the paper.
    """

    simulate: Callable[[Array], Array]
    prior: Callable[[np.random.Generator, int], Array]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    published: float

    def inside(self, z: Array) -> Flags:
        """Which designs are in the box, (B,)."""
        return np.asarray(np.all((z >= self.lower) & (z <= self.upper), axis=1))


def sine_wave(z: Array) -> Array:
    """sin(3 pi z_1) + cos(3 pi z_2)."""
    return np.asarray(np.sin(3 * np.pi * z[:, :1]) + np.cos(3 * np.pi * z[:, 1:]))


def robotic_arm(z: Array) -> Array:
    """The end of arms of length .5, .5 and 1 that begin at height z_1, by angles as the benchmark computes them."""
    height, a, b, c = z.T
    angles, lengths = np.stack([a, b - a, c - b - a]), np.array([0.5, 0.5, 1.0])
    return np.stack([lengths @ np.cos(angles), height + lengths @ np.sin(angles)], axis=1)


def ballistics(z: Array) -> Array:
    """Where a ball lands: thrown at (z_1, z_2) by an angle z_3 and a speed of 15 z_4, with drag .25 and mass .2.

    The benchmark takes the last point of a grid of times before; this is the zero of the height, by Newton's method,
    which decreases to it from the time of landing without drag, since the height is concave.
    """
    x0, y0, angle, speed = z.T
    g, drag = 9.81, 0.25 / 0.2
    vx, vy = 15 * speed * np.cos(angle), 15 * speed * np.sin(angle)
    fall, t = g / drag, (vy + np.sqrt(vy**2 + 2 * g * y0)) / g
    for _ in range(50):
        height = y0 + (vy + fall) * -np.expm1(-drag * t) / drag - fall * t
        t = t - height / ((vy + fall) * np.exp(-drag * t) - fall)
    return np.asarray(x0 - vx / drag * np.expm1(-drag * t))[:, None]


def _throws(rng: np.random.Generator, count: int) -> Array:
    place = [0.0, 1.5] + 0.5 * rng.standard_normal((count, 2))
    angle = np.pi / 2 * (0.1 + 0.8 * rng.random(count))
    return np.stack([place[:, 0], np.maximum(place[:, 1], 0), angle, rng.poisson(15, count) / 15], axis=1)


TASKS = {
    "ballistics": DesignTask(ballistics, _throws, (-1, 0.5, 0.157, 0.46), (1, 2.5, 1.413, 1.56), 4e-6),
    "sine wave": DesignTask(sine_wave, lambda rng, n: rng.uniform(-1, 1, (n, 2)), (-1, -1), (1, 1), 1.5e-6),
    "robotic arm": DesignTask(
        robotic_arm, lambda rng, n: rng.standard_normal((n, 4)) * [0.25, 0.5, 0.5, 0.5],
        (-0.6, -1.2, -1.2, -1.2), (0.6, 1.2, 1.2, 1.2), 3e-6,
    ),
}  # fmt: skip


class Simulations(NamedTuple):
    """Designs (n, k) and what was simulated of them, (n, m)."""

    z: Array
    y: Array


# --- the surrogate ----------------------------------------------------------------------------------------------------


def trained(known: Simulations, size: Size, seed: int) -> nn.Sequential:
    """A surrogate in single precision: Adam on standardised simulations, with one cycle of the rate."""
    widths = (known.z.shape[1], *size.hidden, known.y.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(random("design weights", seed).integers(2**31)))
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())][:-1]
        network = nn.Sequential(*layers)
    z, y = (torch.tensor((v - v.mean(axis=0)) / v.std(axis=0), dtype=torch.float32) for v in known)
    adam, order = torch.optim.Adam(network.parameters(), _LEARNING_RATE), random("design order", seed)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        adam, _LEARNING_RATE, total_steps=size.epochs * -(-len(z) // _BATCH), pct_start=0.1
    )
    for _ in range(size.epochs):
        for batch in torch.split(torch.tensor(order.permutation(len(z))), _BATCH):
            adam.zero_grad()
            torch.autograd.backward(nn.functional.mse_loss(network(z[batch]), y[batch]))
            adam.step()
            cycle.step()
    return network


def in_units(network: nn.Sequential, known: Simulations) -> Network:
    """The same network with the standardisation in its first and last layer, in double precision."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    weights = [layer.weight.detach().double().numpy() for layer in layers]
    biases = [layer.bias.detach().double().numpy() for layer in layers]
    weights[0] = weights[0] / known.z.std(axis=0)
    biases[0] = biases[0] - weights[0] @ known.z.mean(axis=0)
    weights[-1] = weights[-1] * known.y.std(axis=0)[:, None]
    biases[-1] = biases[-1] * known.y.std(axis=0) + known.y.mean(axis=0)
    return unrelu.from_arrays(weights, biases, activation=["relu"] * (len(layers) - 1) + ["identity"])


# --- proposals of designs (targets, T, k) -----------------------------------------------------------------------------


def neural_adjoint(network: Network, task: DesignTask, y: Array, seed: int) -> Array:
    """The designs of least error that Adam reaches on the surrogate with the boundary loss, best first."""
    start = task.prior(random("neural adjoint", seed), len(y) * _STARTS)
    z = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    wanted = torch.tensor(np.repeat(y, _STARTS, axis=0), dtype=torch.float32)
    ends = torch.tensor([task.lower, task.upper], dtype=torch.float32)
    surrogate, adam = network.to(dtype=torch.float32), torch.optim.Adam([z], _RATE)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5, patience=10, threshold=1e-4)
    error = torch.zeros(len(z))
    for step in range(_STEPS):
        adam.zero_grad()
        error = (surrogate.forward(z) - wanted).square().mean(dim=1)
        outside = torch.relu((z - ends.mean(dim=0)).abs() - (ends[1] - ends[0]) / 2)
        loss = error.sum() / _STARTS + _BOUNDARY * outside.sum()
        torch.autograd.backward(loss)
        if step < _STEPS - 1:
            adam.step()
            plateau.step(loss.detach())
    best = error.detach().reshape(len(y), -1).argsort(dim=1).numpy()[:, : max(PROPOSALS), None]
    return np.take_along_axis(z.detach().double().numpy().reshape(len(y), _STARTS, -1), best, axis=1)


def searched(network: Network, task: DesignTask, y: Array, count: int, seed: int) -> tuple[Array, float]:
    """What ``invert`` finds with so many seeds, and the mean number of steps of each."""
    found = [unrelu.invert(network, y, bounds=(task.lower, task.upper), seed=seed + i) for i in range(count)]
    return np.stack([r.z for r in found], axis=1), float(np.mean([r.nit for r in found]))


def nearest(known: Simulations, task: DesignTask, y: Array) -> Index:
    """The simulations in the box nearest to targets, (targets, T), best first."""
    apart = np.square(y[:, None] - known.y).mean(axis=2)
    apart[:, ~task.inside(known.z)] = np.inf
    return np.asarray(apart.argsort(axis=1)[:, : max(PROPOSALS)])


def corrected(network: Network, known: Simulations, task: DesignTask, y: Array) -> tuple[Array, float]:
    """Descents from the nearest simulations to y less the surrogate's error there, and their mean number of steps."""
    start = nearest(known, task, y)
    z, error = (
        known.z[start].reshape(-1, known.z.shape[1]),
        known.y[start] - network.outputs(known.z[start].reshape(-1, known.z.shape[1])).reshape(*start.shape, -1),
    )
    wanted = (y[:, None] - error).reshape(len(z), -1)
    found = unrelu.invert(network, wanted, z0=z, rounds=0, bounds=(task.lower, task.upper), pool=False)
    return found.z.reshape(*start.shape, -1), float(found.nit.mean())


def measure_design(name: str, seed: int, quick: bool) -> dict[str, Any]:
    """The re-simulation errors of all methods on a task."""
    task, size = TASKS[name], QUICK if quick else FULL
    z = task.prior(random("design simulations", seed, name), _TRAINED + 2000)
    known, held_out = (Simulations(part, task.simulate(part)) for part in (z[:_TRAINED], z[_TRAINED:]))
    wanted = task.prior(random("design targets", seed, name), 40 * size.targets)
    y = task.simulate(wanted[task.inside(wanted)][: size.targets])
    with computing(one_thread=True):
        module, seconds = timed(lambda: trained(known, size, seed), processor_seconds)
        network = in_units(module, known)
        inside = task.inside(held_out.z)
        left = np.square(network.outputs(held_out.z[inside]) - held_out.y[inside]).mean()
        adjoint, adjoint_seconds = timed(lambda: neural_adjoint(network, task, y, seed), processor_seconds)
        (ours, steps), ours_seconds = timed(lambda: searched(network, task, y, size.searches, seed), processor_seconds)
        (mended, mended_steps), mended_seconds = timed(lambda: corrected(network, known, task, y), processor_seconds)
    outputs, each = y.shape[1], len(y)
    rows = {
        "neural adjoint": (adjoint, 2 * _STARTS * _STEPS, adjoint_seconds / each),
        "`invert`": (ours, (1 + outputs) * steps, ours_seconds / each / size.searches),
        "`invert`, corrected": (mended, 1 + (1 + outputs) * mended_steps, mended_seconds / each / mended.shape[1]),
        "nearest simulation": (known.z[nearest(known, task, y)], 0, 0.0),
    }
    return {
        "part": "design", "task": name, "targets": len(y), "held-out error": float(left), "training": seconds,
        "published": task.published,
        "methods": {
            method: {"errors": _errors(task, proposed, y), "evaluations": float(passes), "seconds": float(spent)}
            for method, (proposed, passes, spent) in rows.items()
        },
    }  # fmt: skip


def _errors(task: DesignTask, z: Array, y: Array) -> list[float]:
    """The re-simulation error of the best of T proposals, for every T, as far as there are so many."""
    again = task.simulate(z.reshape(-1, z.shape[2])).reshape(*z.shape[:2], -1)
    error = np.square(again - y[:, None]).mean(axis=2)
    return [float(error[:, :count].min(axis=1).mean()) for count in PROPOSALS if count <= z.shape[1]]
