r"""Theorem 3 for one network and one code: how far the code that Algorithm 1 finds is from the true one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from unrelu.errors import InputError, UnsupportedModelError
from unrelu.layerwise import LayerSystem, LInf
from unrelu.models.generator import Generator
from unrelu.models.network import Network
from unrelu.runtime.argument_checks import numbers
from unrelu_studies.paper.theory.constants import c_inf

# Layer programs are solved to 1e-8 of their objective (1e-9 more in the test delta <= eps), to rounding, and to what
# counts as zero; the last two relative to the largest output. Twice that at least.
_GAP, _ROUNDING, _ZERO = 1e-7, 1e-12, 2e-10
# The first threshold without a stated noise, relative to the largest output.
_FIRST = 1e-9
# Room for a few roundings.
_UP = 1 + 1e-14


def _check_eps(eps: float) -> None:
    if not isinstance(eps, (int, float, np.number)) or not 0 <= eps < math.inf:
        raise InputError(f"eps={eps!r} must be finite and at least 0: the largest size of the noise")


@dataclass(frozen=True)
class RecoveryBound:
    """A bound for one network and one code.

    Attributes:
        errors: for 0 to d: the largest error of a coordinate of the code (0) and of each layer's output; infinite
            from the layer on that has too few bright outputs.
        thresholds: of layers 1 to d: outputs above them are sure to be read as active.
        constants: the certified c_inf of the rows of these outputs.
        rows: how many they are.
    """

    errors: tuple[float, ...]
    thresholds: tuple[float, ...]
    constants: tuple[float, ...]
    rows: tuple[int, ...]

    @property
    def error(self) -> float:
        r"""The bound on :math:`|z - z^*|_\infty`."""
        return self.errors[0]


def recovery_bound(network: Generator, z: npt.ArrayLike, eps: float, alpha: float | None = LInf.alpha) -> RecoveryBound:
    r"""A bound on the error of ``method="linf"`` for all noise with :math:`|e|_\infty \le \varepsilon`, at this code.

    .. math:: e_d = \varepsilon, \qquad e_{i-1} = \frac{2 e_i}{c_\infty(W_{i, I_i})}, \qquad
        I_i = \{ j : x_{ij} > e_i + t_i \}, \qquad |z - z^*|_\infty \le e_0

    with :math:`x_i` the true output of layer i and :math:`t_i` the largest threshold at which its program can end.

    *Derivation.* Let the output that layer i is inverted from be within :math:`e_i` of :math:`x_i`, and h* be the true
    input. At a threshold :math:`\tau \ge e_i` the rows read as active have :math:`x_{ij} > 0`, so h* satisfies the
    constraints with :math:`\delta = e_i`, and hidden layers' :math:`h \ge 0` too. Therefore the smallest delta at the
    threshold where the method ends is at most :math:`e_i`: above :math:`e_i` because of h*, below because
    :math:`\delta \le \tau`. It ends at the first feasible threshold, at most :math:`t_i = \max(\alpha e_i, s_i)`,
    :math:`s_i` being the one it starts from. A row of :math:`I_i` is observed above :math:`t_i`, so it is active, and
    both h and h* are within :math:`e_i` of its observation: :math:`|W_{I_i} (h - h^*)|_\infty \le 2 e_i`.

    The start :math:`s_i` is at most what the layer above ended at, divided by the median norm of that layer's rows;
    where rows are short that can be above :math:`e_i`. With ``alpha=None`` :math:`t_i = e_i`, the thresholds
    that Theorem 3 assumes, so outputs need to exceed :math:`2 e_i`.

    The constants are certified (:func:`c_inf`), and the tolerances of the layer programs are counted: no
    :math:`e_i` is below 2e-10 of the layer's largest output. The true outputs are computed in double precision. The
    bound is about runs in which every program was solved, not about those that end with TIME_LIMIT or SOLVER_FAILED.

    On the paper's (20, 100, 500) network a bound takes 4 s and is some 1,000 eps, where uniform noise moves the code by
    5 eps: the constants are for the worst direction of each layer, and for noise that knows it.

    Args:
        network: ReLU layers without biases.
        z: the true code, (k,).
        eps: the bound on the noise, at least 0, and at least the level of ``noise="uniform:..."`` if one is stated.
        alpha: of ``linf``: the factor by which thresholds grow; None for thresholds that are set to the bounds.

    Returns:
        The bound, infinite where a layer has too few bright outputs.

    Raises:
        InputError: z is no code, or eps or alpha is out of its range.
        UnsupportedModelError: the network is no chain of ReLU layers without biases.
        SolverError: HiGHS refuses a program.

    Source: the proof of Theorem 3 of the paper, with the constants of one set of rows for each layer.
    """
    chain = _relu_chain(network)
    _check_eps(eps)
    if alpha is not None and not 1 < alpha < math.inf:
        raise InputError(f"alpha={alpha} must be finite and above 1, the growth of the thresholds, or None")
    code = numbers(z, "z")
    if code.shape != (chain.latent_dim,) or not np.isfinite(code).all():
        raise InputError(f"z has shape {code.shape}; pass one finite code of shape ({chain.latent_dim},)")
    errors, thresholds, constants = [float(eps)], [], []
    rows: list[int] = []
    handed = 0.0
    for layer, x in zip(reversed(chain.layers), reversed(chain.trace(code)), strict=True):
        system, output = LayerSystem.of(layer), x.ravel()
        size = float(output.max()) + errors[-1]
        error = max((1 + _GAP) * errors[-1] + _ROUNDING * size, _ZERO * size)
        end = error if alpha is None else max(alpha * error, handed, _FIRST * size)
        threshold = (error + end) * _UP
        bright = np.flatnonzero(output > threshold)
        constant = c_inf(system.dense[bright]).lower if math.isfinite(threshold) else 0.0
        errors.append(2 * error / constant * _UP if constant else math.inf)
        thresholds.append(threshold)
        rows.append(len(bright))
        constants.append(constant)
        handed = end / system.gain * _UP  # at least LayerSystem.input_threshold, whatever h is found
    return RecoveryBound(tuple(errors[::-1]), tuple(thresholds[::-1]), tuple(constants[::-1]), tuple(rows[::-1]))


def _relu_chain(network: Generator) -> Network:
    """The network in double precision on the CPU.

    Raises:
        UnsupportedModelError: it is no chain of ReLU layers without biases.
    """
    network = network.plain
    if not isinstance(network, Network):
        raise UnsupportedModelError(f"a {type(network).__name__} has no known layers; pass a chain of ReLU layers")
    for i, layer in enumerate(network.layers, 1):
        if layer.activation.name != "relu":
            raise UnsupportedModelError(f"layer {i} ends in {layer.activation}; the theorem is about ReLU layers")
        largest = float(np.abs(layer.bias()).max(initial=0.0))
        if largest:
            raise UnsupportedModelError(
                f"layer {i} has biases up to {largest:g}; the theorem is about layers without, set them to 0"
            )
    return network.to(torch.float64, "cpu")
