"""Lemmas on single neurons: the smallest and largest pre-activation that the relaxation allows, one program each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unrelu.proofs.chain import Chain
from unrelu.proofs.lemmas import HIGH, LOW, Lemma, region_of
from unrelu.proofs.limits import Limits
from unrelu.proofs.program import Basis, Program
from unrelu.proofs.relaxation import Relaxation
from unrelu.proofs.safe_bounds import Region, settled

__all__ = ["decided", "neuron_lemmas"]

Signs = npt.NDArray[np.int8]


def decided(chain: Chain, region: Region) -> Signs:
    """The signs that the intervals of a region decide."""
    signs = np.where(region.low >= 0, 1, np.where(region.high <= 0, -1, 0))
    return np.where(chain.bent, signs, 0).astype(np.int8)


def neuron_lemmas(chain: Chain, level: float, lemmas: list[Lemma], limits: Limits) -> list[Lemma]:
    """Two more lemmas for every undecided hidden neuron, for the largest error.

    From the last hidden layer to the first: bounds of a layer also bound those before it.

    Args:
        chain: the observation.
        level: of F.
        lemmas: known so far; the new ones follow from them.
        limits: when to stop.
    """
    region = region_of(chain, level, lemmas).sharp
    relaxation = Relaxation(chain, region, decided(chain, region))
    program, none = Program(relaxation, limits), np.zeros(chain.ends[-1], dtype=np.int8)
    first = program.solve(none, cutoff=level)
    if first.closed or not first.finished:
        return []
    found: list[Lemma] = []
    basis: Basis = first.basis
    for neuron in relaxation.undecided[::-1]:
        extra = np.zeros(chain.ends[-1])
        for kind, sign in ((LOW, 1.0), (HIGH, -1.0)):
            if limits.over():
                return found
            extra[neuron] = sign
            solved = program.extreme(none, basis, level, extra=extra)
            if solved is None:
                basis = first.basis
                continue
            basis = solved.basis
            found.append(Lemma(kind, int(neuron), settled(chain, region, solved.multipliers, extra)))
    return found
