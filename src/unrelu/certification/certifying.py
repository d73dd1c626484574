"""Certification of an observation: bounds on the smallest error, and a box of all codes that explain it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from unrelu.certification._branch_and_bound import BranchAndBound
from unrelu.certification.certificate import Certificate, conclusions, determination
from unrelu.certification.certified_chain import CertifiedChain, chain_of
from unrelu.certification.node_program import Limits
from unrelu.certification.proof import BoundsAt, Proof, ProofStatus
from unrelu.measurements import Operator
from unrelu.measurements.working_units import Coordinates, in_working_units
from unrelu.models.generator import Generator
from unrelu.parameters.latent_bounds import Bounds
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import flush_subnormals
from unrelu.runtime.run_control import now

# The level exceeds eps by these shares of eps and of the data, so that errors of exactly eps are below it.
_MORE, _OF_DATA = 1e-9, 1e-12
# The level if both are zero.
_LEAST = 1e-280
# Stored bounds are looser by this share, so that they can be verified on machines that add in another order.
_ROOM = 1e-13
# The largest share of the time for the box.
_SHARE = 0.3


def enclosure(chain: CertifiedChain, eps: float, limits: Limits) -> Proof:
    """Prove a box of all codes with F(z) <= eps. Where the limits are met, only the radius bounds a coordinate."""
    level = max(_LEAST, eps * (1 + _MORE) + _OF_DATA * chain.scale)
    search = BranchAndBound(chain, limits, level=level)
    search.begin()
    search.probe()
    return search.proof(search.box_rows())


@flush_subnormals(False)
def prove(
    network: Generator, operator: Operator, y: Array, z: Array, *, norm: str, eps: float, box: bool, limits: Limits,
    bounds: Bounds | None = None,
) -> Certificate:  # fmt: skip
    """Certify one observation (m,), starting from a code (k,). With a finite eps and ``box``, the box comes first.

    ``bounds`` have two finite ends for every coordinate and contain the code.

    Raises:
        UnsupportedModelError: this network cannot be certified.
    """
    units = in_working_units(network, operator, None if bounds is None else Coordinates.of(bounds)).units
    given = chain_of(network, operator, y, norm, bounds)
    exponents = units.layers if given.depth == len(units.layers) else (*units.layers, units.data)
    chain = given.in_units(exponents)
    if chain is None:
        # A number would be rounded in working units.
        chain, exponents = given, (0,) * given.depth
    unit = exponents[-1]
    with np.errstate(over="ignore", under="ignore"):
        eps = float(np.ldexp(eps, unit))
    enclosed = _enclosed(chain, eps, limits) if box and math.isfinite(eps) else None
    interval, box_proof, box_radius = enclosed or (None, None, math.inf)
    begin = now()
    z = min((z, chain.at_bounds(z)), key=chain.objective)
    search = BranchAndBound(chain, limits, z)
    search.run()
    # An exact fit needs no proof.
    proof = search.proof() if search.visited and not search.exact else None
    seconds = now() - begin
    lower, radius = (0.0, math.inf) if proof is None else (proof.lower(chain) * (1 - _ROOM), proof.radius(chain))
    # A bound from before the last fall of the level may exceed the level.
    history = tuple(
        BoundsAt(at, nodes, *np.ldexp([min(low, lower), high], -unit).tolist())
        for at, nodes, low, high in search.history
    )
    rank, determined = determination(network, search.z, operator, bounds)
    certificate = Certificate(
        lower, search.upper, search.z, search.stopped or ProofStatus.ROUNDING, norm, determined, rank, eps, interval,
        min(radius, box_radius), search.visited, seconds, chain.scale, proof, box_proof, history, exponents,
        None if bounds is None else np.stack([bounds.lower, bounds.upper], axis=1),
    )  # fmt: skip
    status = next((status for status, holds in conclusions(certificate, chain) if holds), certificate.status)
    return replace(certificate.rescaled(-unit, network.latent_shape), status=status)


def _enclosed(chain: CertifiedChain, eps: float, limits: Limits) -> tuple[Array, Proof, float] | None:
    """Enclose all codes with errors up to eps; return the box, its proof and its radius, None if the time ran out."""
    if limits.over():
        return None
    largest, begin = replace(chain, norm="linf"), now()
    some = replace(limits, end=min(limits.end, begin + _SHARE * (limits.end - begin)))
    proof = enclosure(largest, eps, some)
    box, radius = proof.box(largest), proof.radius(largest)
    if math.isfinite(radius) and some.over():
        return None
    box = box + _ROOM * np.where(np.isfinite(box), np.abs(box), 0.0) * [-1, 1]
    if chain.bounds is not None:
        box = np.stack([np.maximum(box[:, 0], chain.bounds.lower), np.minimum(box[:, 1], chain.bounds.upper)], axis=1)
    return box, proof, radius
