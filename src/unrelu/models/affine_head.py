"""Affine heads: what scales and offsets outputs, entry by entry, by amounts that are affine in nuisance parameters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

from unrelu.runtime.array_types import Array, Index
from unrelu.runtime.streams import stream

# A function is a head that differs from it by at most this fraction of the largest values at draws, of an output each.
_ALIKE = 1e-6
# The number of draws of each size, and the sizes: of outputs, in units of typical ones, and of latent coordinates.
_DRAWS, _SIZES = 8, ((1e-2, 1.0), (1e2, 3.0))


class AffineHead(NamedTuple):
    r"""Outputs changed by p parameters: a scale, an offset, templates with amplitudes, a calibration of some outputs.

    .. math:: x' = (s_0 + S^T \tau) \circ x + c_0 + C^T \tau, \qquad
              \tau_i = \Phi(m_i + d_i u_i) \ \text{or} \ m_i + d_i u_i

    Attributes:
        scale, offset: s_0 and S, c_0 and C, (1 + p, n) each.
        latent: for each parameter whether tau is without Phi, m and d, (p, 3).
    """

    scale: Array
    offset: Array
    latent: Array

    def tau(self, u: Array) -> Array:
        """1 and tau, (B, 1 + p), at latent coordinates u (B, p)."""
        v = self.latent[:, 1] + self.latent[:, 2] * u
        return np.column_stack([np.ones(len(u)), np.where(self.latent[:, 0] > 0, v, ndtr(v))])

    def values(self, x: Array, u: Array) -> Array:
        """x', (B, n), for outputs x (B, n) and latent coordinates u (B, p)."""
        return np.asarray((self.tau(u) @ self.scale) * x + self.tau(u) @ self.offset)

    def outputs(self, index: Index | slice) -> AffineHead:
        """The head of some of the outputs."""
        return self._replace(scale=self.scale[:, index], offset=self.offset[:, index])

    @property
    def uniform(self) -> bool:
        """Whether all outputs have one scale, so that A x' = s A x + A c for a matrix A."""
        return bool(np.ptp(self.scale, axis=1).max() <= _ALIKE * np.abs(self.scale).max())


class HeadedChain(NamedTuple):
    """A generator of z and u that is a chain of layers, G(z), followed by affine heads of u, first to last.

    Attributes:
        network: G, a :class:`~unrelu.Network`, whose module imports this one.
        heads: none where the generator is G.
    """

    network: Any
    heads: tuple[AffineHead, ...] = ()

    def in_units(self, network: Any, shift: Array, factor: Array, unit: Array) -> HeadedChain:
        """This with u = shift + factor t and outputs multiplied by ``unit``, (n,); ``network`` is that of t.

        Parameters whose factor is 0 are constant, and no parameters any more.
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
    """f(x, u) as affine heads, first to last, as far as its values at draws show; empty if it is none.

    Args:
        function: f, of outputs x and latent coordinates u in one vector, (B, n + p); scale and offset come last.
        size: typical sizes of x, (n,).
        latent: see :class:`AffineHead`.
        ends: the parameters where tau is 0 and where it is 1, (2, p).
        names: those of the parameters, (p,).
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
    # A user's function may refuse outputs that its generator never has, with any error, and return another number.
    with suppress(Exception), np.errstate(all="ignore"):
        if others:  # x' at two x for 1 + p points tau gives scale and offset there, which are affine in tau
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
