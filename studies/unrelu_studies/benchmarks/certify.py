"""``unrelu.certify`` against HiGHS's own mixed-integer solver: how often the best code is proved best, in what time.

Times are seconds of the processor, so that what else the machine does counts little; limits and the histories of bounds
go by the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from unrelu._certify import certify
from unrelu._invert import invert
from unrelu.certification.certificate import Certificate
from unrelu.certification.certified_chain import CertifiedChain, chain_of
from unrelu.certification.certifying import enclosure
from unrelu.certification.node_program import Limits
from unrelu.certification.proof import GAP
from unrelu.measurements import read_operator
from unrelu_studies.benchmarks.certify_cells import CELLS, CertifyCell, Drawn, draw
from unrelu_studies.benchmarks.certify_mip import MipRun, prove_by_mip
from unrelu_studies.benchmarks.instances import REPORT_SEED
from unrelu_studies.benchmarks.one_core import one_core

Array = npt.NDArray[np.float64]

# The codes that HiGHS looks among: |z_i| up to this, which it is a little faster with; ours looks among all.
MIP_BOX = 8.0
# Moments of a proof that are kept for the picture.
_MOMENTS = 40


@dataclass(frozen=True)
class CertifyPlan:
    """How much is measured.

    Attributes:
        instances: observations of each cell.
        compared: the first ones, which HiGHS gets too.
        boxes: the first ones, which get a box.
        time_limit, mip_limit: seconds for each observation, ours and HiGHS.
    """

    instances: int = 30
    compared: int = 10
    boxes: int = 5
    time_limit: float = 10.0
    mip_limit: float = 60.0


QUICK = CertifyPlan(instances=3, compared=2, boxes=1, mip_limit=5.0)


@dataclass(frozen=True)
class Boxed:
    """The box of all codes with errors up to the noise.

    Attributes:
        seconds: for the box alone.
        width: median of its sides.
        contains: whether z* is in it.
        proved: whether every side is bounded by its own multipliers and not by the radius of all codes.
    """

    seconds: float
    width: float
    contains: bool
    proved: bool


@dataclass(frozen=True)
class Proved:
    """One observation.

    Attributes:
        cell: its name.
        index: its number in the cell.
        active: outputs with y_j > noise.
        invert_seconds, found: of ``auto``, and the largest error of its code.
        seconds: of ``certify`` without a box, the inversion excluded.
        lower, upper, gap, status, nodes: of the certificate.
        everywhere: whether the bounds are about all codes, however large.
        verified, verify_seconds: what ``verify`` says of the certificate, without a solver.
        history: (seconds, lower, upper) on the way.
        box: of the first observations.
        mip: what HiGHS did, of the first observations.
    """

    cell: str
    index: int
    active: int
    invert_seconds: float
    found: float
    seconds: float
    lower: float
    upper: float
    gap: float
    status: str
    nodes: int
    everywhere: bool
    verified: bool
    verify_seconds: float
    history: tuple[tuple[float, float, float], ...]
    box: Boxed | None
    mip: MipRun | None

    @property
    def closed(self) -> bool:
        """Whether the gap is, by bounds that were checked."""
        return self.verified and self.gap <= GAP

    @property
    def agrees(self) -> bool | None:
        """Whether both name the same smallest error, to GAP; None unless both have closed their gap."""
        if self.mip is None or not (self.mip.solved and self.closed):
            return None
        return abs(self.mip.upper - self.upper) <= GAP * max(self.upper, self.mip.upper)

    @property
    def contradicts(self) -> bool:
        """Whether a code of HiGHS has an error below our lower bound, or ours one below that of HiGHS."""
        if self.mip is None:
            return False
        return self.mip.upper < self.lower * (1 - GAP) or self.upper < self.mip.lower * (1 - GAP)


def measure_certify(
    plan: CertifyPlan,
    seed: int = REPORT_SEED,
    chosen: Sequence[CertifyCell] = CELLS,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Iterator[list[Proved]]:
    """The observations of each cell, in one process and on one core.

    Args:
        plan: how much.
        seed: of the observations.
        chosen: the cells.
        progress: called with the name of a cell, the observations done and their total.
    """
    drawn = [draw(cell, plan.instances, seed) for cell in chosen]
    _compile(drawn[0], chosen[0])
    for cell, observations in zip(chosen, drawn, strict=True):
        found = []
        for index in range(plan.instances):
            progress(f"noise {cell.name}", index, plan.instances)
            with one_core():
                found.append(_observation(cell, observations, index, plan))
        yield found


def _compile(drawn: Drawn, cell: CertifyCell) -> None:
    """What a process does only once, before anything is timed: the kernels, and the samples that ``auto`` draws."""
    result = invert(drawn.network, drawn.y[0], noise=f"uniform:{cell.noise}")
    certify(drawn.network, drawn.y[0], result, time_limit=60.0)


def _observation(cell: CertifyCell, drawn: Drawn, index: int, plan: CertifyPlan) -> Proved:
    network, y = drawn.network, drawn.y[index]
    begin = time.process_time()
    result = invert(network, y, noise=f"uniform:{cell.noise}")
    invert_seconds = time.process_time() - begin
    begin = time.process_time()
    certificate = cast(Certificate, certify(network, y, result, time_limit=plan.time_limit, box=False))
    seconds = time.process_time() - begin
    begin = time.process_time()
    verified = certificate.verify(network, y)
    verify_seconds = time.process_time() - begin
    chain = chain_of(network, read_operator(None, network.output_shape, y.shape), y, "linf")
    z = np.asarray(result.z)
    return Proved(
        cell.name,
        index,
        active=int((y > cell.noise).sum()),
        invert_seconds=invert_seconds,
        found=chain.objective(z),
        seconds=seconds,
        lower=certificate.lower,
        upper=certificate.upper,
        gap=certificate.gap,
        status=str(certificate.status),
        nodes=certificate.nodes,
        everywhere=math.isinf(certificate.radius),
        verified=verified,
        verify_seconds=verify_seconds,
        history=_thinned(certificate),
        box=_boxed(chain, cell, drawn.truth[index], plan) if index < plan.boxes else None,
        mip=prove_by_mip(chain, z, plan.mip_limit, MIP_BOX) if index < plan.compared else None,
    )


def _thinned(certificate: Certificate) -> tuple[tuple[float, float, float], ...]:
    """Moments about evenly apart in the logarithm of the time, the first and the last among them."""
    moments = certificate.history
    if not moments:
        return ()
    seconds = np.array([moment.seconds for moment in moments])
    at = np.searchsorted(seconds, np.geomspace(max(seconds[0], 1e-6), max(seconds[-1], 1e-6), _MOMENTS))
    kept = np.unique([0, *np.minimum(at, len(moments) - 1), len(moments) - 1])
    return tuple((moments[i].seconds, moments[i].lower, moments[i].upper) for i in kept)


def _boxed(chain: CertifiedChain, cell: CertifyCell, truth: Array, plan: CertifyPlan) -> Boxed:
    begin = time.process_time()
    proof = enclosure(chain, cell.noise, Limits(time.perf_counter() + plan.time_limit))
    box = proof.box(chain)
    seconds = time.process_time() - begin
    radius = proof.regions(chain).full.radius
    inside = (box[:, 0] <= truth) & (truth <= box[:, 1])
    proved = bool((box[:, 0] > -radius).all() and (box[:, 1] < radius).all())
    return Boxed(seconds, float(np.median(box[:, 1] - box[:, 0])), bool(inside.all()), proved)
