"""Read a PyTorch module or function as a network.

A module becomes layers in three steps: ``torch.fx`` traces it (:func:`_traced`), :func:`~._chain_reader.read_chain`
follows the trace from the code to the output and takes its layers from the tables of
:mod:`~unrelu.loaders._operation_tables`, and the outputs of these layers are compared with those of the module. What is
no chain is kept as it is, by :func:`~unrelu.models.torch_opaque.opaque`.
"""

from __future__ import annotations

import copy
import inspect
import math
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from unrelu.errors import ModelError, UnsupportedModelError
from unrelu.loaders._chain_reader import LayerGraph, code_shape, read_chain
from unrelu.loaders._graph_recorder import FixedBatchModule, is_program, read_program
from unrelu.loaders._operation_tables import known
from unrelu.loaders._pass_through import read_branches
from unrelu.loaders._torch_operations import BATCHES
from unrelu.models.affine import Shape
from unrelu.models.generator import NamedGenerator
from unrelu.models.module_copies import replica
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.reduced_precision import with_rounding
from unrelu.models.torch_callables import (
    CalledModule,
    FunctionModule,
    GeneratorCall,
    Output,
    accepts,
    as_module,
    evaluated,
    running,
)
from unrelu.models.torch_opaque import computes_the_same, opaque
from unrelu.runtime.devices import usable
from unrelu.runtime.host import computing, forkable_lock

# Heights and widths (or lengths) of a code that are tried if a module begins with a convolution.
_SIDES = range(1, 17)

_Convolution = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d
# One trace at a time: torch.fx patches nn.Module for the process, and a second trace would keep the patch.
_tracing = forkable_lock()


@computing()
def from_torch(
    module: Callable[..., Any],
    latent_shape: int | tuple[int, ...] | None = None,
    *,
    output: Output = None,
    inputs: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
) -> Network | OpaqueNetwork | NamedGenerator:
    r"""Read the layers :math:`\phi_d(A_d \cdots \phi_1(A_1 z + b_1) \cdots + b_d)` of a PyTorch module.

    The module may be an ``nn.Sequential``, a nested one, or any module whose ``forward`` is a chain of layers that
    ``torch.fx`` can trace. It is read in evaluation mode, in float64. It is not changed; weights are copied.

    Any other module (it branches, has operations that are neither affine maps nor known activations, or cannot be
    traced) becomes an :class:`~unrelu.models.opaque_network.OpaqueNetwork`, which "auto", "lm", "adam" and
    "gradient_descent" invert. A trial comes first: the module must map each code of a batch to finite numbers,
    independently of the other codes, to the same numbers each time, and its derivatives must agree with finite
    differences. A copy of the module is evaluated, in float64. A function that ``torch.fx`` can trace is copied, too,
    with all modules and tensors that it calls; any other function is called as it is, in the first of the types
    float64, float32, float16 and bfloat16 that it takes.

    Args:
        module: the generator: a module, a bound method of one such as ``model.decode``, a function of a tensor (also a
            lambda or a partial), a program of ``torch.jit``, or an ``ExportedProgram`` or its ``module()``. Layers are
            the modules in :data:`unrelu.loaders._operation_tables.MODULES`, the functions and tensor methods that do
            the same, reshaping, cropping, padding with zeros, and adding or multiplying by constants.
        latent_shape: shape of one latent code without the batch axis, e.g. ``(100, 1, 1)``; an integer k means
            ``(k,)``. None infers (k,): the only number of entries that a layer takes, or that the code is reshaped
            from, with which the module runs. A convolution fits any height and width, so the shape must be passed if
            the first layer is one: ``(in_channels, 1, 1)`` for a DCGAN.
        output: selects one output of a module that returns several: an attribute or key, ``"sample"``, an index, or a
            function of everything that it returns. A list of names and numbers, ``["mean", "scale"]``, or a dictionary
            of names, numbers and functions by name, ``{"mean": 0, "log scale": lambda x: x[1].log()}``, selects
            several: the output is these named parts (``net.parts``), flattened, one after the other.
        inputs: further inputs by name, ``{"c": one_hot}``, held fixed. A tensor whose first axis is 1 is one entry of
            a batch; any other tensor is an entry without the batch axis. Both are repeated for every code. A number
            is passed as it is; an integer, if the module does not take it so, as the tensor of a label,
            ``{"label": 3}``. For all else pass a function, ``lambda z: module(z, grid)``.
        device: where the generator and searches on it are computed, e.g. "cuda"; None is the CPU, wherever the module
            is. A function is called with codes there.

    Raises:
        OptionError: ``output`` or ``inputs`` has a wrong type, or ``device`` is not available.
        UnsupportedModelError: the module is neither a chain of layers nor a differentiable generator; the message
            says what breaks the chain and what failed in the trial.
        ModelError: the module is in training mode, shapes do not fit, weights are not finite, or ``latent_shape`` is
            needed; the message suggests shapes that the module accepts.

    Source: equation (3) of the paper.

    >>> import torch, unrelu
    >>> net = unrelu.from_torch(torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.ReLU()), latent_shape=(2,))
    >>> net.output_shape
    (5,)
    """
    place = torch.device("cpu") if device is None else usable(device)
    call = GeneratorCall.parse(output, inputs)
    given = None if latent_shape is None else code_shape(latent_shape)
    module, given = _opened(module, given)
    body = as_module(module, call)
    _check(body.body if isinstance(body, CalledModule) else body)
    # Functions know best where they are computed; modules are moved once they are read.
    first = place if any(isinstance(m, FunctionModule) for m in body.modules()) else torch.device("cpu")
    # Random numbers that the module draws must not advance the caller's generator.
    with torch.random.fork_rng(devices=[]):
        network = with_rounding(_network(body, call.unread, given, first), body)
        named: Network | OpaqueNetwork | NamedGenerator = network
        if isinstance(body, CalledModule) and isinstance(call.output, Mapping):
            named = network.with_parts(_parts(body, network))
    return named.to(device=place) if named.device != place else named


