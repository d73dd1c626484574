"""What is known about the noise e of an observation y = A G(z*) + e, and how well it explains a residual."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, chdtrc, chdtri

from unrelu.errors import InputError

Array = npt.NDArray[np.float64]

# A residual that the stated noise would exceed this rarely is not explained by it.
SIGNIFICANCE = 0.01
# An entry is an outlier if it is off by more than this share of the size of outputs.
_OUTLIER = 1e-6


@dataclass(frozen=True)
class Noise:
    r"""The stated noise.

    Attributes:
        kind: "unknown", "uniform" (:math:`|e_j| \le` level), "gaussian" (standard deviation level) or "outliers" (a
            share ``level`` of the entries is arbitrarily wrong).
        level: in units of y, or the share of outliers; NaN if unknown.
    """

    kind: str
    level: float

    @classmethod
    def parse(cls, text: str | None) -> Noise:
        """Read None, "uniform:0.1", "gaussian:0.1" or "outliers:0.05".

        Raises:
            InputError: another kind, or a level that is not a non-negative number (a share below 1 for outliers).
        """
        if text is None:
            return cls("unknown", math.nan)
        kind, _, value = str(text).partition(":")
        if kind not in ("uniform", "gaussian", "outliers"):
            raise InputError(f"noise={text!r}: use 'uniform:A', 'gaussian:S' or 'outliers:P', e.g. 'uniform:0.1'")
        try:
            level = float(value)
        except ValueError:
            raise InputError(f"noise={text!r}: the level {value!r} is not a number; write e.g. '{kind}:0.1'") from None
        if not math.isfinite(level) or level < 0:
            raise InputError(f"noise={text!r}: the level must be finite and at least 0, got {level:g}")
        if kind == "outliers" and level >= 1:
            raise InputError(f"noise={text!r}: the share of outliers must be below 1, got {level:g}")
        return cls(kind, level)

    @property
    def norm(self) -> str:
        """The norm that suits the noise."""
        return {"uniform": "linf", "outliers": "l1"}.get(self.kind, "l2")

    def energy(self, observed: npt.NDArray[np.int64]) -> Array:
        """The mean of ``|e|_2^2`` over ``observed`` entries, (B,): m S^2 or m A^2 / 3; -1 if nothing is known of it."""
        share = {"gaussian": 1.0, "uniform": 1 / 3}.get(self.kind)
        return np.full(len(observed), -1.0) if share is None else np.asarray(share * self.level**2 * observed)

    def accepted_energy(self, observed: npt.NDArray[np.int64], used: Array) -> Array:
        """The largest ``|r|_2^2`` with a p-value of 1% for Gaussian noise, (B,); infinite for other noise.

        Args:
            observed: m, (B,).
            used: the degrees of freedom of the fit, (B,).
        """
        if self.kind != "gaussian":
            return np.full(len(observed), np.inf)
        return np.asarray(self.level**2 * chdtri(_degrees_left(observed, used), SIGNIFICANCE))

    def p_value(self, residual: Array, observed: npt.NDArray[np.int64], used: Array, scale: Array) -> Array:
        r"""The probability that such noise leaves a residual at least as large as this one, (B,); NaN if none is known.

        - gaussian:S, :math:`P(\chi^2_{m - u} \ge |r|_2^2 / S^2)`: a least-squares fit of u free parameters to m
          entries takes u degrees of freedom from the noise. Where it takes all of them the fit can be tested no more,
          and what is asked is whether noise of the true code could be as large: u = 0.
        - uniform:A, 1 if :math:`|r|_\infty \le A`, else 0.
        - outliers:P, :math:`P(\mathrm{Binomial}(m, P) \ge t)` with t the number of entries that are off by more than
          1e-6 of ``scale``.

        Args:
            residual: r = y - A G(z), (B, m), 0 where nothing was observed; NaN without a code.
            observed: the number of observed entries m, (B,).
            used: u, the degrees of freedom that the fit used up, (B,).
            scale: the size of entries without noise, (B,). No outlier may set it, or it would hide itself.
        """
        r = np.abs(residual)
        known = np.isfinite(r).all(axis=1)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            if self.kind == "gaussian":
                p = chdtrc(_degrees_left(observed, used), (np.where(r > 0, r / self.level, 0.0) ** 2).sum(axis=1))
            elif self.kind == "uniform":
                p = np.where(r.max(axis=1) <= self.level * (1 + 1e-9), 1.0, 0.0)
            elif self.kind == "outliers":
                outliers = (r > _OUTLIER * scale[:, None]).sum(axis=1)
                p = bdtrc(outliers - 1.0, observed, self.level)
            else:
                p = np.full(len(r), np.nan)
        # A code whose output is not finite explains nothing; where there is no code nothing is judged.
        unjudged = np.isnan(r).all(axis=1) | (self.kind == "unknown")
        return np.asarray(np.where(known, p, np.where(unjudged, np.nan, 0.0)))


def _degrees_left(observed: npt.NDArray[np.int64], used: Array) -> Array:
    """m - u, or m where the fit takes them all."""
    return np.where(observed > used, observed - used, observed)
