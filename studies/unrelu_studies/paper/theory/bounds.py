r"""Theorems 3 and 4 and Corollary 1: how far the code that Algorithms 1 and 2 find is from the true one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from unrelu.errors import InputError, UnsupportedModelError
from unrelu.layerwise import LayerSystem, LInf
from unrelu.models.generator import Generator, numbers
from unrelu.models.network import Network
from unrelu_studies.paper.theory.constants import c_inf

Array = npt.NDArray[np.float64]

# Layer programs are solved to 1e-8 of their objective (1e-9 more in the test delta <= eps), to rounding, and to what
# counts as zero; the last two relative to the largest output. Twice that at least.
_GAP, _ROUNDING, _ZERO = 1e-7, 1e-12, 2e-10
# The first threshold without a stated noise, relative to the largest output.
_FIRST = 1e-9
# Room for a few roundings.
_UP = 1 + 1e-14


@dataclass(frozen=True)
class ErrorBound:
    """What a theorem says.

    Attributes:
        error: the bound on the error of the code.
        thresholds: of layers 1 to d: what at least :math:`m_i` outputs of layer i must exceed for it to hold.
    """

    error: float
    thresholds: tuple[float, ...]


def theorem_3(c_inf: float | Sequence[float], depth: int, eps: float) -> ErrorBound:
    r"""Theorem 3: what ``linf`` recovers where :math:`|e|_\infty \le \varepsilon`.

    .. math:: |z - z^*|_\infty \le \left( \tfrac{2}{c_\infty} \right)^d \varepsilon
        \quad\text{or}\quad \prod_{i=1}^d \tfrac{2}{c_i}\, \varepsilon

    where in every layer at least :math:`m_i` true outputs exceed :math:`2 \prod_{l > i} (2 / c_l)\, \varepsilon`, which
    is :math:`2 (2 / c_\infty)^{d - i} \varepsilon` with one constant for all layers, and each :math:`c_i` is one of
    Assumption 2 for :math:`m_i` rows of :math:`W_i`.

    Args:
        c_inf: the constant, above 0, or one for each layer from first to last.
        depth: d.
        eps: the bound on the noise, at least 0.

    Raises:
        InputError: a number is out of its range, or there are not d constants.

    Source: Assumption 2 and Theorem 3 of the paper; the proof takes one layer at a time, so constants may differ.
    """
    return _theorem("c_inf", c_inf, depth, eps)


def theorem_4(c_1: float | Sequence[float], depth: int, eps: float) -> ErrorBound:
    r"""Theorem 4: what ``l1`` recovers where :math:`|e|_1 \le \varepsilon`.

    .. math:: |z - z^*|_1 \le \frac{2^d \varepsilon}{c_1^d}
        \quad\text{or}\quad \prod_{i=1}^d \tfrac{2}{c_{1,i}}\, \varepsilon

    where in every layer at least :math:`m_i` true outputs exceed :math:`2^{d + 1 - i} \varepsilon / c_1^{d - i}`, and
    each constant is one of Assumption 3 for :math:`m_i` rows of :math:`W_i`.

    Args:
        c_1: the constant, above 0, or one for each layer from first to last.
        depth: d.
        eps: the bound on the noise, at least 0.

    Raises:
        InputError: a number is out of its range, or there are not d constants.

    Source: Assumption 3 and Theorem 4 of the paper; the proof takes one layer at a time, so constants may differ.
    """
    return _theorem("c_1", c_1, depth, eps)


@dataclass(frozen=True)
class Corollary:
    """What Corollary 1 says.

    Attributes:
        error: the bound on the largest error of a coordinate of the code.
        limit: the noise must be below that.
        holds: whether it is.
    """

    error: float
    limit: float
    holds: bool


def corollary_1(c_2: float, depth: int, eps: float, z: npt.ArrayLike) -> Corollary:
    r"""Corollary 1: Theorem 3 for Gaussian weights N(0, 1) and :math:`n_i \ge 5 n_{i-1}`, with high probability.

    .. math:: |z - z^*|_\infty \le \frac{2^d \varepsilon}{c_2^d}
        \quad\text{where}\quad \varepsilon < \frac{c_2^d}{2^{d+4}} |z^*|_2 \sqrt k

    :math:`c_2` is a universal constant in (0, 2] that the paper does not give. The condition is how the printed formula
    reads; its square root is set apart from the k below it. It stands for the brightness that Theorem 3 asks for.
    With one layer the outputs are :math:`|z^*|_2` times standard Gaussians, so for a large k it cannot be enough;
    :func:`recovery_bound` counts bright outputs instead.

    Args:
        c_2: the constant.
        depth: d.
        eps: :math:`|e|_\infty`, at least 0.
        z: the true code, (k,).

    Raises:
        InputError: a number is out of its range, or z is no finite vector.

    Source: Corollary 1 of the paper.
    """
    if not 0 < c_2 <= 2:
        raise InputError(f"c_2={c_2} must be in (0, 2], where Corollary 1 has it")
    error = _theorem("c_2", c_2, depth, eps).error
    code = numbers(z, "z")
    if code.ndim != 1 or not len(code) or not np.isfinite(code).all():
        raise InputError(f"z has shape {code.shape}; pass one finite code (k,)")
    limit = (c_2 / 2) ** depth / 16 * float(np.linalg.norm(code)) * math.sqrt(len(code))
    return Corollary(error, limit, eps < limit)


def _theorem(name: str, constants: float | Sequence[float], depth: int, eps: float) -> ErrorBound:
    """The recursion e_d = eps, e_(i-1) = 2 e_i / c_i, with the thresholds 2 e_i."""
    if isinstance(depth, bool) or not isinstance(depth, (int, np.integer)) or depth < 1:
        raise InputError(f"depth={depth!r} must be an integer of at least 1: the number of layers")
    try:
        each = np.asarray(constants, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name}={constants!r} must be a number above 0, or {depth} of them") from None
    if each.shape not in ((), (depth,)) or not ((each > 0) & (each < math.inf)).all():
        raise InputError(
            f"{name}={constants!r} must be a finite number above 0, or {depth} of them, one for each layer"
        )
    _check_eps(eps)
    error, thresholds = float(eps), []
    for c in np.broadcast_to(each, (depth,))[::-1]:
        thresholds.append(2 * error)
        error *= 2 / float(c)
    return ErrorBound(error, tuple(reversed(thresholds)))


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