def _opened(given: Any, shape: Shape | None) -> tuple[Callable[..., Any], Shape | None]:
    """The module or function inside of what was passed, and the shape of its codes if that says it."""
    if isinstance(given, torch.export.ExportedProgram):
        given = given.module()
    if is_program(given):
        program, own = read_program(given)
        if shape not in (None, own):
            raise ModelError(f"latent_shape={shape}, but the program takes codes of shape {own}; leave it out")
        return program, own
    if not callable(given) or isinstance(given, type):
        what = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        remedy = "build the module, and load its weights by module.load_state_dict"
        raise ModelError(
            f"from_torch takes a torch.nn.Module or a function of a tensor, got {what}; "
            f"{remedy if isinstance(given, type | Mapping) else 'for files use unrelu.load'}"
        )
    given = getattr(given, "_orig_mod", given)  # the module inside torch.compile's wrapper
    given = given.module if isinstance(given, nn.DataParallel) else given
    parts = [getattr(given, name, None) for name in ("encoder", "decoder")]
    if isinstance(given, nn.Module) and all(isinstance(part, nn.Module) for part in parts):
        name = type(given).__name__
        more = ", or model.decode where that does more," if callable(getattr(given, "decode", None)) else ""
        raise ModelError(
            f"the {name} has an encoder ({type(parts[0]).__name__}) and a decoder ({type(parts[1]).__name__}), and a "
            f"generator maps codes to outputs: pass model.decoder{more} as unrelu.from_torch(model.decoder, "
            "latent_shape=...)"
        )
    return given, shape


def _parts(module: CalledModule, network: Network | OpaqueNetwork) -> dict[str, Shape]:
    """The shapes of the named parts of an output.

    Raises:
        UnsupportedModelError: a function cannot be called, although its trace could be read.
    """
    z = torch.zeros(2, *network.latent_shape, dtype=torch.float64, device=network.device)
    found = evaluated(module, z)
    called: Any = found
    if isinstance(found, FunctionModule):
        called, z = found.function, z.to(found.dtype)
    try:
        parts: dict[str, Shape] = called.parts(z)
    except RuntimeError as error:
        raise UnsupportedModelError(
            f"the shapes of the parts are not known, as the function raises {type(error).__name__}: {error}; let it "
            "compute all in one precision, by module.double() and tensors in float64"
        ) from error
    return parts


