"""How much is held in memory at once, by purpose. Numbers are of eight bytes; a GPU of more memory holds more at once.

Larger limits cost memory, smaller ones time. Limits on files that are read are in :mod:`unrelu.runtime.file_reading`.
"""

from __future__ import annotations

import torch

from unrelu.runtime.devices import memory

# Outputs of one layer in a forward pass, and values of eight layers in a gradient or a Jacobian of the objective.
LAYER_NUMBERS, OBJECTIVE_NUMBERS = 2**23, 2**24
# Bytes of the tangents of one tensor of a generator without known layers. Half as many and twice as many are slower.
TANGENT_BYTES = 2**24
# Jacobians in double precision, for the rank and for covariances.
JACOBIAN_NUMBERS = 2**22
# Samples of a generator.
SAMPLE_NUMBERS = 2**26
# Perturbations that are drawn at once, inverse Hessians of a refinement, and curvatures of a step of a mixture.
PERTURBATION_NUMBERS, HESSIAN_NUMBERS, CURVATURE_NUMBERS = 2**22, 2**23, 2**24
# Reconstructions of the draws of a posterior.
RECONSTRUCTION_NUMBERS = 2**27
# Entries of a dense matrix: of a layer or an operator that was none, and of a layer in a proof.
DENSE_NUMBERS, PROOF_NUMBERS = 2**22, 2**24
# The limits are those of a host, of which this many bytes are taken for granted.
_OF_A_HOST = 2**31


def at_once(limit: int, each: int, device: torch.device | None = None) -> int:
    """How many items of ``each`` numbers the limit allows at once, at least one.

    The limit grows in proportion to the memory of the device, so that a GPU has enough to do. It does not depend on the
    memory that is free, because sums of batches of other sizes are rounded differently.
    """
    times = 1 if device is None else max(1, memory(device) // _OF_A_HOST)
    return max(1, limit * times // max(1, each))
