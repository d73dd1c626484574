"""Copies of modules, which can be run, traced or changed without affecting the original."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unrelu.errors import ModelError


def replica(module: nn.Module) -> nn.Module:
    """A copy that shares the parameters of the module and has all else for itself."""
    return _copied(module, Tensor.clone, {id(parameter): parameter for parameter in module.parameters()})


def frozen(module: nn.Module, dtype: torch.dtype | None = None, device: torch.device | None = None) -> nn.Module:
    """A copy with converted tensors of its own; none of them requires a gradient. None converts nothing."""

    def convert(tensor: Tensor, copy: bool = False) -> Tensor:
        kind = dtype
        if kind is not None and not tensor.is_floating_point():
            kind = kind.to_complex() if tensor.is_complex() else None
        return tensor.to(dtype=kind, device=device, copy=copy)

    # Tensors are converted as they are copied, those in attributes too; then what own copies of modules have left.
    twin = _copied(module, lambda tensor: convert(tensor, copy=True), {})
    twin._apply(convert)  # type: ignore[no-untyped-call] # noqa: SLF001 -- complex too
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def _copied(module: nn.Module, tensor: Callable[[Tensor], Tensor], made: dict[int, Any]) -> nn.Module:
    try:
        with torch.no_grad(), _Copying(tensor):
            return copy.deepcopy(module, made)
    except Exception as error:  # Python does not say what it raises for objects that cannot be copied
        raise ModelError(
            f"the {type(module).__name__} cannot be copied ({type(error).__name__}: {error}); pass a function, such as "
            "lambda z: module(z), which is called as it is"
        ) from error


class _Copying(TorchFunctionMode):
    """Says how ``copy.deepcopy`` copies tensors. By itself it refuses those that were computed from parameters."""

    def __init__(self, tensor: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._tensor = tensor

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by PyTorch in place of each of its functions."""
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        given, made = args
        if id(given) not in made:
            made[id(given)] = self._tensor(given.detach())
        return made[id(given)]
