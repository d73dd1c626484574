r"""Interior-point steps for many layer programs with one matrix W side by side, in torch, on any device.

In shifted and scaled variables w, with r(w) = r0 + W w the residuals and alpha = 1/p, beta = 1/q the inverse slopes
of a row's sides (0 where a side is missing), a program reads

.. math:: \min_{w, e} \sum e \quad a = e - \alpha r(w) \ge 0, \quad b = e + \beta r(w) \ge 0, \quad l \le w \le u

where e is one number per row for the summed violation and a single number for the largest one. The multipliers
:math:`\lambda_a, \lambda_b \ge 0` of a row sum to 1 (all of them together for the largest violation);
:math:`y = \alpha \lambda_a - \beta \lambda_b` is the signed multiplier of :mod:`unrelu.layer.proof`, and the
multipliers of the bounds add up to W^T y.

Both are linear programs min cost.x subject to s = G x + g >= 0 in x = (w, e), with multipliers lambda >= 0 and
:math:`G^T \lambda = cost`. A step solves :math:`G^T \mathrm{diag}(\lambda / s) G\, dx = \dots`, reduced to k x k
matrices by eliminating e.

Source: Mehrotra, "On the implementation of a primal-dual interior point method", SIAM J. Optim. 2 (1992).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import SolverError
from unrelu.layer.proof import DUAL
from unrelu.layer.rows import DENSE_ENTRIES, LayerSystem

__all__ = ["MOST_ENTRIES", "Point", "Programs", "Shared", "factorise", "first_point", "solve_normal", "step"]

Array = npt.NDArray[np.float64]

# The array of weighted copies of W has at most this many entries, 64 MiB, or those of one copy.
MOST_ENTRIES = 2**23
# W^T D W is cheaper from the products of W's columns, if they have at most so many entries, for so many programs.
_PRODUCTS, _MANY = 2**22, 8
# Ridges tried, relative to the diagonal, until a Cholesky factorisation succeeds.
_RIDGES = (1e-14, 1e-12, 1e-10, 1e-8, 1e-6)
# Share of the way to the boundary that a step goes.
_DAMPING = 0.995
# The first slacks are at least this much, in units of the scaled errors, for the sum and for the largest violation.
_SUM_MARGIN, _LARGEST_MARGIN = 2.0, 0.25


@dataclass(frozen=True, eq=False)
class Shared:
    """What the programs of a batch share.

    Attributes:
        matrix: W with its columns scaled to norm 1, (n, k).
        size: the norms, (k,): h in the units of the programs is ``size`` times h.
        lower, upper: the bounds of h in these units, (k,).
        summed: whether the violations are summed ("l1") or the largest counts ("linf").
    """

    matrix: Tensor
    size: Tensor
    lower: Tensor
    upper: Tensor
    summed: bool

    @classmethod
    def of(cls, system: LayerSystem, norm: str, device: torch.device) -> Shared:
        """Copy the layer to the device.

        Raises:
            SolverError: W is sparse with more than 4e6 entries.
        """
        matrix = system.matrix
        if not isinstance(matrix, np.ndarray):
            if system.n_in * system.n_out > DENSE_ENTRIES:
                shape = f"{system.n_out} x {system.n_in}"
                raise SolverError(f"W is sparse and {shape}, the batched solver makes it dense; solve one by one")
            matrix = matrix.toarray()
        size = np.sqrt((matrix * matrix).sum(axis=0))
        size[size == 0] = 1.0
        arrays = (matrix / size, size, system.lower * size, system.upper * size)
        a, b, c, d = (torch.tensor(array, dtype=torch.float64, device=device) for array in arrays)
        return cls(a, b, c, d, norm == "l1")

    @cached_property
    def absolute(self) -> Tensor:
        """|W|, (n, k)."""
        return self.matrix.abs()

    @cached_property
    def row_norm(self) -> Tensor:
        """The norms of the rows of W, (n,)."""
        norm: Tensor = torch.linalg.vector_norm(self.matrix, dim=1)
        return norm

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The bounds that are there as sign w[:, at] >= sign bound: at, (m,), and sign, (m,)."""
        lower, upper = (torch.nonzero(torch.isfinite(side))[:, 0] for side in (self.lower, self.upper))
        sign = torch.cat([torch.ones_like(lower), -torch.ones_like(upper)])
        return torch.cat([lower, upper]), sign.to(self.size.dtype)

    @cached_property
    def normals(self) -> Tensor:
        """The rows of W and those of the bounds, sign e_at, (n + m, k)."""
        at, sign = self.bounds
        unit = torch.eye(len(self.size), dtype=sign.dtype, device=sign.device)
        return torch.cat([self.matrix, sign[:, None] * unit[at]])

    @cached_property
    def _products(self) -> tuple[Tensor, Tensor]:
        """W[:, i] W[:, j] for i >= j, (n, k (k + 1) / 2), and the k k places where each is needed."""
        k = len(self.size)
        i, j = torch.tril_indices(k, k, device=self.size.device)
        place = torch.empty(k, k, dtype=torch.long, device=self.size.device)
        place[i, j] = place[j, i] = torch.arange(len(i), device=self.size.device)
        return self.matrix[:, i] * self.matrix[:, j], place.ravel()

    def gram(self, weight: Tensor) -> Tensor:
        """W^T diag(weight_b) W for every b, (B, k, k), as matrix products of bounded size."""
        n, k = self.matrix.shape
        if len(weight) >= _MANY and n * k * (k + 1) // 2 <= _PRODUCTS:
            products, place = self._products
            return (weight @ products).index_select(1, place).view(-1, k, k)
        out = weight.new_empty(len(weight), k, k)
        chunk = max(1, MOST_ENTRIES // max(1, n * k))
        for begin in range(0, len(weight), chunk):
            weighted = self.matrix * weight[begin : begin + chunk, :, None]
            torch.matmul(self.matrix.T, weighted, out=out[begin : begin + chunk])
        return out


def solve_normal(factor: Tensor, rhs: Tensor) -> Tensor:
    """x, (B, k), from Cholesky factors (B, k, k) and right sides (B, k)."""
    return torch.cholesky_solve(rhs[:, :, None], factor)[:, :, 0]


def factorise(normal: Tensor, ridge: float = _RIDGES[0]) -> Tensor:
    """Cholesky factors of positive semidefinite matrices, (B, k, k), with a larger ridge where one breaks down.

    The matrices are overwritten.
    """
    diagonal = normal.diagonal(dim1=1, dim2=2)
    unit = diagonal + diagonal.mean(1, keepdim=True) + torch.finfo(torch.float64).tiny
    diagonal += ridge * unit
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(normal)
    for larger in _RIDGES[1:]:
        todo = torch.nonzero(info)[:, 0]
        if not len(todo):
            break
        part = normal[todo]
        part.diagonal(dim1=1, dim2=2).add_(larger * unit[todo])
        factor[todo], info[todo] = torch.linalg.cholesky_ex(part)
    return factor


@dataclass(frozen=True, eq=False)
class Point:
    """w (B, k), e (B, n) or (B, 1), the slacks of (a, b, bounds) and their multipliers lambda, both (B, 2 n + m)."""

    w: Tensor
    e: Tensor
    slack: Tensor
    dual: Tensor

    def take(self, keep: Tensor) -> Point:
        """The part of the batch that ``keep`` says."""
        return Point(self.w[keep], self.e[keep], self.slack[keep], self.dual[keep])


@dataclass(frozen=True, eq=False)
class Programs:
    """A batch of programs.

    Attributes:
        shared: W and the kind of program.
        start: r0, the residuals at w = 0, (B, n).
        alpha, beta: the inverse slopes of the upper and lower sides, 0 where a side is missing, (B, n).
        lower, upper: the bounds of w, (B, k).
        zero: what counts as zero in the objective, (B,).
    """

    shared: Shared
    start: Tensor
    alpha: Tensor
    beta: Tensor
    lower: Tensor
    upper: Tensor
    zero: Tensor

    def take(self, keep: Tensor) -> Programs:
        """The part of the batch that ``keep`` says."""
        return replace(self, **{f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name != "shared"})

    @cached_property
    def side(self) -> Tensor:
        """Sign times the bounds that are there, (B, m)."""
        at, sign = self.shared.bounds
        return torch.where(sign > 0, self.lower[:, at], -self.upper[:, at])

    def inside(self, w: Tensor) -> Tensor:
        """The points w moved into their bounds."""
        return w.clamp(self.lower, self.upper)

    def residual(self, w: Tensor) -> Tensor:
        """r(w), (B, n)."""
        return torch.addmm(self.start, w, self.shared.matrix.T)

    def errors(self, r: Tensor) -> Tensor:
        """The violations of the rows, (B, n)."""
        return torch.maximum(self.alpha * r, -self.beta * r)

    def slack(self, w: Tensor, e: Tensor) -> Tensor:
        """G x + g, (B, 2 n + m)."""
        slack = self.image(w, self.residual(w), e)
        slack[:, 2 * self.start.shape[1] :] -= self.side
        return slack

    def image(self, w: Tensor, r: Tensor, e: Tensor) -> Tensor:
        """(e - alpha r, e + beta r, sign w), which is G x for r = W w."""
        at, sign = self.shared.bounds
        return torch.cat([e - self.alpha * r, e + self.beta * r, sign * w[:, at]], 1)

    def adjoint(self, dual: Tensor) -> tuple[Tensor, Tensor]:
        """G^T lambda, its parts for w and for e."""
        n = self.start.shape[1]
        at, sign = self.shared.bounds
        on_w = -self.multipliers(dual) @ self.shared.matrix
        on_w.index_add_(1, at, sign * dual[:, 2 * n :])
        mass = dual[:, :n] + dual[:, n : 2 * n]
        return on_w, mass if self.shared.summed else mass.sum(1, keepdim=True)

    def multipliers(self, dual: Tensor) -> Tensor:
        """y = alpha lambda_a - beta lambda_b, (B, n)."""
        n = self.start.shape[1]
        return self.alpha * dual[:, :n] - self.beta * dual[:, n : 2 * n]

    def score(self, w: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The objective at w and the lower bound from y, (B,), as :func:`unrelu.layer.proof.prove` computes them."""
        r = self.residual(w)
        errors = self.errors(r)
        y = torch.where(y > 0, torch.where(self.alpha > 0, y, 0.0), torch.where(self.beta > 0, y, 0.0))
        if self.shared.summed:
            objective, y = errors.sum(1), y.clamp(-self.beta, self.alpha)
        else:
            share = torch.where(y == 0, 0.0, y / torch.where(y > 0, self.alpha, -self.beta))
            objective, y = errors.amax(1), y / share.sum(1, keepdim=True).clamp_min(1.0)
        t = y @ self.shared.matrix
        side = torch.where(t > 0, self.lower, self.upper)
        held = torch.isfinite(side)
        pull = torch.where(held, t * (w - torch.where(held, side, 0.0)), 0.0).sum(1)
        balanced = held | (t.abs() <= 0.1 * DUAL * (y.abs() @ self.shared.absolute))
        return objective, torch.where(balanced.all(1), (y * r).sum(1) - pull, -torch.inf)


@dataclass(frozen=True, eq=False)
class _NormalMatrix:
    r"""G^T diag(D) G with D = (D_a, D_b, D_z), factorised after eliminating e.

    With E = D_a + D_b, C = alpha D_a - beta D_b, F = alpha^2 D_a + beta^2 D_b and B the bounds' D_z, this leaves

    .. math:: W^T \mathrm{diag}(F - C^2 / E) W + B, \qquad F - C^2 / E = D_a D_b (\alpha + \beta)^2 / E

    for the sum, and W^T diag(F) W + B - (W^T C)(W^T C)^T / sum(E) for the largest violation.
    """

    shared: Shared
    factor: Tensor
    total: Tensor
    cross: Tensor

    @classmethod
    def of(cls, programs: Programs, weight: Tensor) -> _NormalMatrix:
        shared, n = programs.shared, programs.start.shape[1]
        on_a, on_b, on_bounds = weight[:, :n], weight[:, n : 2 * n], weight[:, 2 * n :]
        total, cross = on_a + on_b, programs.alpha * on_a - programs.beta * on_b
        if shared.summed:
            normal = shared.gram(on_a * (on_b / total) * (programs.alpha + programs.beta) ** 2)
        else:
            total = total.sum(1, keepdim=True)
            normal = shared.gram(programs.alpha**2 * on_a + programs.beta**2 * on_b)
            pull = cross @ shared.matrix
            normal.baddbmm_(pull[:, :, None], (pull / total)[:, None, :], alpha=-1.0)
        normal.diagonal(dim1=1, dim2=2).index_add_(1, shared.bounds[0], on_bounds)
        return cls(shared, factorise(normal), total, cross)

    def solve(self, on_w: Tensor, on_e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dw, W dw and de with G^T diag(D) G (dw, de) = (on_w, on_e)."""
        dw = solve_normal(self.factor, on_w + (self.cross * (on_e / self.total)) @ self.shared.matrix)
        image = dw @ self.shared.matrix.T
        drift = self.cross * image
        de = (on_e + (drift if self.shared.summed else drift.sum(1, keepdim=True))) / self.total
        return dw, image, de


def first_point(programs: Programs) -> Point:
    """w = 0 moved inside its bounds, slacks of at least a margin, and multipliers in balance with them.

    lambda_a = b / (a + b) and lambda_b = a / (a + b) sum to 1 and make lambda_a a = lambda_b b; for the largest
    violation lambda is proportional to 1 / slack. The bounds take their part of W^T y.
    """
    n, summed = programs.start.shape[1], programs.shared.summed
    at, sign = programs.shared.bounds
    margin = _SUM_MARGIN if summed else _LARGEST_MARGIN
    w = programs.inside(torch.zeros_like(programs.lower))
    errors = programs.errors(programs.residual(w))
    e = (errors if summed else errors.amax(1, keepdim=True)) + margin
    slack = programs.slack(w, e).clamp_min(margin)
    inverse = 1 / slack[:, : 2 * n]
    mass = (inverse[:, :n] + inverse[:, n:]).repeat(1, 2) if summed else inverse.sum(1, keepdim=True)
    dual = inverse / mass
    mean = (dual * slack[:, : 2 * n]).mean(1, keepdim=True)
    pull = programs.multipliers(dual) @ programs.shared.matrix
    at_bounds = (sign * pull[:, at]).clamp_min(0.0) + mean / slack[:, 2 * n :]
    return Point(w, e, slack, torch.cat([dual, at_bounds], 1))


def _length(x: Tensor, dx: Tensor, share: float = 1.0) -> Tensor:
    """The step length, ``share`` of the way to the end of x + t dx >= 0 and at most 1, (B, 1); x > 0."""
    return (-dx / (share * x)).amax(1, keepdim=True).clamp_min(1.0).reciprocal()


def step(programs: Programs, x: Point) -> Point:
    """One predictor and corrector step with one factorisation.

    The corrector is refined once: where few rows decide the optimum, W^T y has to cancel to more digits than a
    factorisation of an ill-conditioned matrix gives.
    """
    slack, dual = x.slack, x.dual
    primal = programs.slack(x.w, x.e) - slack
    weight = dual / slack
    normal = _NormalMatrix.of(programs, weight)
    pull, mass = programs.adjoint(dual)

    def direction(product: Tensor, solves: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # ds = primal + G dx and dd = (product - dual ds) / slack put into G^T (dual + dd) = cost = (0, 1).
        dw, de, ds = torch.zeros_like(x.w), torch.zeros_like(x.e), primal
        dd = (product - dual * primal) / slack
        for _ in range(solves):
            on_w, on_e = programs.adjoint(dd)
            more_w, image, more_e = normal.solve(on_w + pull, on_e + mass - 1.0)
            more = programs.image(more_w, image, more_e)
            dw, de, ds, dd = dw + more_w, de + more_e, ds + more, dd - weight * more
        return dw, de, ds, dd

    product = slack * dual
    total = product.sum(1, keepdim=True)
    _, _, ds, dd = direction(-product, 1)
    after = ((slack + _length(slack, ds) * ds) * (dual + _length(dual, dd) * dd)).sum(1, keepdim=True)
    target = (after / total) ** 3 * total / slack.shape[1]
    dw, de, ds, dd = direction(target - product - ds * dd, 2)
    ahead, dual_ahead = _length(slack, ds, _DAMPING), _length(dual, dd, _DAMPING)
    return Point(x.w + ahead * dw, x.e + ahead * de, slack + ahead * ds, dual + dual_ahead * dd)
