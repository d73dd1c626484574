"""Hashes of networks and operators. Files contain them, which keeps numbers from being used with another network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from unrelu.measurements.operators import Operator
from unrelu.models.generator import Generator
from unrelu.opaque.opaque_network import OpaqueNetwork
from unrelu.runtime.streams import stream

# The hash of a generator without known layers uses its outputs at this many codes, about 64 entries of each output.
_CODES, _OUTPUTS = 2, 64
_PLAIN = (str, int, float, bool, type(None), torch.dtype, torch.device)


def fingerprint(value: Any) -> str:
    """Return the SHA-256, in hexadecimal, of a value: fields of dataclasses, structure and state of modules, ..."""
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    value = value.plain if isinstance(value, Generator) else value  # names change no number
    yield ("Tensor" if isinstance(value, Tensor) else type(value).__name__).encode()
    if isinstance(value, Tensor) and value.is_sparse:
        yield from _parts((value.shape, value.indices(), value.values()))
    elif isinstance(value, Tensor):
        yield from _parts(value.detach().cpu().numpy())
    elif isinstance(value, np.ndarray | np.generic):
        yield f"{value.dtype.str} {value.shape}".encode()
        yield value.tobytes()
    elif sparse.issparse(value):
        csr = sparse.csr_array(value, copy=True)
        csr.sum_duplicates()
        yield from _parts((csr.shape, csr.data, csr.indices.astype(np.int64), csr.indptr.astype(np.int64)))
    elif isinstance(value, Mapping):
        yield from _parts([(key, value[key]) for key in sorted(value)])
    elif isinstance(value, tuple | list):
        yield str(len(value)).encode()
        yield from chain.from_iterable(map(_parts, value))
    elif isinstance(value, nn.Module):
        yield repr(value).encode()
        yield from _parts({**dict(value.named_parameters()), **dict(value.named_buffers())})
    elif isinstance(value, Operator) and not (
        is_dataclass(type(value)) and type(value).__module__.startswith("unrelu.")
    ):
        # The image of a vector identifies code, also a user's. Its last digits differ between machines and are dropped.
        image = value.values(stream("fingerprint").standard_normal((1, value.n)))[0]
        yield from _parts((value.shape, [f"{number:.6e}" for number in image]))
    elif isinstance(value, OpaqueNetwork):
        # Outputs identify the generator's code, and data that it keeps outside its parameters.
        double = value.to(torch.float64, "cpu")
        codes = value.within(stream("fingerprint").standard_normal((_CODES, value.latent_dim)))
        outputs = double(codes).reshape(_CODES, -1)
        rounded = [f"{number:.6e}" for number in outputs[:, :: max(1, outputs.shape[1] // _OUTPUTS)].ravel()]
        yield from _parts((value.module, value.latent_shape, value.dtype, value.device, rounded))
        yield from _parts(value.domain and value.domain.ends)
    elif is_dataclass(value):
        yield from _parts({field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, _PLAIN):
        yield repr(torch.device("cpu") if isinstance(value, torch.device) else value).encode()  # the same on a GPU
    else:
        raise TypeError(f"a {type(value).__name__} has no fingerprint")
