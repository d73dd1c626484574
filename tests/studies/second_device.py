"""A second device for tests: tensors in host memory that PyTorch takes for those of another device, "second".

An operation on tensors of both devices fails, as it does on a GPU. Operations whose result the host has to wait for are
counted. A backend is registered for the life of a process, so this is for processes of their own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "second"
# Operations whose result, or its shape, the host has to know; those by a mask are counted too.
_WAITED_FOR = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim"}
# Operations that copy from one device to another.
_COPIES = {"copy_", "_to_copy"}

waited_for: Counter[str] = Counter()


class Second(Tensor):
    """A tensor of the device, and the tensor of the host that has its memory."""

    memory: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, memory: Tensor) -> Second:
        found: Second = Tensor._make_wrapper_subclass(
            cls, memory.size(), strides=memory.stride(), storage_offset=memory.storage_offset(), dtype=memory.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip
        found.memory = memory
        return found

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, *args, **(kwargs or {}))


def _host(value: Any) -> Any:
    return value.memory if isinstance(value, Second) else value


def _run(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Every operation of the device."""
    name = operation._schema.name.removeprefix("aten::")
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    own = [x for x in given if isinstance(x, Second)]
    strangers = [x for x in given if not isinstance(x, Second) and x.dim()]
    if own and strangers and name not in _COPIES:
        raise RuntimeError(f"{operation}: tensors are on {NAME} and on {strangers[0].device}")
    indices = args[1] if name.startswith(("index", "_index", "_unsafe_index")) and len(args) > 1 else ()
    masks = [x for x in indices if isinstance(x, Tensor) and x.dtype == torch.bool] if isinstance(indices, list) else ()
    if name in _WAITED_FOR or masks:
        waited_for[name] += 1
    place = kwargs.get("device")
    to_host = place is not None and torch.device(place).type != NAME
    if place is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    results = operation(*tree_map(_host, args), **tree_map(_host, kwargs))
    changed = {id(x.memory): x for x in own} if operation._schema.is_mutable else {}
    for x in changed.values():
        if x.shape != x.memory.shape:  # the result of a function that creates tensors gets its shape when it is filled
            x.data = Second(x.memory)

    def returned(x: Any) -> Any:
        if not isinstance(x, Tensor) or to_host or not (own or place):
            return x
        if x._is_zerotensor():  # a tangent of zero without memory
            return Second(torch.zeros(x.shape, dtype=x.dtype))
        return changed[id(x)] if id(x) in changed else Second(x)

    return tree_map(returned, results)


def register() -> None:
    """Make the device known to PyTorch."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    _library.fallback(_run, "PrivateUse1")


_library = torch.library.Library("_", "IMPL")
