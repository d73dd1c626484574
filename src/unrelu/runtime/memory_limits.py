"""How many numbers of eight bytes are held in memory at once, by purpose. A GPU with more memory holds more.

Larger limits cost memory, smaller ones time. Limits for reading files are in :mod:`unrelu.runtime.file_reading`.
"""

from __future__ import annotations

import torch

from unrelu.runtime.machine import memory

# Outputs of one layer in a forward pass; values of eight layers in a gradient or a Jacobian of the objective.
LAYER_NUMBERS, OBJECTIVE_NUMBERS = 2**23, 2**24
# Bytes of the tangents of one tensor, in a generator without known layers. Half and twice this limit are slower.
TANGENT_BYTES = 2**24
# Jacobians in double precision, for the rank and for covariances.
JACOBIAN_NUMBERS = 2**22
# Samples of a generator.
SAMPLE_NUMBERS = 2**26
# Perturbations that are drawn at once; inverse Hessians in a refinement; curvatures in a step of a mixture.
PERTURBATION_NUMBERS, HESSIAN_NUMBERS, CURVATURE_NUMBERS = 2**22, 2**23, 2**24
# Reconstructions of posterior draws.
RECONSTRUCTION_NUMBERS = 2**27
# Entries of a dense matrix made from a layer or an operator; entries of a layer's matrix in a proof.
DENSE_NUMBERS, PROOF_NUMBERS = 2**22, 2**24
# The limits are for a host, which is assumed to have at least this many bytes.
_OF_A_HOST = 2**31


def at_once(limit: int, each: int, device: torch.device | None = None) -> int:
    """Return how many items of ``each`` numbers the limit allows at once, at least one.

    The limit grows in proportion to the memory of the device, to keep a GPU busy. It does not depend on the free
    memory, because sums over batches of different sizes round differently.
    """
    times = 1 if device is None else max(1, memory(device) // _OF_A_HOST)
    return max(1, limit * times // max(1, each))
