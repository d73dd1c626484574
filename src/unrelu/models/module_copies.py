"""Copies of modules, with tensors of their own, and of the functions in them."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Uses(NamedTuple):
    """What a function uses, by name: of enclosing functions, by position of its defaults, by keyword, of its file."""

    closure: dict[Any, Any]
    defaults: dict[Any, Any]
    keywords: dict[Any, Any]
    scope: dict[Any, Any]

    @classmethod
    def of(cls, function: FunctionType) -> Uses:
        """Variables without a value are left out, and of the file's all but modules, tensors, and what holds them."""
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        closure = {name: cell.cell_contents for name, cell in cells if _filled(cell)}
        defaults, keywords = dict(enumerate(function.__defaults__ or ())), dict(function.__kwdefaults__ or {})
        return cls(closure, defaults, keywords, _named_globals(function))


class Rebound:
    """A function that uses other objects than the ones it was written with; pickled with these, by the function's name.

    Args:
        function: the function.
        uses: what it uses instead.
    """

    def __init__(self, function: FunctionType, uses: Uses) -> None:
        self.function, self.uses = function, uses

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        return self._bound(*args, **kwargs)

    @cached_property
    def _bound(self) -> FunctionType:
        own, uses = self.function, self.uses
        cells = zip(own.__code__.co_freevars, own.__closure__ or (), strict=True)
        closure = tuple(CellType(uses.closure[name]) if name in uses.closure else cell for name, cell in cells)
        bound = FunctionType(
            own.__code__, {**own.__globals__, **uses.scope}, own.__name__, tuple(uses.defaults.values()), closure
        )
        bound.__kwdefaults__ = uses.keywords
        return bound

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "uses": self.uses}


_FUNCTIONS = (functools.partial, FunctionType, MethodType, Rebound)
_MAPPINGS, _COLLECTIONS = (dict, OrderedDict), (list, tuple, set)


