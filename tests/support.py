"""What several tests build: random networks, steps and activations of every kind."""

from __future__ import annotations

from itertools import pairwise

import numba
import numpy as np
import torch
from scipy import stats

from unrelu.diagnostics.identifiability import local_rank
from unrelu.models.activations import Activation
from unrelu.models.affine import Affine, Conv, Dense, LinearOperation, Reshape, Scale, Step
from unrelu.models.network import Network

EPS = float(np.finfo(float).eps)
# How often a right program fails a statistical assertion, where its draws are others.
CHANCE = 1e-4


def at_least(count: int, probability: float) -> int:
    """The least number of ``count`` cases in which what has this probability happens, but for :data:`CHANCE`."""
    return int(stats.binom.ppf(CHANCE, count, probability))


def at_most(count: int, probability: float) -> int:
    """The greatest number of ``count`` cases in which what has this probability happens, but for :data:`CHANCE`."""
    return int(stats.binom.isf(CHANCE, count, probability))


def farthest(count: int) -> float:
    """The Kolmogorov-Smirnov distance of ``count`` draws from their own distribution, exceeded by :data:`CHANCE`."""
    return float(stats.kstwo.isf(CHANCE, count))


def lm_reach(hessian: np.ndarray, f: float, tiny: float = 1e-13) -> float:
    """How far from a minimum of f Levenberg-Marquardt may end: sqrt(tiny f / lambda_min), with J^T J (k, k) there.

    It stops when f falls by less than ``tiny`` of itself, and at z the sum of squares f is its minimum plus
    |J (z - minimum)|^2. Two runs that are rounded in different ways may be twice as far from each other.
    """
    return float(np.sqrt(tiny * f / np.linalg.eigvalsh(hessian)[0]))


def rounding(network: Network, z: np.ndarray) -> float:
    """Bound on how far two evaluations of G(z), or of G'(z) z/|z|, differ: an eps for each term of each sum.

    Sums of n products in any order are off by n eps of the sum of the sizes of their terms, |W| |h| + |b|, and an
    activation by two more; what a layer is off by reaches the output times |W|, as its own sums do.
    """
    size, terms = np.abs(np.atleast_2d(z).reshape(-1, network.latent_dim)), 0
    for layer in network.layers:
        matrix = np.abs(layer.matrix() if isinstance(layer.matrix(), np.ndarray) else layer.matrix().toarray())
        terms += int((matrix > 0).sum(axis=1).max()) + 3
        steepest = max(1.0, float(np.max(np.abs(layer.activation.slope), initial=0)))
        size = steepest * (size @ matrix.T + np.abs(layer.bias()))
    return 2 * EPS * terms * float(size.max(initial=1.0))


def compiled(function):
    """A function that only compiled ones can call, so that Python can call it."""
    return numba.njit(lambda *arguments: function(*arguments))  # noqa: PLW0108


