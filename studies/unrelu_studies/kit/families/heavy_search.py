"""The best code that hundreds of descents from many kinds of starts find: what a search is judged by.

It shares no code with the search that it judges but the values and derivatives of activations: Levenberg-Marquardt in
PyTorch on the layers written out, all descents of a batch at once. Source of the damping: Nielsen, Damping parameter in
Marquardt's method (1999).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from unrelu.models.activations import Activation
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu_studies.kit.families.family_observations import FamilyObservations

# Rounds of descents; the incumbent of each is perturbed in the next one. After 10 rounds 96% of the codes are within 1%
# of what three such searches find on real digits (the weight decay of the list to tune on), after 20 all of them.
ROUNDS = 20
# Starts of an observation in a round, by strategy: 1,000 in all.
STARTS = {"normal": 8, "wide": 4, "isotropic": 20, "one direction": 12, "reflected": 6}
WIDE = 3.0
# Lengths of perturbations, as fractions of |z| / sqrt(k) a coordinate, log-uniform.
LENGTHS = (0.3, 3.0)
# Codes that are descended from together: their derivatives stay in the cache.
_TOGETHER = 512
# How many ends of a round are refined in double precision.
_REFINED = 3
_TINY = 1e-30
# L-BFGS: steps at most, and the first of them as a fraction of |z| / sqrt(k), so that it stays in the basin: SciPy's
# first trial is a step of length one.
_GAIN_STEPS, _FIRST_STEP = 500, 1e-3


class _Effort(NamedTuple):
    """Steps at most; the relative decrease that is tiny; how many times the predicted decrease is hoped for."""

    steps: int
    tiny_decrease: float
    hope: float


_QUICK, _REFINE, _FINAL = _Effort(16, 1e-2, 4.0), _Effort(40, 1e-5, np.inf), _Effort(200, 1e-10, np.inf)


class ObservedChain:
    """A G(z) with its derivatives, the layers written out and A folded into the last one."""

    def __init__(self, observed: FamilyObservations, dtype: torch.dtype) -> None:
        self.dtype, self.layers = dtype, list[tuple[Tensor, Tensor, Activation]]()
        for layer in observed.network.layers:
            matrix = layer.matrix()
            self._append(matrix if isinstance(matrix, np.ndarray) else matrix.toarray(), layer.bias(), layer.activation)
        w, b, activation = self.layers[-1]
        a = torch.tensor(observed.matrix, dtype=dtype)
        if activation.name == "identity" or observed.masked or observed.operator is None:
            self.layers[-1] = (w @ a.T, a @ b, activation)
        else:
            self._append(observed.matrix, np.zeros(len(a)), Activation("identity"))

    def _append(self, matrix: Array, bias: Array, activation: Activation) -> None:
        self.layers.append(
            (torch.tensor(matrix.T, dtype=self.dtype).contiguous(), torch.tensor(bias, dtype=self.dtype), activation)
        )

    def linearise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """A G(z), (b, m), and its derivatives, (b, k, m)."""
        h, tangents = z, None
        for w, b, activation in self.layers:
            u = torch.addmm(b, h, w)
            h = activation.forward(u)
            moved = w.expand(len(z), *w.shape) if tangents is None else tangents @ w
            tangents = moved if activation.name == "identity" else moved * activation.derivative(u, h)[:, None]
        assert tangents is not None
        return h, tangents


def least_objectives(
    observed: FamilyObservations, seed: int, codes: Sequence[Array] = (), rounds: int = ROUNDS,
    longest: Array | float = np.inf,
) -> tuple[Array, Array]:  # fmt: skip
    """The lowest objective that is found for each observation, (B,), and its code, (B, k).

    Descents start from the truth, from other ``codes`` (B, k), and from ``rounds`` times the starts of :data:`STARTS`.
    Codes longer than ``longest``, (B,), do not count; the objective is infinite where all are longer.
    """
    y = observed.measured
    single, double = (ObservedChain(observed, dtype) for dtype in (torch.float32, torch.float64))
    known = [z for z in (observed.truth, *codes) if z is not None]
    rng = stream("families, heavy search", seed)
    count, k = len(y), observed.network.latent_dim
    most = np.broadcast_to(longest, count)
    with computing(one_thread=True), torch.no_grad():
        best, z = np.full(count, np.inf), rng.standard_normal((count, k))
        for start in (*known, z):
            z, best = _lower((z, best), (start, observed.objective(start, most)))
            found = _descended(double, y, np.where(np.isfinite(start), start, 0.0), _REFINE)
            z, best = _lower((z, best), _within(found, most))
        for _ in range(rounds):
            starts = _starts(z, rng)
            ends, f = _within(_descended_each(single, y, starts, best), most[:, None])
            for rank in f.argsort(axis=1).T[:_REFINED]:
                end = ends[np.arange(count), rank]
                z, best = _lower((z, best), _within(_descended(double, y, end, _REFINE), most))
        z, best = _lower((z, best), _within(_descended(double, y, z, _FINAL), most))
    finished = finished_by_lbfgs(observed, z)
    z, best = _lower((z, observed.objective(z, most)), (finished, observed.objective(finished, most)))
    return best, z


def _within(found: tuple[Array, Array], longest: Array) -> tuple[Array, Array]:
    """Codes (..., k) and their objectives, which are infinite where a code is too long."""
    return found[0], np.where(np.linalg.norm(found[0], axis=-1) <= longest, found[1], np.inf)


def _lower(incumbent: tuple[Array, Array], found: tuple[Array, Array]) -> tuple[Array, Array]:
    lower = found[1] < incumbent[1]
    return np.where(lower[:, None], found[0], incumbent[0]), np.where(lower, found[1], incumbent[1])


def _starts(z: Array, rng: np.random.Generator) -> Array:
    """Starts of a round, (B, c, k), by the strategies of :data:`STARTS` from incumbents (B, k)."""
    count, k = z.shape

    def normal(strategy: str, size: int = k) -> Array:
        return rng.standard_normal((count, STARTS[strategy], size))

    def lengths(strategy: str) -> Array:
        drawn = np.exp(rng.uniform(math.log(LENGTHS[0]), math.log(LENGTHS[1]), (count, STARTS[strategy], 1)))
        return np.asarray(drawn * np.linalg.norm(z, axis=1)[:, None, None] / np.sqrt(k))

    def directions(strategy: str) -> Array:
        e = normal(strategy)
        return np.asarray(e / np.linalg.norm(e, axis=2, keepdims=True))

    at = z[:, None]
    plane = directions("reflected")
    along = directions("one direction") * np.sqrt(k) * normal("one direction", 1)
    return np.concatenate([
        normal("normal"), WIDE * normal("wide"),
        at + lengths("isotropic") * normal("isotropic"),
        at + lengths("one direction") * along,
        at - 2 * (at * plane).sum(axis=2, keepdims=True) * plane,
    ], axis=1)  # fmt: skip


def _descended_each(chain: ObservedChain, y: Array, starts: Array, best: Array) -> tuple[Array, Array]:
    """Ends of quick descents from several starts each, (B, c, k), and their objectives, (B, c)."""
    count, several, k = starts.shape
    ends, f = _descended(chain, np.repeat(y, several, axis=0), starts.reshape(-1, k), _QUICK, np.repeat(best, several))
    return ends.reshape(starts.shape), f.reshape(count, several)


def _descended(
    chain: ObservedChain, y: Array, z: Array, effort: _Effort, ceiling: Array | None = None
) -> tuple[Array, Array]:
    """Where descents from codes (b, k) end, and the objectives there, (b,)."""
    ends, values = [], []
    above = np.full(len(z), np.inf) if ceiling is None else ceiling
    for begin in range(0, len(z), _TOGETHER):
        part = slice(begin, begin + _TOGETHER)
        at, target, limit = (torch.tensor(a[part], dtype=chain.dtype) for a in (z, y, above))
        end, f = _levenberg_marquardt(chain, target, at, effort, limit)
        ends.append(end.double().numpy())
        values.append(f.double().numpy())
    return np.concatenate(ends), np.nan_to_num(np.concatenate(values), nan=np.inf)


def _levenberg_marquardt(
    chain: ObservedChain, y: Tensor, z: Tensor, effort: _Effort, ceiling: Tensor
) -> tuple[Tensor, Tensor]:
    """Damped Gauss-Newton steps from codes (b, k) until two of them gain little, or none can come below the ceiling."""
    eye = torch.eye(z.shape[1], dtype=z.dtype)
    ends, values = z.clone(), torch.full_like(z[:, 0], torch.inf)
    left = torch.arange(len(z))
    f, gram, gradient = _model(chain, y, z)
    mean = gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(_TINY)
    damping, growth, small = 1e-2 * mean, torch.full_like(f, 2.0), torch.zeros_like(f)
    for count in range(effort.steps):
        factor, _ = torch.linalg.cholesky_ex(gram + damping[:, None, None] * eye)
        step = -torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
        promised = (step * (damping[:, None] * step - gradient)).sum(dim=1)
        trial = z + step
        reached, trial_gram, trial_gradient = _model(chain, y, trial)
        lower = reached < f
        decrease = torch.where(lower, f - reached, 0)
        gain = 2 * decrease / promised.clamp_min(_TINY) - 1
        damping = damping * torch.where(lower, (1 - gain**3).clamp(0.1, 1.0), growth)
        growth = torch.where(lower, 2.0, 2 * growth)
        small = torch.where(lower & (decrease >= effort.tiny_decrease * f), 0, small + 1)
        hopeless = (f - effort.hope * promised > ceiling) if count > 2 else torch.zeros_like(lower)
        # A step that was refused says nothing yet of the next, which is shorter.
        small = torch.where(lower | (promised < effort.tiny_decrease * f), small, (small - 0.75).clamp_min(0))
        z, f = torch.where(lower[:, None], trial, z), torch.where(lower, reached, f)
        gram = torch.where(lower[:, None, None], trial_gram, gram)
        gradient = torch.where(lower[:, None], trial_gradient, gradient)
        ends[left], values[left] = z, f
        on = (small < 2) & ~hopeless
        if not on.any():
            break
        if not on.all():
            y, z, f, gram, gradient, damping, growth, small, ceiling, left = (
                part[on] for part in (y, z, f, gram, gradient, damping, growth, small, ceiling, left)
            )
    return ends, values


def _model(chain: ObservedChain, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The objective, J^T J and J^T r at codes."""
    x, tangents = chain.linearise(z)
    r = x - y
    return r.square().sum(dim=1), tangents @ tangents.mT, (tangents @ r[:, :, None])[:, :, 0]


