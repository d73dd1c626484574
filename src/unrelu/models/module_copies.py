"""Copies of modules and of the functions that they hold, with tensors of their own."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn


def replica(module: nn.Module, tensor: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """A copy that can be run, traced or changed without affecting the original.

    Functions held by the module are copied with the tensors and modules that they use.

    Args:
        module: the module to copy.
        tensor: returns the copy of a tensor; called once for each tensor, however often that is used. By default,
            parameters are shared and all other tensors are cloned.
    """
    twin: nn.Module = _Copies(module, tensor or _shared).of(module)
    return twin


def frozen(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A copy with converted tensors of its own; none of them requires a gradient."""

    def convert(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else dtype.to_complex() if tensor.is_complex() else tensor.dtype
        value = tensor.detach().to(dtype=kind, device=device, copy=True)
        return nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value

    return replica(module, convert)


def in_double(module: nn.Module) -> nn.Module:
    """A frozen copy in double precision on the CPU."""
    return frozen(module, torch.float64, torch.device("cpu"))


def used(value: Any, functions: bool = True, seen: set[int] | None = None) -> Iterator[nn.Module | Tensor]:
    """The modules and tensors that a function uses, or that a container or an object holds.

    Args:
        value: the function, container or object.
        functions: whether to look into functions.
        seen: ids of values already visited, as a container may hold itself.
    """
    seen = set() if seen is None else seen
    if isinstance(value, nn.Module | Tensor):
        yield value
    elif id(value) not in seen and (functions or not isinstance(value, _FUNCTIONS)):
        seen.add(id(value))
        for part in _apart(value)[0]:
            yield from used(part, functions, seen)


_COLLECTIONS, _MAPPINGS = (list, tuple, set), (dict, OrderedDict)


class Rebound:
    """A function with other objects in place of those that it uses; pickled as the function's name and these objects.

    Args:
        function: the function.
        uses: the other objects, by kind and name as in :func:`_uses`.
    """

    def __init__(self, function: FunctionType, uses: dict[Any, Any]) -> None:
        self.function, self.uses = function, uses

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with the replaced objects."""
        return self._bound(*args, **kwargs)

    @cached_property
    def _bound(self) -> FunctionType:
        own, kinds = self.function, ("closure", "default", "keyword", "global")
        closure, defaults, keywords, scope = (
            {name: value for (kind, name), value in self.uses.items() if kind == wanted} for wanted in kinds
        )
        cells = zip(own.__code__.co_freevars, own.__closure__ or (), strict=True)
        bound = FunctionType(
            own.__code__, {**own.__globals__, **scope}, own.__name__, tuple(defaults.values()),
            tuple(CellType(closure[name]) if name in closure else cell for name, cell in cells),
        )  # fmt: skip
        bound.__kwdefaults__ = keywords
        return bound

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "uses": self.uses}


_FUNCTIONS = (functools.partial, FunctionType, MethodType, Rebound)


def _shared(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, nn.Parameter) or tensor.requires_grad else tensor.clone()


class _Copies:
    """The copies made of a module's contents: each object is copied once, however often it is used."""

    def __init__(self, module: nn.Module, tensor: Callable[[Tensor], Tensor]) -> None:
        self._tensor = tensor
        self._made: dict[int, Any] = {}
        self._twins: dict[nn.Module, nn.Module] = {}
        self._add(module)
        for m, twin in self._twins.items():
            if not copied_whole(m):
                twin.__dict__.update({name: self.of(value) for name, value in m.__dict__.items()})

    def _add(self, module: nn.Module) -> None:
        """Create empty twins of a module and its submodules."""
        if module in self._twins:
            return
        if copied_whole(module):
            twin = self._twins[module] = copy.deepcopy(module)
            tensors = ([*m.parameters(), *m.buffers()] for m in (twin, module))
            for held, own in zip(*tensors, strict=True):
                held.data = (new := self._tensor(own)).data
                if not new.requires_grad:
                    held.detach_()
            return
        self._twins[module] = object.__new__(type(module))
        for child in module.children():
            self._add(child)

    def of(self, value: Any) -> Any:
        """The copy of a value; the value itself if it holds no tensors."""
        if isinstance(value, nn.Module):
            return self._twins.get(value, value)
        if isinstance(value, np.ndarray):
            return value.copy()
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, Tensor):
            self._made[id(value)] = self._tensor(value)
            return self._made[id(value)]
        parts, rebuilt = _apart(value)
        if type(value) in (list, *_MAPPINGS):
            twin = self._made[id(value)] = type(value)()  # before its parts are copied: it may hold itself
            new = rebuilt([self.of(part) for part in parts])
            (twin.extend if isinstance(twin, list) else twin.update)(new)
            return twin
        if parts:
            self._made[id(value)] = value  # for a function that calls itself
            copies = [self.of(part) for part in parts]
            same = all(new is old for new, old in zip(copies, parts, strict=True))
            self._made[id(value)] = value if same else rebuilt(copies)
        return self._made.get(id(value), value)