def tensor(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def random_network(
    sizes: tuple[int, ...], activation: str = "relu", seed: int = 0, bias: bool = False, last: str | None = None
) -> Network:
    """Gaussian layers k -> n_1 -> ... -> n_d, N(0, 2 / n_in) weights; ``last`` is the output's activation."""
    rng = np.random.default_rng(seed)
    parts: list[Step | Activation] = []
    for n_in, n_out in pairwise(sizes):
        shift = 0.3 * tensor(rng, n_out) if bias else None
        parts += [Dense(tensor(rng, n_out, n_in) * (2 / n_in) ** 0.5, shift), Activation.parse(activation)]
    if last is not None:
        parts[-1] = Activation.parse(last)
    return Network.chain(parts, sizes[:1])


def paper_network(sizes: tuple[int, ...], activation: str = "relu", seed: int = 0) -> Network:
    """The paper's random nets (section 5.1): no biases, weights N(0, 1 / n_i) with n_i the outputs of layer i."""
    rng = np.random.default_rng(seed)
    parts: list[Step | Activation] = []
    for n_in, n_out in pairwise(sizes):
        parts += [Dense(tensor(rng, n_out, n_in) / n_out**0.5), Activation.parse(activation)]
    return Network.chain(parts, sizes[:1])


def image_network(seed: int = 0) -> Network:
    """A small transposed-convolution generator (3, 1, 1) -> (1, 6, 6) with batch normalisation and tanh."""
    rng = np.random.default_rng(seed)
    parts = [
        Conv(tensor(rng, 3, 4, 3, 3), transposed=True),
        Scale(tensor(rng, 4, 1, 1), tensor(rng, 4, 1, 1)),
        Activation("relu"),
        Conv(0.3 * tensor(rng, 4, 1, 2, 2), tensor(rng, 1), stride=(2, 2), transposed=True),
        Activation("tanh"),
    ]
    return Network.chain(parts, (3, 1, 1))


ACTIVATIONS = {
    "relu": Activation("relu"),
    "leaky_relu": Activation("leaky_relu", 0.1),
    "prelu": Activation("prelu", [0.0, 0.25, 1.0, 2.0]),
    "prelu_negative": Activation("prelu", [-0.5, 0.0, 0.5, 1.5]),
    "identity": Activation("identity"),
    "sigmoid": Activation("sigmoid"),
    "tanh": Activation("tanh"),
    "exp": Activation("exp"),
    "swish": Activation("swish"),
    "swish_learned": Activation("swish", [-1.1, 0.2, 0.0, 1.7], steepness=[-0.4, 0.0, 3.0, 40.0]),
    **{name: Activation(name) for name in ("gelu", "gelu_tanh", "mish", "hardswish", "sin")},
    **{name: Activation(name) for name in ("hardsigmoid", "hardtanh", "softplus", "elu", "selu")},
    # A value that passes through beside others, and steepnesses of both signs.
    **{
        f"{name}_passing": Activation(name, [0.0, 1.0, 0.0, 0.0], steepness=[1.0, 1.0, 0.7, -0.5])
        for name in ("tanh", "exp", "gelu", "hardsigmoid", "softplus", "elu", "selu")
    },
    "tanh_mixed": Activation("tanh", 0.3, steepness=0.5),
}
MONOTONE = [name for name, activation in ACTIVATIONS.items() if activation.monotone]


def step_examples() -> dict[str, tuple[list[Step], tuple[int, ...]]]:
    """Named chains of steps and the shape that they take: every step, and the pairs that are merged."""
    rng = np.random.default_rng(0)
    dense = Dense(tensor(rng, 12, 5), tensor(rng, 12))
    conv = Conv(tensor(rng, 4, 3, 3, 3), tensor(rng, 4), (2, 1), (1, 2), (1, 2))
    grouped = Conv(tensor(rng, 6, 2, 2, 2), groups=2)
    transposed = Conv(tensor(rng, 4, 3, 3, 3), tensor(rng, 6), (2, 2), (1, 1), (1, 1), 2, True, (1, 0))
    norm4, norm6 = (Scale(tensor(rng, c, 1, 1), tensor(rng, c, 1, 1)) for c in (4, 6))
    vector = Scale(tensor(rng, 5), tensor(rng, 5))
    return {
        "nothing": ([], (5,)),
        "dense": ([dense], (5,)),
        "dense_no_bias": ([Dense(dense.weight)], (5,)),
        "dense_on_the_last_axis": ([dense], (2, 5)),
        "conv": ([conv], (3, 5, 6)),
        "conv1d": ([Conv(tensor(rng, 4, 3, 3), tensor(rng, 4), (2,), (1,), (1,))], (3, 7)),
        "grouped_conv": ([grouped], (4, 3, 4)),
        "transposed": ([transposed], (4, 3, 2)),
        "transposed1d": ([Conv(tensor(rng, 3, 2, 3), tensor(rng, 2), (2,), (1,), (1,), 1, True, (1,))], (3, 4)),
        "scale": ([vector], (5,)),
        "nearest": ([LinearOperation("aten.upsample_nearest2d.vec", ((5, 6), None))], (2, 3, 2)),
        "bilinear": ([LinearOperation("aten.upsample_bilinear2d.default", ((5, 6), True))], (2, 3, 2)),
        "linear": ([LinearOperation("aten.upsample_linear1d.default", ((7,), False))], (2, 3)),
        "pool": ([LinearOperation("aten.avg_pool2d.default", ((3, 2), (2, 2), (1, 1), True, False))], (2, 5, 4)),
        "sum": ([LinearOperation("aten.cumsum.default", (-1,))], (2, 6)),
        "pad": ([LinearOperation("aten.constant_pad_nd.default", ((1, 2, 0, -1), 0.0))], (2, 3, 3)),
        "reshape": ([Reshape((2, 3))], (6,)),
        "dense_dense": ([dense, Dense(tensor(rng, 4, 12), tensor(rng, 4))], (5,)),
        "dense_dense_no_bias": ([Dense(dense.weight), Dense(tensor(rng, 4, 12))], (5,)),
        "dense_scale": ([Dense(dense.weight), Scale(tensor(rng, 12), tensor(rng, 1))], (5,)),
        "dense_reshape_scale": ([dense, Reshape((4, 3, 1)), norm4], (5,)),
        "dense_on_the_last_axis_scale": ([dense, Scale(tensor(rng, 12), tensor(rng, 2, 1))], (2, 5)),
        "scale_dense": ([vector, dense], (5,)),
        "scale_dense_on_the_last_axis": ([Scale(tensor(rng, 2, 1), tensor(rng, 5)), dense], (2, 5)),
        "scale_scale": ([vector, Scale(tensor(rng, 1), tensor(rng, 5))], (5,)),
        "conv_scale": ([conv, norm4], (3, 5, 6)),
        "grouped_conv_scale": ([grouped, norm6], (4, 3, 4)),
        "transposed_scale": ([transposed, norm6], (4, 3, 2)),
        "conv_number": ([grouped, Scale(tensor(rng, 1), tensor(rng))], (4, 3, 4)),
        # As many columns as channels: a factor for each column is not one for each channel.
        "conv_scale_of_columns": ([Conv(tensor(rng, 4, 3, 1, 1)), Scale(tensor(rng, 4), tensor(rng, 4))], (3, 4, 4)),
        "conv_scale_of_rows": ([Conv(tensor(rng, 4, 3, 1, 1)), Scale(tensor(rng, 4, 1), tensor(rng, 4, 1))], (3, 4, 4)),
        "conv_shift_of_pixels": (
            [Conv(tensor(rng, 2, 3, 1, 1)), Scale(tensor(rng, 1), tensor(rng, 2, 2, 2))],
            (3, 2, 2),
        ),
        "reshape_reshape": ([Reshape((2, 3)), Reshape((3, 2)), Reshape((6,))], (3, 2)),
        "generator": (
            [
                dense,
                Reshape((3, 2, 2)),
                LinearOperation("aten.upsample_nearest2d.vec", ((4, 4), None)),
                conv,
                norm4,
                Reshape((32,)),
            ],
            (5,),
        ),
    }


def unfolded(steps: list[Step], h: torch.Tensor, in_shape: tuple[int, ...], constant: bool = True) -> torch.Tensor:
    """The steps one after the other, as they were given: (B, n_in) -> (B, n_out)."""
    x = h.reshape(-1, *in_shape)
    for step in steps:
        x = step.apply(x, constant)
    return x.reshape(len(h), -1)


def compose(name: str) -> tuple[Affine, list[Step], tuple[int, ...]]:
    steps, shape = step_examples()[name]
    return Affine.compose(steps, shape), steps, shape


def freedom(network, z):
    """The dimension of the sets of codes around z with the same output, (B,)."""
    return local_rank(network, z)[1]