def replica(module: nn.Module, tensor: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
    """A copy that leaves the original alone when it is run, traced or changed.

    Functions that a module holds are copied with the tensors that they use, and with those of its modules.

    Args:
        module: what to copy.
        tensor: makes the copy's tensors, called once for each tensor however often it is used; by default parameters
            are shared and all others cloned.
    """
    twin: nn.Module = _Copies(module, tensor or _shared).of(module)
    return twin


def frozen(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A copy with tensors of its own, converted, none of which asks for a gradient."""

    def convert(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else dtype.to_complex() if tensor.is_complex() else tensor.dtype
        value = tensor.detach().to(dtype=kind, device=device, copy=True)
        return nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value

    return replica(module, convert)


def _shared(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, nn.Parameter) or tensor.requires_grad else tensor.clone()


class _Copies:
    """What has been copied of a module so far: each thing once, however often it is used."""

    def __init__(self, module: nn.Module, tensor: Callable[[Tensor], Tensor]) -> None:
        self._tensor = tensor
        self._made: dict[int, Any] = {}
        self._twins: dict[nn.Module, nn.Module] = {}
        self._add(module)
        for m, twin in self._twins.items():
            if not isinstance(m, torch.jit.ScriptModule):
                twin.__dict__.update({name: self.of(value) for name, value in m.__dict__.items()})

    def _add(self, module: nn.Module) -> None:
        """Empty twins of a module and of those in it; programs of TorchScript are copied as a whole."""
        if module in self._twins:
            return
        if isinstance(module, torch.jit.ScriptModule):
            twin = copy.deepcopy(module)
            self._twins[module] = twin if self._tensor is _shared else _converted(twin, self._tensor)
            return
        self._twins[module] = object.__new__(type(module))
        for child in module.children():
            self._add(child)

    def of(self, value: Any) -> Any:
        """The copy of a value; itself where it is neither tensors nor what holds them."""
        if isinstance(value, nn.Module):
            return self._twins.get(value, value)
        if isinstance(value, (Tensor, *_FUNCTIONS)) or is_callable_object(value):
            if id(value) not in self._made:
                self._made[id(value)] = value  # of a function that calls itself
                self._made[id(value)] = self._tensor(value) if isinstance(value, Tensor) else self._function(value)
            return self._made[id(value)]
        if isinstance(value, np.ndarray):
            return value.copy()
        if type(value) in (tuple, set):
            return type(value)(map(self.of, value))
        if type(value) in (list, *_MAPPINGS):
            return self._container(value)
        return value

    def _container(self, value: Any) -> Any:
        """The copy of a list or a dictionary, which may hold itself."""
        if id(value) not in self._made:
            twin = self._made[id(value)] = type(value)()
            if isinstance(twin, list):
                twin.extend(map(self.of, value))
            else:
                twin.update((key, self.of(held)) for key, held in value.items())
        return self._made[id(value)]

    def _function(self, function: Any) -> Any:
        """A function with copies of what it uses; itself where it uses nothing that is copied."""
        if isinstance(function, functools.partial):
            keywords = {name: self.of(value) for name, value in function.keywords.items()}
            return functools.partial(self.of(function.func), *map(self.of, function.args), **keywords)
        if isinstance(function, MethodType):
            return MethodType(function.__func__, self._owner(function.__self__))
        if isinstance(function, Rebound):
            return self._rebound(function.function, function.uses)
        if isinstance(function, FunctionType):
            return self._rebound(function, Uses.of(function))
        return self._owner(function)

    def _rebound(self, function: FunctionType, uses: Uses) -> Any:
        """A function with copies of what it uses; itself where nothing is copied."""
        copies = [{name: self.of(value) for name, value in held.items()} for held in uses]
        same = all(new[name] is old[name] for new, old in zip(copies, uses, strict=True) for name in old)
        return function if same else Rebound(function, Uses(*copies))

    def _owner(self, owner: Any) -> Any:
        """The object of a method: a module's twin, or a copy of an object that holds tensors or modules."""
        held = getattr(owner, "__dict__", None)
        if isinstance(owner, nn.Module | type) or not isinstance(held, dict):
            return self.of(owner)
        own = {name: self.of(value) for name, value in held.items()}
        if all(own[name] is held[name] for name in held):
            return owner
        twin = copy.copy(owner)
        twin.__dict__.update(own)
        return twin


def _converted(program: torch.jit.ScriptModule, tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    converted: nn.Module = program._apply(tensor)  # type: ignore[no-untyped-call]
    return converted


# --- what functions use -----------------------------------------------------------------------------------------------


def is_callable_object(value: object) -> bool:
    """Whether it is called by a method of its class, written in Python, and has attributes of its own."""
    own = not isinstance(value, nn.Module | type) and isinstance(getattr(value, "__dict__", None), dict)
    return own and isinstance(getattr(type(value), "__call__", None), FunctionType)  # noqa: B004 -- which method it is


def parts_of(value: Any) -> list[Any]:
    """What a function may use: the object of a method, what a partial was given, closures, defaults, named globals.

    Of lists, dictionaries and objects that can be called: what they hold.
    """
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        owner = value.__self__
        inside = [] if isinstance(owner, nn.Module | type) else list(getattr(owner, "__dict__", {}).values())
        return [owner, *inside]
    if isinstance(value, FunctionType):
        return [part for held in Uses.of(value) for part in held.values()]
    if type(value) in _COLLECTIONS:
        return list(value)
    if type(value) in _MAPPINGS or is_callable_object(value):
        return list((value if type(value) in _MAPPINGS else vars(value)).values())
    return []


def _filled(cell: CellType) -> bool:
    """Whether a variable of an enclosing function has a value."""
    with suppress(ValueError):
        return cell.cell_contents is not cell
    return False


def _named_globals(function: FunctionType) -> dict[Any, Any]:
    """The globals that a function's code names: modules, tensors, what holds them, and functions of the same file."""
    scope = function.__globals__
    found = {name: scope[name] for name in _names(function.__code__) if name in scope}
    return {
        name: value
        for name, value in found.items()
        if _holds_tensors(value)
        or (isinstance(value, FunctionType) and value.__globals__ is scope and value is not function)
    }


def _holds_tensors(value: Any, seen: frozenset[int] = frozenset()) -> bool:
    """Whether it is a module or a tensor, or a list, a dictionary or an object that can be called with one in it."""
    if isinstance(value, nn.Module | Tensor):
        return True
    holds = type(value) in (*_COLLECTIONS, *_MAPPINGS) or is_callable_object(value)
    inside = seen | {id(value)}  # some hold themselves
    return holds and any(_holds_tensors(part, inside) for part in parts_of(value) if id(part) not in inside)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