def copied_whole(module: nn.Module) -> bool:
    """Whether a module is copied as a whole: TorchScript, and classes with a ``__reduce__`` of their own, as Keras'."""
    own = type(module).__reduce__ is not nn.Module.__reduce__ and not isinstance(module, fx.GraphModule)
    return own or isinstance(module, torch.jit.ScriptModule)


# --- what functions and containers hold -------------------------------------------------------------------------------


def _apart(value: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The parts of a function, container or object, and a function that rebuilds the value from other parts.

    Partials, lists, tuples, sets, dictionaries, callable objects, functions and bound methods have parts. Other values
    have none.
    """
    if isinstance(value, functools.partial):
        n, names = 1 + len(value.args), list(value.keywords)
        parts = [value.func, *value.args, *value.keywords.values()]
        return parts, lambda new: functools.partial(*new[:n], **dict(zip(names, new[n:], strict=True)))
    if isinstance(value, MethodType):
        parts, rebuilt = _object(value.__self__)
        return parts, lambda new: MethodType(value.__func__, rebuilt(new))
    if isinstance(value, FunctionType | Rebound):
        function, uses = (value.function, value.uses) if isinstance(value, Rebound) else (value, _uses(value))
        return list(uses.values()), lambda new: Rebound(function, dict(zip(uses, new, strict=True)))
    if type(value) in _COLLECTIONS:
        return list(value), type(value)
    if type(value) in _MAPPINGS:
        return list(value.values()), lambda new: type(value)(zip(value, new, strict=True))
    if isinstance(getattr(type(value), "__call__", None), FunctionType):  # noqa: B004 -- which method it is
        return _object(value)
    return [], lambda _: value


def _object(owner: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The same for an object with attributes; a module or a class is itself the only part."""
    attributes = getattr(owner, "__dict__", None)
    if isinstance(owner, nn.Module | type) or not isinstance(attributes, dict):
        return [owner], lambda new: new[0]

    def rebuilt(new: list[Any]) -> Any:
        twin = copy.copy(owner)
        twin.__dict__.update(zip(attributes, new, strict=True))
        return twin

    return list(attributes.values()), rebuilt


def _uses(function: FunctionType) -> dict[Any, Any]:
    """The objects that a function uses, by kind and name: enclosed variables, defaults, keywords and globals.

    Variables without a value are left out. Of the globals, only modules, tensors, containers of these, and functions of
    the same file are included.
    """
    found: dict[Any, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # the variable has no value
            found["closure", name] = cell.cell_contents
    found |= {("default", i): value for i, value in enumerate(function.__defaults__ or ())}
    found |= {("keyword", name): value for name, value in (function.__kwdefaults__ or {}).items()}
    scope = function.__globals__
    for name in _names(function.__code__):
        value = scope.get(name)
        own = isinstance(value, FunctionType) and value.__globals__ is scope and value is not function
        if own or next(used(value, functions=False), None) is not None:
            found["global", name] = value
    return found


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
