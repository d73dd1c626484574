r"""Where every code that explains the observation must lie: an interval for each latent coordinate.

For \|e\|_inf <= eps the codes with F(z) <= eps are looked for. Neurons that cannot have one of their signs are decided
first, each by a branch whose other side is closed; then 2 k programs give the ends of the intervals on what is left
open.
"""

from __future__ import annotations

import numpy as np

from unrelu.proofs.chain import Chain
from unrelu.proofs.fixing import Fixing
from unrelu.proofs.lemmas import region_of
from unrelu.proofs.limits import Limits
from unrelu.proofs.proof import Proof
from unrelu.proofs.reach import first_lemmas
from unrelu.proofs.safe_bounds import Multipliers, settled

__all__ = ["enclosure"]

# The level is above eps by these shares of eps and of the data, so that errors of exactly eps are below it.
_MORE, _OF_DATA = 1e-9, 1e-12
# The level where both are zero.
_LEAST = 1e-280


def enclosure(chain: Chain, eps: float, limits: Limits) -> Proof:
    """A proof of the box of all codes with F(z) <= eps.

    Computing the intervals of all neurons first would make it only a little smaller, and take much longer.

    Args:
        chain: the observation, with the norm "linf".
        eps: the largest error.
        limits: when to stop; coordinates not reached are bounded by the radius alone.
    """
    level = max(_LEAST, eps * (1 + _MORE) + _OF_DATA * float(np.abs(chain.y).max(initial=0.0)))
    lemmas = first_lemmas(chain, level, limits.end)
    search = Fixing(chain, level, region_of(chain, level, lemmas), limits)
    search.run()
    kept, bounds = _ends(search)
    return Proof.of(chain, level, level, lemmas, search.tree, kept, bounds)


def _ends(search: Fixing) -> tuple[list[int], list[Multipliers]]:
    """The open leaf and the multipliers of its 2 k bounds; nothing if there is none."""
    if search.now is None:
        return [], []
    k, chain = search.chain.latent_dim, search.chain
    nothing = Multipliers(np.zeros(len(chain.y)), np.zeros(chain.ends[-1]))
    found, basis = [nothing] * (2 * k), search.now.basis
    for i in range(k):
        for row, sign in ((i, 1.0), (k + i, -1.0)):
            if search.limits.reached(0):
                return [search.leaf], found
            towards = np.zeros(k)
            towards[i] = sign
            solved = search.program.extreme(search.signs, basis, search.level, towards=towards)
            if solved is None:
                basis = search.now.basis
                continue
            basis = solved.basis
            sharp = search.regions.sharp.signed(search.signs)
            found[row] = settled(chain, sharp, solved.multipliers, np.zeros(chain.ends[-1]))
    return [search.leaf], found
