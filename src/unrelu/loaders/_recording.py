"""Record the PyTorch operators that a function calls for a batch of codes, as a graph.

The function is run, and every operator whose arguments depend on the codes becomes a node. All other values are
constants. Modules, functions, ``torch.jit`` programs and ONNX graphs are all recorded in this way.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from unrelu.errors import ModelError, UnreluError, UnsupportedModelError
from unrelu.opaque.opaque_network import plain_attention
from unrelu.opaque.torch_callables import CalledModule, FunctionModule
from unrelu.opaque.torch_opaque import raised
from unrelu.runtime.array_types import Shape

# Operators that use only the shape of a tensor.
_OF_SHAPES = {"ones_like", "zeros_like", "full_like", "new_ones", "new_zeros", "new_full"}
# The largest number of axes of an array that all NumPy versions support.
_MOST_AXES = 32
# The place in the model that is being recorded, where the reader knows it.
_place: ContextVar[str] = ContextVar("place", default="")


@contextmanager
def at_place(place: str) -> Iterator[None]:
    """Name the part of a model that runs inside, such as ``node 'x' (Relu)``; add the name to errors as a note."""
    token = _place.set(place)
    try:
        yield
    except Exception as error:
        error.add_note(place)
        raise
    finally:
        _place.reset(token)


def recorded(module: nn.Module, codes: Tensor) -> fx.Graph:
    """Record the operators that ``module`` calls for a batch of codes, (B, ...), from the codes to the output.

    The arguments of a node are other nodes or constants. Its ``meta`` has the ``shape`` of its tensor, with the batch
    axis, the ``dtype``, and the ``place`` in the model.

    Raises:
        ModelError: an operator does not fit the shape of its input.
        UnsupportedModelError: the module cannot be run, extracts numbers from tensors that depend on the code,
            writes into them, or does not return one tensor that depends on the code.
    """
    recording = Recording(codes, module)
    try:
        with torch.no_grad(), plain_attention(), recording:
            output = module(codes)
    except UnreluError:
        raise
    except Exception as error:  # the user's forward runs here
        raise UnsupportedModelError(raised(error, tuple(codes.shape))) from error
    return recording.ending_in(output)


def name_of(node: fx.Node) -> str:
    """Return the name of a node's operator, without the underscore of in-place operators."""
    function: Any = getattr(node.target, "overloadpacket", node.target)
    return str(function.__name__).removesuffix("_") if callable(function) else ""


