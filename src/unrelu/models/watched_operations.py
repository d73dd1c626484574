"""The operations of PyTorch that a function calls: watched one by one, and their multiplications counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls ``look(function, args, kwargs, result=result)`` after every operation of PyTorch in this thread."""

    def __init__(self, look: Callable[..., Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.look = look

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled under this mode, so PyTorch need not load its compiler."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.look(func, args, kwargs or {}, result=result)
        return result


def tensors(result: Any) -> list[Tensor]:
    """The tensors in the result of one operation."""
    return [x for x in (result if isinstance(result, tuple | list) else (result,)) if isinstance(x, Tensor)]


def multiplications(function: Callable[[], Any], of_number: int = 0) -> int:
    """The number of multiplications of a call, in matrix products and convolutions; counted, not timed.

    Each number that another operation computes counts for ``of_number`` of them.
    """
    total = 0

    def add(operation: Any, args: Any, kwargs: Any, result: Any) -> None:
        nonlocal total
        formula = flop_registry.get(operation.overloadpacket)
        if formula:
            total += int(formula(*args, **kwargs, out_val=result)) // 2
        elif not operation.is_view:
            total += of_number * sum(x.numel() for x in tensors(result))

    with torch.no_grad(), Operations(add):
        function()
    return total
