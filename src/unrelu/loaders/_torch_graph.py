"""Read a PyTorch module as a network: its ``torch.fx`` trace is followed from the latent code to the output.

The shape of a latent code is inferred from the trace if only one shape is possible.
"""

from __future__ import annotations

import inspect
import math
import threading
import warnings
from collections.abc import Callable, Mapping
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
from unrelu.loaders._pass_through import read_branches
from unrelu.loaders._torch_operations import BATCHES, known, mutates
from unrelu.models.affine import Shape
from unrelu.models.generator import NamedGenerator
from unrelu.models.module_copies import frozen, in_double, replica
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.models.reduced_precision import with_rounding
from unrelu.models.torch_callables import CalledModule, GeneratorCall, Output, as_module, code_name
from unrelu.models.torch_opaque import check_mode, opaque
from unrelu.runtime.devices import usable
from unrelu.runtime.host import computing, forkable_lock
from unrelu.runtime.streams import stream

_ELEMENTWISE_MODULES = (
    nn.Identity, nn.Dropout, nn.AlphaDropout, nn.BatchNorm1d, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Sigmoid, nn.Tanh,
    nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
)  # fmt: skip
# Functions and methods of tensors that keep the shape, and methods that reshape.
_ELEMENTWISE = {
    "relu", "relu_", "leaky_relu", "leaky_relu_", "elu", "gelu", "silu", "softplus", "tanh", "sigmoid", "dropout",
    "selu", "celu", "mish", "hardtanh", "hardsigmoid", "hardswish", "sin", "contiguous", "to", "float", "double",
    "clone",
}  # fmt: skip
_RESHAPES = {"view", "reshape"}
# Heights and widths (or lengths) of a code that are tried if a module begins with a convolution.
_SIDES = range(1, 17)

_Convolution = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d
# By which share of its largest output a module may differ from the network that was read from its trace. It may convert
# to single precision in between.
_AGREEMENT = 1e-5
# One trace at a time: torch.fx patches nn.Module for the process, and a second trace would keep the patch.
_tracing = forkable_lock()


