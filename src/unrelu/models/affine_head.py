"""Affine heads scale and offset outputs entry by entry. Scale and offset are affine in the nuisance parameters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.streams import stream

# A head replaces a function if they differ, in each output, by at most this fraction of its largest value at the draws.
_ALIKE = 1e-6
# The number of draws for each pair of sizes, and these pairs: the size of outputs relative to typical outputs, and the
# size of latent coordinates.
_DRAWS, _SIZES = 8, ((1e-2, 1.0), (1e2, 3.0))


class AffineHead(NamedTuple):
    r"""A change of outputs by p parameters: a scale, an offset, template amplitudes, or a calibration of some outputs.

    .. math:: x' = (s_0 + S^T \tau) \circ x + c_0 + C^T \tau, \qquad
              \tau_i = \Phi(m_i + d_i u_i) \ \text{or} \ m_i + d_i u_i

    Attributes:
        scale, offset: s_0 and S, c_0 and C, (1 + p, n) each.
        latent: three numbers for each parameter, (p, 3): 1 if tau is without Phi, else 0; m; and d.
    """

    scale: Array
    offset: Array
    latent: Array

    def tau(self, u: Array) -> Array:
        """Compute (1, tau), (B, 1 + p), at latent coordinates u (B, p)."""
        v = self.latent[:, 1] + self.latent[:, 2] * u
        return np.column_stack([np.ones(len(u)), np.where(self.latent[:, 0] > 0, v, ndtr(v))])

    def values(self, x: Array, u: Array) -> Array:
        """Compute x', (B, n), from outputs x (B, n) and latent coordinates u (B, p)."""
        return np.asarray((self.tau(u) @ self.scale) * x + self.tau(u) @ self.offset)

    def outputs(self, index: Index | slice) -> AffineHead:
        """Restrict the head to some of the outputs."""
        return self._replace(scale=self.scale[:, index], offset=self.offset[:, index])

    @property
    def uniform(self) -> bool:
        """Whether all outputs have one scale. For any matrix A, A x' is then s A x + A c."""
        return bool(np.ptp(self.scale, axis=1).max() <= _ALIKE * np.abs(self.scale).max())


class HeadedChain(NamedTuple):
    """A generator of z and u: a chain of layers, G(z), followed by affine heads that depend on u, first to last.

    Attributes:
        network: G, a :class:`~unrelu.Network`. The type is Any, since the module of Network imports this one.
        heads: the affine heads; empty if the generator is G alone.
    """

    network: Any
    heads: tuple[AffineHead, ...] = ()

    def in_units(self, network: Any, shift: Array, factor: Array, unit: Array) -> HeadedChain:
        """Substitute u = shift + factor t, multiply outputs by ``unit``, (n,), and replace the network by ``network``.

        Parameters with a factor of 0 become constants.
        """
        ends, free = self.heads[0].latent, factor != 0
        tau = self.heads[0].tau(shift[None])[:, 1:] * ~free
        latent = np.column_stack([ends[:, 0], ends[:, 1] + ends[:, 2] * shift, ends[:, 2] * factor])[free]

        def left(values: Array) -> Array:
            return np.concatenate([values[:1] + tau @ values[1:], values[1:][free]])

        *heads, last = (AffineHead(left(head.scale), left(head.offset), latent) for head in self.heads)
        return HeadedChain(network, (*heads, last._replace(scale=unit * last.scale, offset=unit * last.offset)))


def affine_heads(
    function: Callable[[Array], Array], size: Array, latent: Array, ends: Array, names: tuple[str, ...]
) -> tuple[AffineHead, ...]:
    """Write f(x, u) as affine heads, first to last. Return () if they differ from f at random draws.

    Args:
        function: f, a function of outputs x and latent coordinates u in one vector, (B, n + p). It applies scale and
            offset last.
        size: typical sizes of x, (n,).
        latent: see :class:`AffineHead`.
        ends: the values of the parameters at tau = 0 and at tau = 1, (2, p).
        names: the names of the parameters, (p,).
    """
    n, p = len(size), len(names)

    def values(x: Array, u: Array) -> Array:
        return function(np.concatenate([x, u], axis=1)).reshape(len(x), n)

    last = AffineHead(np.zeros((1 + p, n)), np.zeros((1 + p, n)), latent)
    last.scale[0] = 1.0
    for target, name in ((last.scale, "scale"), (last.offset, "offset")):
        for i in range(p):
            if names[i] == name:
                target[0], target[1 + i] = ends[0, i], ends[1, i] - ends[0, i]
    others = set(names) - {"scale", "offset"}
    heads = (last,) if len(others) < p else ()
    # A function may raise any error at outputs that the generator never has, and may return another number of outputs.
    with suppress(Exception), np.errstate(all="ignore"):
        if others:  # scale and offset are affine in tau: x' at two x and 1 + p points tau determines them
            u = 1.0 - 2 * np.eye(1 + p, p, -1)
            tau = last.tau(u)
            low, high = (
                (values(np.tile(x, (1 + p, 1)), u) - tau @ last.offset) / (tau @ last.scale) for x in (-size, size)
            )
            inverse = np.linalg.inv(tau).astype(np.float64)
            first = AffineHead(inverse @ ((high - low) / (2 * size)), inverse @ ((high + low) / 2), latent)
            heads = first, *heads
        rng = stream("affine head")
        for outputs, coordinates in _SIZES:
            x = outputs * size * rng.standard_normal((_DRAWS, n))
            u = coordinates * rng.standard_normal((_DRAWS, p))
            wanted, found = values(x, u), x
            for head in heads:
                found = head.values(found, u)
            if not (np.abs(found - wanted) <= _ALIKE * np.abs(wanted).max(axis=0)).all():
                return ()
        return heads
    return ()