def finished_by_lbfgs(observed: FamilyObservations, z: Array) -> Array:
    """Where SciPy's L-BFGS, in double precision, ends from codes (B, k): it follows kinks at which steps stall."""
    chain = ObservedChain(observed, torch.float64)
    with computing(one_thread=True), torch.no_grad():
        targets = torch.tensor(observed.measured, dtype=torch.float64)
        return np.array([_lbfgs(chain, y, code) for y, code in zip(targets, z, strict=True)])


def _lbfgs(chain: ObservedChain, y: Tensor, z: Array) -> Array:
    unit = _FIRST_STEP * max(float(np.linalg.norm(z)) / math.sqrt(len(z)), _FIRST_STEP)
    at_start = max(float((chain.linearise(torch.tensor(z[None]))[0] - y).square().sum()), _TINY)

    def relative(moved: Array) -> tuple[float, Array]:
        x, tangents = chain.linearise(torch.tensor((z + unit * moved)[None]))
        r = (x - y)[0]
        return float(r.square().sum()) / at_start, (2 * unit / at_start) * (tangents[0] @ r).numpy()

    if not math.isfinite(at_start):
        return z
    options = {"maxiter": _GAIN_STEPS, "ftol": 1e-15, "gtol": 1e-14}
    return np.asarray(z + unit * minimize(relative, np.zeros(len(z)), jac=True, method="L-BFGS-B", options=options).x)