class Recording(TorchDispatchMode):
    """A mode that records the operators that this thread calls with tensors that depend on ``codes``.

    Attributes:
        codes: the batch, (B, ...).
    """

    def __init__(self, codes: Tensor, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.codes = codes
        self.graph = fx.Graph()
        body = module.body if isinstance(module, CalledModule) else module
        self._names = {m: path for path, m in body.named_modules()}
        self._running: list[nn.Module] = []
        # The node of each tensor that depends on the codes; None if the tensor was changed through another one.
        self._nodes: Any = WeakTensorKeyDictionary()
        self._changed = set[StorageWeakRef]()
        self._keep(codes, self.graph.placeholder("z"), "the code")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, since nothing is compiled under this mode: PyTorch need not load its compiler."""
        return False

    def __enter__(self) -> Recording:
        thread = threading.get_ident()

        def enter(m: nn.Module, *_: Any) -> None:
            if threading.get_ident() == thread:
                self._running.append(m)

        def leave(m: nn.Module, *_: Any) -> None:
            if threading.get_ident() == thread:
                self._running.pop()

        self._hooks = (
            hooks.register_module_forward_pre_hook(enter),
            hooks.register_module_forward_hook(leave, always_call=True),
        )
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = (x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
        live = [x for x in tensors if self._node(x, name) is not None]
        if not live or name in _OF_SHAPES:
            return func(*args, **kwargs)
        # Output sizes that depend on the code are numbers, too (nonzero). Indexing has such sizes only with a mask.
        sized = torch.Tag.dynamic_output_shape in func.tags
        masks = any(x.dtype in (torch.bool, torch.uint8) for x in live)
        if name in ("_local_scalar_dense", "is_nonzero", "equal") or (sized and (name != "index" or masks)):
            raise UnsupportedModelError(
                f"{self.place(name)} takes a number out of a tensor that depends on the code (item, numpy, if): a "
                "chain of layers has no control flow"
            )
        try:
            result = func(*args, **kwargs)
        except (RuntimeError, IndexError, ValueError) as error:
            raise ModelError(
                f"{self.place(name)} does not fit an input of shape {self._shown(live[0].shape)}: {error}"
            ) from error
        self._append(func, name, args, kwargs, result)
        return result

    def _append(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        """Append a node for a call, and one for each result if there are several."""
        written = args[0] if func._schema.is_mutable else None  # noqa: SLF001 -- its public name
        mapped, named = tree_map(lambda x: (self._node(x, name) or x) if isinstance(x, Tensor) else x, (args, kwargs))
        node = self.graph.create_node("call_function", func, tuple(mapped), named, name)
        place = node.meta["place"] = self.place(name)
        if written is not None:
            if "out" in kwargs or not isinstance(result, Tensor):
                raise UnsupportedModelError(f"{place} writes into several tensors, or into out=")
            storage = _storage(result)
            for x in list(self._nodes):
                if _storage(x) == storage:
                    self._nodes[x] = None
            self._changed.add(storage)
        if isinstance(result, Tensor):
            self._keep(result, node, place)
            return
        for i, each in enumerate(result if isinstance(result, tuple | list) else ()):
            if isinstance(each, Tensor):
                self._keep(each, self.graph.call_function(operator.getitem, (node, i)), place)

    def _keep(self, x: Tensor, node: fx.Node, place: str) -> None:
        if x.dim() > _MOST_AXES:
            raise UnsupportedModelError(f"{place} makes a tensor of {x.dim()} axes; up to {_MOST_AXES} are read")
        node.meta |= {"shape": tuple(x.shape), "place": place, "dtype": x.dtype}
        self._nodes[x] = node

    def _node(self, x: Tensor, name: str) -> fx.Node | None:
        """Return the node of a tensor; None for a constant.

        Raises:
            UnsupportedModelError: the tensor was changed in place, so its value is no longer known.
        """
        node: fx.Node | None = self._nodes.get(x)
        if x.layout is torch.strided and node is None and (x in self._nodes or _storage(x) in self._changed):
            raise UnsupportedModelError(f"{self.place(name)} takes a tensor that was changed in place")
        return node

    def place(self, name: str) -> str:
        """Return the current place: the part named by the reader, else the running module, else the operator."""
        if place := _place.get():
            return place
        m = self._running[-1] if self._running else None
        if m is None or isinstance(m, FunctionModule | CalledModule) or self._names.get(m) == "":
            return f"operation {name!r}"
        path = self._names.get(m)
        return f"the {type(m).__name__}" if path is None else f"module {path!r} ({type(m).__name__})"

    def _shown(self, shape: Shape) -> Shape:
        """Return a shape without its batch axis."""
        return tuple(shape[1:]) if len(shape) and shape[0] == len(self.codes) else tuple(shape)

    def ending_in(self, output: Any) -> fx.Graph:
        """Complete the graph with ``output``; remove the nodes that it does not depend on."""
        if isinstance(output, tuple | list) and len(output) == 1:
            output = output[0]
        if not isinstance(output, Tensor) or output not in self._nodes:
            several = isinstance(output, tuple | list | dict)
            what = "several values" if several else "a value that its input does not affect"
            raise UnsupportedModelError(f"the module returns {what}; a generator returns one tensor")
        self.graph.output(self._node(output, "output"))
        _take_from_parts(self.graph)
        self.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
        return self.graph


def _take_from_parts(graph: fx.Graph) -> None:
    """Replace a slice of a concatenation that lies in one part by a slice of that part.

    A module with several heads often concatenates their outputs. In ``module(z)[:, :84]``, all heads but the first may
    then be dead code. The remaining graph may be a chain of layers, and costs less.
    """
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.slice.Tensor):
        while (part := _part_of(node)) is not None:
            source, axis, taken = part
            if len(taken) == source.meta["shape"][axis]:
                node.replace_all_uses_with(source)
                break
            node.args = (source, axis, taken.start, taken.stop, taken.step)


def _part_of(node: fx.Node) -> tuple[fx.Node, int, range] | None:
    """Find the part of a concatenation that contains a slice; return the part, the axis and the entries, or None."""
    given: tuple[Any, ...] = (*node.args, *(0, None, None, 1)[len(node.args) - 1 :])
    joined, axis, *ends = given
    if not isinstance(joined, fx.Node) or joined.target is not torch.ops.aten.cat.default:
        return None
    parts: Any
    along: Any
    shape, (parts, along) = joined.meta["shape"], (*joined.args, 0)[:2]
    axis, taken, begin = axis % len(shape), range(shape[axis % len(shape)])[slice(*ends)], 0
    for part in parts if along % len(shape) == axis else ():
        inside = part.meta["shape"] if isinstance(part, fx.Node) else part.shape
        end = begin + (inside[axis] if len(inside) == len(shape) else 0)  # an empty part may have any shape
        if taken and begin <= taken[0] and taken[-1] < end:
            there = range(taken.start - begin, taken[-1] + 1 - begin, taken.step)
            return (part, axis, there) if isinstance(part, fx.Node) else None
        begin = end
    return None


def _storage(x: Tensor) -> StorageWeakRef:
    """Return a weak reference to the memory of a tensor, which its views share."""
    return StorageWeakRef(x.untyped_storage())  # type: ignore[no-untyped-call]