def _network(
    module: nn.Module, unread: str | None, given: Shape | None, device: torch.device
) -> Network | OpaqueNetwork:
    """The module as a chain of layers, or as it is; ``unread`` says why its layers cannot be known."""
    try:
        if unread:
            raise UnsupportedModelError(unread)
        graph, batches = _traced(module)
    except UnsupportedModelError as error:
        if given is None:
            raise UnsupportedModelError(
                f"{error}; or pass latent_shape=, to use the module without its layers"
            ) from error
        return opaque(module, given, str(error), device)
    shape = given or _latent_shape(graph, module)
    function = isinstance(module.body if isinstance(module, CalledModule) else module, FunctionModule)
    copied = _copied(module, graph) if function else None
    try:
        chain = read_chain([graph] * 2, shape, batches)
        found = chain if isinstance(chain, Network) else read_branches([graph] * 2, shape, batches)
        if isinstance(found, Network) and computes_the_same(partial(_forward, found), module, shape, device):
            return found
        reason = str(chain)
        if isinstance(chain, Network):
            reason = "its layers have other outputs: it changes values in place, draws random numbers or counts calls"
        if copied is not None and computes_the_same(running(copied), module, shape, device):
            return opaque(copied, shape, reason)
        return opaque(module, shape, reason, device)
    except ModelError as error:
        if given is not None:
            raise
        raise type(error)(f"{error} (latent_shape was taken to be {shape}; pass latent_shape= if it is not)") from error


def _forward(network: Network, z: Tensor) -> Tensor:
    return network.forward(z.flatten(1)).reshape(len(z), *network.output_shape)


def _copied(function: nn.Module, layers: LayerGraph) -> CalledModule:
    """The trace of a function as a module, which can be copied with all modules and tensors that it calls."""
    graph = copy.deepcopy(layers.graph)
    for node in graph.nodes:
        node.type = None  # an annotation, which may be a text that cannot be pickled
    return CalledModule(fx.GraphModule(layers.root, graph), title=str(function.title))


# --- the trace --------------------------------------------------------------------------------------------------------