@computing()
def from_torch(
    module: Callable[..., Any],
    latent_shape: int | tuple[int, ...] | None = None,
    *,
    output: Output = None,
    inputs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
) -> Network | OpaqueNetwork | NamedGenerator:
    r"""Read the layers :math:`\phi_d(A_d \cdots \phi_1(A_1 z + b_1) \cdots + b_d)` of a PyTorch module.

    The module may be an ``nn.Sequential``, a nested one, or any module whose ``forward`` is a chain of layers that
    ``torch.fx`` can trace. It is read in evaluation mode, in float64. It is not changed; weights are copied.

    Any other module (it branches, has operations that are neither affine maps nor known activations, or cannot be
    traced) becomes an :class:`~unrelu.OpaqueNetwork`, which "auto", "lm" and "gradient_descent" invert. A trial comes
    first: the module must map each code of a batch to finite numbers, independently of the other codes, to the same
    numbers each time, and its derivatives must agree with finite differences.

    Args:
        module: the generator: a module, a function of a tensor (also a lambda, a partial, or a bound method such as
            ``model.decode``), a program of ``torch.jit``, or an ``ExportedProgram`` or its ``module()``. Layers are the
            modules in :data:`unrelu.loaders._torch_operations.MODULES`, the functions and tensor methods that do the
            same, reshaping, cropping, padding with zeros, and adding or multiplying by constants. Modules and tensors
            that a function uses are copied too.
        latent_shape: shape of one latent code without the batch axis, e.g. ``(100, 1, 1)``; an integer k means
            ``(k,)``. None infers (k,) from a ``Linear(in_features=k)`` that takes the code, or from the sizes that the
            code is reshaped to. A convolution fits any height and width, so the shape must be passed if the first
            layer is one: ``(in_channels, 1, 1)`` for a DCGAN.
        output: selects one output of a module that returns several: an attribute or key, ``"sample"``, an index, or a
            function of everything that it returns. A list of names and numbers, ``["mean", "scale"]``, or a dictionary
            of names, numbers and functions by name, ``{"mean": 0, "log scale": lambda x: x[1].log()}``, selects
            several: the output is these named parts (``net.parts``), flattened, one after the other.
        inputs: further inputs by name, ``{"c": one_hot}``, held fixed. A tensor whose first axis is 1 is one entry of
            a batch; any other tensor is an entry without the batch axis. Both are repeated for every code. If the
            module accepts neither, tensors are passed as they are. An integer is passed as it is or, if the module
            does not accept it, as the tensor of a label, ``{"label": 3}``.
        seed: fixes the random numbers that the module draws by ``torch.randn``, ``rand``, their ``_like``, ``normal_``
            and ``uniform_`` (the noise inputs of a StyleGAN); every code has the same ones. With None, a module that
            draws random numbers is refused.
        device: where the generator and searches on it are computed, e.g. "cuda"; None is the CPU, wherever the module
            is.

    Raises:
        OptionError: ``output``, ``inputs`` or ``seed`` has a wrong type, or ``device`` is not available.
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
    if device is not None:
        place = usable(device)
        return from_torch(module, latent_shape, output=output, inputs=inputs, seed=seed).to(device=place)
    call = GeneratorCall.parse(output, inputs, seed)
    given = None if latent_shape is None else code_shape(latent_shape)
    if isinstance(module, torch.export.ExportedProgram):
        module = module.module()
    if is_program(module):
        module, shape = read_program(module)
        if given not in (None, shape):
            raise ModelError(f"latent_shape={given}, but the program takes codes of shape {shape}; leave it out")
        given = shape
    module = _called(module, call, given)
    return _with_parts(with_rounding(_network(module, call, given), module), module)


def _with_parts(network: Network | OpaqueNetwork, module: nn.Module) -> Network | OpaqueNetwork | NamedGenerator:
    """The network with the parts that its output consists of, if several outputs of the module were asked for."""
    if not isinstance(module, CalledModule):
        return network
    copy = network.module if isinstance(network, OpaqueNetwork) else in_double(module).eval()
    parts = cast(CalledModule, replica(copy)).parts(torch.zeros(2, *network.latent_shape, dtype=torch.float64))
    return network.with_parts(parts) if parts else network


def _network(module: nn.Module, call: GeneratorCall, given: Shape | None) -> Network | OpaqueNetwork:
    _check(module)
    body, batches = (
        (module.body, (module.batch, module.batch)) if isinstance(module, FixedBatchModule) else (module, BATCHES)
    )
    # Random numbers that the model draws must not advance the caller's generator; they differ between the two walks.
    with _tracing, torch.no_grad(), torch.random.fork_rng(devices=[]):
        root = replica(body).eval()
        if known(root):
            root = nn.Sequential(root)
        try:
            if call.unread:
                raise UnsupportedModelError(call.unread)
            if any(isinstance(m, torch.jit.ScriptModule) for m in (module, getattr(module, "body", None))):
                raise UnsupportedModelError("it is a program of TorchScript, whose layers are not read")
            graphs = [_traced(root) for _ in BATCHES]
        except UnsupportedModelError as error:
            if given is None:
                raise UnsupportedModelError(
                    f"{error}; or pass latent_shape=, to use the module without its layers"
                ) from error
            return opaque(module, given, str(error))
        shape = given or _latent_shape(graphs[0])
        try:
            found = read_chain(graphs, shape, batches)
            if not isinstance(found, Network):
                branching = read_branches(graphs, shape, batches)
                if not (isinstance(branching, Network) and _agree(branching, module)):
                    return opaque(module, shape, str(found))
                found = branching
            check_mode(module, shape)
            return found
        except ModelError as error:
            if given is not None:
                raise
            raise type(error)(
                f"{error} (latent_shape was taken to be {shape}; pass latent_shape= if it is not)"
            ) from error


def _agree(network: Network, module: nn.Module) -> bool:
    """Whether a network has the outputs of the module at a few codes; no trace says what changes in place."""
    z = torch.from_numpy(stream("codes of a trace").standard_normal((3, *network.latent_shape)))
    try:
        x = frozen(module, torch.float64, torch.device("cpu"))(z.clone()).reshape(3, -1)
    except Exception:  # the module's own forward runs here
        return False
    return torch.allclose(network.forward(z.reshape(3, -1)), x, rtol=_AGREEMENT, atol=_AGREEMENT * float(x.abs().max()))


def _called(given: Any, call: GeneratorCall, shape: Shape | None) -> nn.Module:
    """Return what was passed as a module with one input, the code, and one output."""
    if not callable(given) or isinstance(given, type):
        what = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        remedy = "build the module, and load its weights by module.load_state_dict"
        raise ModelError(
            f"from_torch takes a torch.nn.Module or a function of a tensor, got {what}; "
            f"{remedy if isinstance(given, type | Mapping) else 'for files use unrelu.load'}"
        )
    given = getattr(given, "_orig_mod", given)  # the module inside torch.compile's wrapper
    given = given.module if isinstance(given, nn.DataParallel) else given
    _refuse_autoencoder(given)
    code = code_name(given, call)
    codes = None if shape is None else torch.zeros(2, *shape, dtype=torch.float64)
    body = as_module(given, codes if call.plain else None)
    if call.plain:
        return body
    first = CalledModule(body, call, False, code)
    if shape is None or not call.inputs or (refusal := _refusal(first, shape)) is None:
        return first
    labelled = CalledModule(body, call.with_labels(), False, code)
    others = (CalledModule(body, call, True, code), labelled)
    # A module that needs a tensor refuses any integer by its type, which hides what is wrong with the label.
    usual = labelled if call.labels and isinstance(refusal, TypeError) else first
    return next((other for other in others if _accepts(other, shape)), usual)


def _refuse_autoencoder(given: object) -> None:
    parts = [getattr(given, name, None) for name in ("encoder", "decoder")]
    if isinstance(given, nn.Module) and all(isinstance(part, nn.Module) for part in parts):
        name = type(given).__name__
        more = ", or model.decode where that does more," if callable(getattr(given, "decode", None)) else ""
        raise ModelError(
            f"the {name} has an encoder ({type(parts[0]).__name__}) and a decoder ({type(parts[1]).__name__}), and a "
            f"generator maps codes to outputs: pass model.decoder{more} as unrelu.from_torch(model.decoder, "
            "latent_shape=...)"
        )


class _Tracer(fx.Tracer):
    """Records supported modules as single nodes. Constants are kept apart, not written into the module."""

    def __init__(self) -> None:
        super().__init__()
        self.constants: dict[str, Tensor] = {}
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

    def to_bool(self, obj: fx.Proxy) -> bool:
        # Tutorials write ``if z.is_cuda and self.ngpu > 1``; here codes are on the CPU.
        if obj.node.target is getattr and obj.node.args[1] == "is_cuda":
            return False
        return bool(super().to_bool(obj))

    def create_arg(self, a: Any) -> Any:
        if not isinstance(a, Tensor):
            return super().create_arg(a)
        used = next((name for name, tensor in self.constants.items() if tensor is a), None)
        name = used or f"constant {len(self.constants)}"
        self.constants[name] = a
        return self.create_node("get_attr", name, (), {})


def _traced(root: nn.Module) -> LayerGraph:
    """Trace a module; nodes that do not affect its output are dropped."""
    tracer = _Tracer()
    optional = {
        name: p.default
        for name, p in inspect.signature(type(root).forward).parameters.items()
        if p.default is not inspect.Parameter.empty
    }
    try:
        with warnings.catch_warnings():
            # Arguments keep their defaults, so the assertion that PyTorch fails to add is not needed.
            warnings.filterwarnings("ignore", message="Was not able to add assertion")
            graph = tracer.trace(root, optional or None)
    # The module's own forward runs here, on proxies for tensors; any exception means that it cannot be traced.
    except Exception as error:
        raise UnsupportedModelError(
            f"torch.fx cannot trace {type(root).__name__}.forward ({type(error).__name__}: {error}). Control flow "
            "that depends on the data has no place in a chain of layers; pass the layers as an nn.Sequential, or "
            "export the model to ONNX and use unrelu.load"
        ) from error
    layers = LayerGraph(root, graph, tracer.constants)

    def has_effect(node: fx.Node) -> bool:  # a change in place has one even if its result is not used
        module = layers.module(node)
        changes = node.op in ("call_function", "call_method") and mutates(node.target, node.kwargs)
        return node.op in ("placeholder", "output") or changes or bool(getattr(module, "inplace", False))

    graph.eliminate_dead_code(has_effect)
    return layers


# --- the latent shape -------------------------------------------------------------------------------------------------


def _latent_shape(layers: LayerGraph) -> Shape:
    """Return (k,), if the number k of latent coordinates follows from the trace.

    It does if a ``Linear(in_features=k)`` takes the code itself, possibly flattened or after elementwise functions, or
    if the code is reshaped to explicit sizes. A convolution says nothing about k.

    Raises:
        ModelError: k does not follow, or two layers ask for different numbers.
    """
    found: set[int] = set()
    # Nodes that hold the entries of the code, and whether their output is a vector.
    front = [(layers.code(), True)]
    while front:
        node, flat = front.pop()
        for user in node.users:
            if not user.args or user.args[0] is not node:
                continue
            if (count := _count(user, layers.module(user), flat)) is not None:
                found.add(count)
            elif (is_vector := _still_the_code(user, layers.module(user), flat)) is not None:
                front.append((user, is_vector))
    if len(found) > 1:
        sizes = " and ".join(map(str, sorted(found)))
        raise ModelError(f"layers that take the code itself ask for {sizes} entries; pass latent_shape=")
    if not found:
        raise ModelError(_suggested_shapes(layers))
    return (found.pop(),)


def _suggested_shapes(layers: LayerGraph) -> str:
    """A message with what the first layer with weights takes, and shapes that the module accepts."""
    modules = ((node, layers.module(node)) for node in layers.graph.nodes)
    weighted = ((node, m) for node, m in modules if isinstance(m, nn.Linear | _Convolution))
    node, first = next(weighted, (None, None))
    if node is None or first is None:
        return "no Linear or convolution module tells the shape of a latent code; pass latent_shape="
    place = f"the first layer with weights, module {str(node.target)!r} ({type(first).__name__})"
    if isinstance(first, nn.Linear):
        k = first.in_features
        shape = f"latent_shape={k} if the code has {k} entries too" if _accepts(layers.root, (k,)) else "latent_shape="
        return f"{place}, takes {k} entries that are computed from the code, not the code itself; pass {shape}"
    axes = 2 if isinstance(first, nn.Conv2d | nn.ConvTranspose2d) else 1
    sizes = "height, width" if axes == 2 else "length"
    shapes = ((first.in_channels, *(side,) * axes) for side in _SIDES)
    accepted = list(islice((shape for shape in shapes if _accepts(layers.root, shape)), 2))
    examples = " or ".join(f"latent_shape={shape}" for shape in accepted) or "latent_shape="
    ending = ", which the module accepts" if len(accepted) == 1 else ", or another: what it was trained with"
    return (
        f"{place}, takes codes of shape ({first.in_channels}, {sizes}) and does not say of which size; pass "
        f"{examples}{ending}"
    )


def _count(node: fx.Node, module: nn.Module | None, flat: bool) -> int | None:
    """The number of entries of the code, if a node that takes it determines it."""
    if isinstance(module, nn.Linear):
        return module.in_features if flat else None
    sizes: tuple[Any, ...] = ()
    if isinstance(module, nn.Unflatten) and flat and module.dim in (1, -1):
        sizes = tuple(module.unflattened_size)
    elif module is None and _name(node) in _RESHAPES:
        sizes = _sizes(node)[1:]
    stated = bool(sizes) and all(isinstance(n, int) and n > 0 for n in sizes)
    return math.prod(sizes) if stated else None


def _still_the_code(node: fx.Node, module: nn.Module | None, flat: bool) -> bool | None:
    """Whether a node's output is the entries of the code as a vector; None if it is something else."""
    if isinstance(module, nn.Flatten):
        return True if (module.start_dim, module.end_dim) == (1, -1) else None
    if isinstance(module, nn.Unflatten):
        return False
    if module is not None:
        return flat if isinstance(module, _ELEMENTWISE_MODULES) else None
    name = _name(node)
    if name == "flatten":
        return True if node.args[1:] == (1,) else None
    if name in _RESHAPES:
        return True if _sizes(node)[1:] == (-1,) else None
    return flat if name in _ELEMENTWISE else None


def _name(node: fx.Node) -> str:
    return str(node.target if node.op == "call_method" else getattr(node.target, "__name__", node.target))


def _sizes(node: fx.Node) -> tuple[Any, ...]:
    """The sizes of a view or reshape, which takes several arguments or one tuple."""
    sizes = node.args[1:]
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else tuple(sizes)


def _accepts(module: nn.Module, shape: Shape) -> bool:
    """Whether the module runs on codes of this shape."""
    return _refusal(module, shape) is None


def _refusal(module: nn.Module, shape: Shape) -> Exception | None:
    """What the module raises for codes of this shape, if anything."""
    trial = frozen(module, torch.float64, torch.device("cpu"))
    try:
        with torch.no_grad():
            trial(torch.zeros(2, *shape, dtype=torch.float64))
    # The module's own forward runs here; any exception means that it does not accept the shape.
    except Exception as error:
        return error
    return None


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
