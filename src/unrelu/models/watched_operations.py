"""Watch the PyTorch operations that a function calls, and count their multiplications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that calls ``look(function, args, kwargs, result=result)`` after each PyTorch operation in this thread."""

    def __init__(self, look: Callable[..., Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.look = look

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: nothing is compiled under this mode, so PyTorch need not load its compiler."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.look(func, args, kwargs or {}, result=result)
        return result


def tensors(result: Any) -> list[Tensor]:
    """Return the tensors in the result of one operation."""
    return [x for x in (result if isinstance(result, tuple | list) else (result,)) if isinstance(x, Tensor)]


def multiplications(function: Callable[[], Any], of_number: int = 0) -> int:
    """Count the multiplications of a call in matrix products and convolutions; nothing is timed.

    Each number that another operation computes counts as ``of_number`` multiplications.
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