class _Tracer(fx.Tracer):
    """Records supported modules as single nodes. Modules and tensors that a function uses become those of the root."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        # During a trace, torch.fx intercepts the module calls of all threads.
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return known(m) or super().is_leaf_module(m, module_qualified_name)

    def path_of_module(self, mod: nn.Module) -> str:
        paths = cast(dict[nn.Module, str], self.submodule_paths)
        if mod not in paths:
            name = f"used_{len(paths)}"
            self.root.add_module(name, mod)
            for inner, m in mod.named_modules():
                paths.setdefault(m, f"{name}.{inner}" if inner else name)
        return paths[mod]

    def to_bool(self, obj: fx.Proxy) -> bool:
        # Tutorials write ``if z.is_cuda and self.ngpu > 1``; here codes are on the CPU.
        if obj.node.target is getattr and obj.node.args[1] == "is_cuda":
            return False
        return bool(super().to_bool(obj))

    def create_arg(self, a: Any) -> Any:
        if not isinstance(a, Tensor):
            return super().create_arg(a)
        name = next((name for name, held in self.root.named_buffers() if held is a), None)
        if name is None:
            name = f"traced_constant_{len(list(self.root.buffers(recurse=False)))}"
            self.root.register_buffer(name, a)
        return self.create_node("get_attr", name, (), {})


def _traced(module: nn.Module) -> tuple[LayerGraph, tuple[int, int]]:
    """The trace of a module without nodes that its output does not take, and two sizes of batches that it may have."""
    batches: tuple[int, int] = BATCHES
    if isinstance(module, FixedBatchModule):
        batches = (module.batch, module.batch)
        module = module.body
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedModelError("it is a program of TorchScript, whose layers are not read")
    root = replica(module).eval()
    if known(root):
        root = nn.Sequential(root)
    optional = {
        name: p.default
        for name, p in inspect.signature(type(root).forward).parameters.items()
        if p.default is not inspect.Parameter.empty
    }
    try:
        with _tracing, torch.no_grad(), warnings.catch_warnings():
            # Arguments keep their defaults, so the assertion that PyTorch fails to add is not needed.
            warnings.filterwarnings("ignore", message="Was not able to add assertion")
            graph = _Tracer().trace(root, optional or None)
    # The module's own forward runs here, on proxies for tensors; any exception means that it cannot be traced.
    except Exception as error:
        raise UnsupportedModelError(
            f"torch.fx cannot trace {type(root).__name__}.forward ({type(error).__name__}: {error}). Control flow "
            "that depends on the data has no place in a chain of layers; pass the layers as an nn.Sequential, or "
            "export the model to ONNX and use unrelu.load"
        ) from error
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    return LayerGraph(root, graph), batches


# --- the latent shape -------------------------------------------------------------------------------------------------


def _latent_shape(layers: LayerGraph, module: nn.Module) -> Shape:
    """Return (k,), where k is the only number of entries that a layer takes with which the module runs.

    If it runs with none, k is what the first layer takes, and what does not fit is said where the layers are read.

    Raises:
        ModelError: no layer says k, the first one is a convolution, or the module runs with several.
    """
    layers.code()  # its errors come first
    trial = running(module)
    counts: list[int] = []
    for node in layers.graph.nodes:
        m = layers.module(node)
        if isinstance(m, _Convolution) and not counts:
            raise ModelError(_suggested_shapes(trial, f"module {str(node.target)!r} ({type(m).__name__})", m))
        counts += _count(node, m)
    if not counts:
        raise ModelError("no Linear or convolution module tells the shape of a latent code; pass latent_shape=")
    runs = [k for k in dict.fromkeys(counts) if accepts(trial, (k,))]
    if len(runs) > 1:
        shapes = " and ".join(f"latent_shape={k}" for k in runs)
        raise ModelError(f"the module runs with {shapes}; pass the one that it was trained with")
    return (*runs, *counts)[:1]


def _count(node: fx.Node, m: nn.Module | None) -> list[int]:
    """The number of entries that a layer takes, or that are reshaped to a stated size; empty for other nodes."""
    sizes: Any = ()
    if isinstance(m, nn.Linear):
        sizes = (m.in_features,)
    elif isinstance(m, nn.Unflatten):
        sizes = m.unflattened_size
    elif node.target in ("view", "reshape", torch.reshape):
        sizes = node.args[1:]
        sizes = sizes[0][1:] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes[1:]
    stated = bool(sizes) and all(isinstance(n, int) and n > 0 for n in sizes)
    return [math.prod(sizes)] if stated else []


def _suggested_shapes(trial: nn.Module, place: str, first: _Convolution) -> str:
    """A message with what the first layer takes, a convolution, and shapes that the module accepts."""
    axes = 2 if isinstance(first, nn.Conv2d | nn.ConvTranspose2d) else 1
    sizes = "height, width" if axes == 2 else "length"
    shapes = ((first.in_channels, *(side,) * axes) for side in _SIDES)
    accepted = list(islice((shape for shape in shapes if accepts(trial, shape)), 2))
    examples = " or ".join(f"latent_shape={shape}" for shape in accepted) or "latent_shape="
    ending = ", which the module accepts" if len(accepted) == 1 else ", or another: what it was trained with"
    return (
        f"the first layer with weights, {place}, takes codes of shape ({first.in_channels}, {sizes}) and does not say "
        f"of which size; pass {examples}{ending}"
    )


# --- checks of the module ---------------------------------------------------------------------------------------------


def _check(module: nn.Module) -> None:
    """Refuse a module whose attributes do not determine its forward pass."""
    for path, m in module.named_modules():
        place = f"module {path!r} ({type(m).__name__})" if path else f"the module ({type(m).__name__})"
        if isinstance(m, torch.jit.ScriptModule):
            continue  # hooks and modes are part of the compiled program
        if any(t.is_meta for t in (*m.parameters(recurse=False), *m.buffers(recurse=False))):
            raise ModelError(f"{place} is on the meta device, where tensors have no numbers; load its weights first")
        if m.training and _random_in_training(m):
            raise ModelError(f"{place} is in training mode; call module.eval() first")
        if isinstance(m, LazyModuleMixin) and m.has_uninitialized_params():  # type: ignore[misc]
            raise ModelError(f"{place} has no weights yet; run the module on an input once")
        before, after = (m.__dict__[name] for name in ("_forward_pre_hooks", "_forward_hooks"))
        normal = known(m) and all(isinstance(h, WeightNorm | SpectralNorm) for h in before.values())
        if (before and not normal) or after or "forward" in m.__dict__:
            raise UnsupportedModelError(f"{place} has forward hooks or a patched forward; remove them first")


def _random_in_training(m: nn.Module) -> bool:
    kinds = _BatchNorm | _DropoutNd | _InstanceNorm | _SpectralNorm
    return isinstance(m, kinds) or any(isinstance(h, SpectralNorm) for h in m.__dict__["_forward_pre_hooks"].values())
