"""Make a network of dense layers from weight matrices: plain ones, or tensors named as in a file.

A state_dict lists tensors only. It stores neither the activations nor the stride of a convolution. Therefore only
fully connected layers and batch normalisations can be read from one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy.typing as npt
from torch import Tensor

from unrelu.errors import ModelError, ModelFileError, OptionError, UnsupportedModelError
from unrelu.loaders._torch_operations import Part, float64, normalisation
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense, Scale, check_finite
from unrelu.models.network import Network
from unrelu.models.standardisation import Transform, standardised, surrounded, transforms
from unrelu.runtime.host import computing

Activations = str | Activation | Sequence[str | Activation]
Entry = Tensor | npt.NDArray[Any]
# Names of layers in order, what they begin with, or None for all.
Layers = str | Sequence[str] | None
# Tensors by layer, and within a layer by "weight", "bias", "running_mean", ...
Named = Mapping[str, Mapping[str, Entry]]
NamedLayer = tuple[str, Mapping[str, Entry]]

# The default epsilon of torch.nn.BatchNorm1d; a state_dict does not store it.
_EPS = 1e-5

_PARAMETERS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
# Flax's collections of variables.
_COLLECTION = re.compile(r"(?:params|batch_stats)[./]")
_WEIGHT = re.compile(r"(?:W|w|weight|weights|w_array)_?(\d+)")
_BIAS = re.compile(r"(?:b|bias|biases|b_array)_?(\d+)")


@computing()
def from_arrays(
    weights: Any,
    biases: Sequence[object | None] | None = None,
    activation: Activations | None = None,
    input_scale: object = None,
    output_scale: object = None,
    output_basis: object = None,
    output_log: float | None = None,
    *,
    layers: Layers = None,
) -> Network:
    r"""Make a multilayer perceptron, :math:`x_i = \phi_i(W_i x_{i-1} + b_i)`, from its matrices.

    If it was trained on standardised inputs and outputs, and on outputs in a basis of m components, the generator is

    .. math:: G(z) = \bar x + C^T (\mu_x + \sigma_x \odot N((z - \mu_z) / \sigma_z))

    where N is the network as it was trained. If these are logarithms to the base a, it is a to this power. Codes z and
    outputs are then in physical units. The scales and the basis become part of the first and the last layer. Searches
    take steps in the units of z, so give a parameter of 1e-9 beside others of 1 in units of 1e-9.

    Args:
        weights: :math:`W_1, W_2, \dots`, of shapes (n_i, n_{i-1}): arrays, tensors or nested lists. Copied. Or one of

            - a dictionary with the names of Flax, Keras or PyTorch, nested or flat: ``{"params": {"Dense_0":
              {"kernel": ..., "bias": ...}, ...}}``. A ``kernel`` is (n_{i-1}, n_i), a ``weight`` is (n_i, n_{i-1}).
              Kernels are in the order of their numbers, or else in the only order in which their shapes chain: in
              ``Dense(9)(relu(Dense(5)(z)))`` the outer layer has the lower number. A list of dictionaries is in order.
            - a fitted ``MLPRegressor`` of scikit-learn, alone, in a ``Pipeline`` after scalers and PCA, or in a
              ``TransformedTargetRegressor``. It has its own activations.
        biases: :math:`b_1, b_2, \dots`, of shapes (n_i,); an entry may be None, and so may the list.
        activation: ``"relu"``, ``"leaky_relu:0.1"``, ``"swish"``, ``"sigmoid"``, ``"tanh"``, ``"exp"`` or
            ``"identity"`` for every layer, or a list of these, one for each layer. None means ``"relu"`` for a list of
            matrices; a dictionary needs one.
        input_scale: :math:`(\mu_z, \sigma_z)`, each a number or of shape (k,), or a fitted ``StandardScaler``,
            ``MinMaxScaler``, ``MaxAbsScaler``, ``RobustScaler``, ``PCA`` or ``Pipeline`` of these.
        output_scale: :math:`(\mu_x, \sigma_x)` of the network's outputs, given in the same ways; the transforms of a
            ``Pipeline``, PCA included, are inverted from the last to the first.
        output_basis: :math:`(C, \bar x)`, of shapes (m, n) and (n,), if the network's outputs are m coefficients; or a
            fitted ``PCA``.
        output_log: a, the base of the logarithms that the outputs are, such as 10; None if they are none.
        layers: names of layers of a dictionary to pick, in the order in which they are applied, such as ``["Dense_1",
            "Dense_0"]``; or what their names begin with, ``"decoder"``. None takes all layers.

    Raises:
        OptionError: ``layers`` is neither, or ``weights`` is no dictionary.
        ModelError: shapes do not chain, an entry is not a finite real number, an activation is unknown or missing, a
            standard deviation is not positive, or an object is not fitted or is not an affine map.

    Source: equation (3) of the paper.

    >>> import unrelu
    >>> unrelu.from_arrays([[[2.0], [-1.0], [1.0]]], activation="relu")([0.5])
    array([1. , 0. , 0.5])

    The same for an input between 100 and 300, and outputs in units of 1000:

    >>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]], input_scale=(200.0, 100.0), output_scale=(0.0, 1000.0))
    >>> net([250.0])
    array([1000.,    0.,  500.])

    >>> params = {"params": {"Dense_0": {"kernel": [[2.0, -1.0, 1.0]], "bias": [0.0, 0.0, 1.0]}}}
    >>> print(unrelu.from_arrays(params, activation="relu"))
    Network 1 -> 3, 6 parameters
      layer  kind   shape   activation  parameters  expansion
          1  Dense  1 -> 3  relu                 6          3
    """
    check_layers(layers)
    if layers is not None and not isinstance(weights, Mapping):
        raise OptionError(
            f"layers={layers!r} picks from a dictionary; weights is a {type(weights).__name__}: leave layers out"
        )
    if _is_tree(weights) or hasattr(weights, "predict"):
        if biases is not None:
            raise ModelError(f"biases do not go with a {type(weights).__name__}, which holds its own; leave them out")
        tree = _is_tree(weights)
        network = _of_tree(weights, layers, activation) if tree else _of_estimator(weights, activation)
    else:
        network = _of_matrices(weights, biases, "relu" if activation is None else activation)
    return standardised(network, input_scale, output_scale, output_basis, output_log)


def _of_matrices(weights: Any, biases: Sequence[object | None] | None, activation: Activations) -> Network:
    matrices = _listed(weights, "weights")
    vectors = [None] * len(matrices) if biases is None else _listed(biases, "biases")
    if not matrices:
        raise ModelError("weights is empty; a network needs at least one layer")
    if len(vectors) != len(matrices):
        raise ModelError(f"there are {len(matrices)} weights but {len(vectors)} biases; use None for a missing one")
    steps = [
        (f"weights[{i}]", dense(f"weights[{i}]", w, f"biases[{i}]", b))
        for i, (w, b) in enumerate(zip(matrices, vectors, strict=True))
    ]
    return multilayer(steps, activation)


def _is_tree(weights: Any) -> bool:
    """Whether ``weights`` is a dictionary of arrays or a list of such dictionaries."""
    listed = isinstance(weights, list | tuple) and len(weights) > 0
    return isinstance(weights[0] if listed else weights, Mapping)


def _of_tree(weights: Any, picked: Layers, activation: Activations | None) -> Network:
    """Return the network of nested dictionaries; those in a list are applied in order."""
    layers: list[NamedLayer] = []
    for i, tree in enumerate([weights] if isinstance(weights, Mapping) else weights):
        found = chosen(grouped(dict(_leaves(tree, ""))), picked)
        layers += [(name if isinstance(weights, Mapping) else f"{i}/{name}", held) for name, held in found]
    network = from_names(layers, activation or "relu")
    if activation is None:
        raise ModelError(
            f"a dictionary of weights does not say what its activations are; its layers are "
            f"{names_and_shapes(matrices(layers))}. "
            'Pass activation="relu" if they are all ReLU, or one for each layer, ["relu", ..., "identity"]'
        )
    return network


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """Yield arrays with their path, ``params/Dense_0/kernel``."""
    if _is_tree(tree):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _leaves(value, f"{path}/{key}" if path else str(key))
    elif tree is not None:
        yield path, float64(tree, path)


def _of_estimator(model: Any, activation: Activations | None) -> Network:
    """Return the network of a fitted MLPRegressor with the scalers and projections around it."""
    inputs, perceptron, outputs = _unwrapped(model)
    names = {"identity": "identity", "relu": "relu", "tanh": "tanh", "logistic": "sigmoid"}
    count = len(perceptron.coefs_)
    stored = [perceptron.activation] * (count - 1) + [perceptron.out_activation_]
    if unknown := [name for name in stored if name not in names]:
        raise UnsupportedModelError(f"{perceptron} has the activation {unknown[0]!r}; supported are {', '.join(names)}")
    if activation is not None:
        raise ModelError(f"activation={activation!r} does not go with {perceptron}, which has its own; leave it out")
    pairs = zip(perceptron.coefs_, perceptron.intercepts_, strict=True)
    steps = [
        (f"coefs_[{i}]", dense(f"coefs_[{i}]", coefs.T, f"intercepts_[{i}]", intercepts))
        for i, (coefs, intercepts) in enumerate(pairs)
    ]
    return surrounded(multilayer(steps, [names[name] for name in stored]), inputs, outputs)


def _unwrapped(model: Any) -> tuple[list[Transform], Any, list[Transform]]:
    """Return the transforms of the inputs, the multilayer perceptron, and the transforms of its training targets."""
    held = getattr(model, "__dict__", {})
    if "regressor_" in held:  # TransformedTargetRegressor
        inputs, perceptron, outputs = _unwrapped(held["regressor_"])
        return inputs, perceptron, [*transforms(held["transformer_"], "transformer_"), *outputs]
    if "steps" in held:  # Pipeline
        *before, (_, last) = held["steps"]
        inputs, perceptron, outputs = _unwrapped(last)
        own = [transform for name, part in before for transform in transforms(part, f"step {name!r}")]
        return [*own, *inputs], perceptron, outputs
    if not {"coefs_", "intercepts_", "out_activation_"} <= held.keys() or "classes_" in held:
        raise ModelError(
            f"{type(model).__name__} is not fitted, or no MLPRegressor, alone or in a Pipeline or "
            "TransformedTargetRegressor; for PyTorch use unrelu.from_torch, for files unrelu.load"
        )
    return [], model, []


def dense(weight_name: str, weight: object, bias_name: str, bias: object | None) -> Dense:
    """Return the layer W h + b; messages call W and b by these names."""
    matrix = float64(weight, weight_name)
    check_finite(matrix, weight_name)
    if matrix.dim() != 2 or not matrix.numel():
        raise ModelError(f"{weight_name} has shape {tuple(matrix.shape)}; a weight is a matrix (outputs, inputs)")
    if bias is None:
        return Dense(matrix)
    vector = float64(bias, bias_name)
    check_finite(vector, bias_name)
    if vector.shape != matrix.shape[:1]:
        raise ModelError(
            f"{bias_name} has shape {tuple(vector.shape)}, but {weight_name} has shape {tuple(matrix.shape)}; "
            f"the bias must be ({len(matrix)},)"
        )
    return Dense(matrix, vector)


def multilayer(steps: Sequence[tuple[str, Dense | Scale]], activation: Activations) -> Network:
    """Return the network of named matrices, each followed by its scales (if any) and an activation.

    Scales before the first matrix act on the latent code.
    """
    matrices = [step for _, step in steps if isinstance(step, Dense)]
    if not matrices:
        raise ModelError("there is no weight matrix among the layers")
    activations = _activations(activation, len(matrices))
    latent = matrices[0].weight.shape[1]
    parts: list[Part] = []
    before, width = "the latent code", latent
    for name, step in steps:
        takes = step.weight.shape[1] if isinstance(step, Dense) else step.scale.numel()
        if takes != width:
            shape = tuple(step.weight.shape) if isinstance(step, Dense) else (takes,)
            raise ModelError(
                f"{name} has shape {shape} and takes {takes} inputs, but {before} has {width} entries; "
                "layers must chain, each weight (outputs, inputs)"
            )
        if isinstance(step, Dense):
            if any(isinstance(part, Dense) for part in parts):
                parts.append(next(activations))
            width = len(step.weight)
        parts.append(step)
        before = f"the output of {name}"
    return Network.chain([*parts, next(activations)], (latent,))


def _activations(activation: Activations, count: int) -> Iterator[Activation]:
    single = isinstance(activation, str | Activation)
    given: list[Any] = [activation] * count if single else _listed(activation, "activation")
    if len(given) != count:
        raise ModelError(
            f"there are {count} layers but {len(given)} activations {given}; give one, or one for each layer"
        )
    for entry in given:
        if not isinstance(entry, str | Activation):
            raise ModelError(f"an activation is a name such as 'relu' or 'leaky_relu:0.1', got {entry!r}")
    return iter([entry if isinstance(entry, Activation) else Activation.parse(entry) for entry in given])


def _listed(values: Any, name: str) -> list[Any]:
    try:
        return list(values)
    except TypeError:
        raise ModelError(f"{name} is a {type(values).__name__}; pass a list with one entry for each layer") from None


# --- named tensors ----------------------------------------------------------------------------------------------------


def from_names(layers: Sequence[NamedLayer], activation: Activations) -> Network:
    """Chain named layers; an activation follows each matrix and its batch normalisations."""
    return multilayer([(f"layer {name!r}", _step(name, held)) for name, held in layers], activation)


def matrices(layers: Sequence[NamedLayer]) -> list[NamedLayer]:
    """Return the layers with a matrix, each of which an activation follows."""
    return [(name, held) for name, held in layers if len(_shape(held)) == 2]


def names_and_shapes(layers: Iterable[NamedLayer]) -> str:
    """Return the names and shapes of layers, for messages."""
    return ", ".join(f"{name or repr(name)} {_shape(held)}" for name, held in layers)


def _shape(tensors: Mapping[str, Entry]) -> tuple[int, ...]:
    first = next(iter(tensors.values()))
    return tuple(tensors.get("weight", tensors.get("kernel", first)).shape)


def _step(name: str, tensors: Mapping[str, Entry]) -> Dense | Scale:
    """Return one layer, made from its tensors."""
    label, axes = f"layer {name!r}", len(_shape(tensors))
    if "moving_mean" in tensors or {"mean", "var"} <= tensors.keys():
        raise UnsupportedModelError(
            f"{label} is a batch normalisation, which acts before the activation in some models of Keras and Flax, "
            "after it in others; load an ONNX file of the whole model, or fold it into a kernel"
        )
    if unknown := [key for key in tensors if key not in _PARAMETERS]:
        raise UnsupportedModelError(
            f"{label} holds {', '.join(unknown)}, not a plain weight and bias; build the module "
            "and use unrelu.from_torch"
        )
    if "running_mean" in tensors or "running_var" in tensors:
        return _batch_norm(label, {key: float64(t, f"{label} {key}") for key, t in tensors.items()})
    if "weight" not in tensors:
        raise UnsupportedModelError(f"{label} has no weight, only {', '.join(tensors)}")
    if axes >= 3:
        raise UnsupportedModelError(
            f"{label} is a convolution, its weight has shape {_shape(tensors)}. Its weights say neither stride nor "
            "padding: build the module, load the weights into it by module.load_state_dict, and pass "
            "unrelu.from_torch(module.eval(), latent_shape=...), or export it to ONNX"
        )
    if axes < 2:
        raise UnsupportedModelError(
            f"{label} has a weight of shape {_shape(tensors)}, as LayerNorm or PReLU have; its tensors do not say "
            "what it does: build the module and use unrelu.from_torch"
        )
    return dense(f"{label} weight", tensors["weight"], f"{label} bias", tensors.get("bias"))


def _batch_norm(label: str, tensors: Mapping[str, Tensor]) -> Scale:
    mean, variance, weight, bias = (tensors.get(key) for key in ("running_mean", "running_var", "weight", "bias"))
    shapes = {tuple(t.shape) for t in (mean, variance, weight, bias) if t is not None}
    if mean is None or variance is None or shapes != {(mean.numel(),)}:
        held = ", ".join(f"{key} {tuple(t.shape)}" for key, t in tensors.items())
        raise ModelError(f"{label} looks like a batch normalisation but holds {held}")
    try:
        return normalisation(mean, variance, weight, bias, eps=_EPS, shape=tuple(mean.shape))
    except ModelError as error:
        raise ModelError(f"{label}: {error}") from error


# --- names ------------------------------------------------------------------------------------------------------------


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sorting key that puts ``fc2`` before ``fc10``."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def grouped(flat: Mapping[str, Entry]) -> Named:
    """Group ``fc1.weight``, ``fc1.bias``, ... by layer, in order of first appearance.

    A slash separates as a dot does, as in Keras' ``dense/kernel:0`` and Flax's ``params/Dense_0/kernel``.
    """
    kernels = any(re.search(r"(?:^|[./])kernel(?::0)?$", name) for name in flat)
    layers: dict[str, dict[str, Entry]] = {}
    for name, value in flat.items():
        layer, mark, parameter = name.partition(".parametrizations.")
        if not mark:
            path = _COLLECTION.sub("", name.removesuffix(":0"), count=1) if kernels else name
            at = max(path.rfind("."), path.rfind("/"))
            layer, parameter = path[: max(at, 0)], path[at + 1 :]
        layers.setdefault(layer, {})[parameter] = value
    return layers


def check_layers(layers: object) -> None:
    """Check the type of ``layers``.

    Raises:
        OptionError: it is neither a list of names nor what names begin with.
    """
    if layers is not None and (
        not isinstance(layers, Sequence) or not layers or any(not isinstance(name, str) for name in layers)
    ):
        raise OptionError(
            f"layers must be a list of layer names, or what they begin with, such as 'decoder.', got {layers!r}"
        )


def chosen(named: Named, layers: Layers) -> list[NamedLayer]:
    """Return the layers of these names in this order, or those whose names begin so, or all.

    Raises:
        ModelError: there is no such layer, or nothing says in which order they are applied.
    """
    picked = list(_of_kernels(under(named, layers), False)) if isinstance(layers, str) else layers
    named = _of_kernels(named, picked is not None)
    if missing := [name for name in picked or () if name not in named]:
        raise ModelError(f"there is no layer {missing[0]!r}; its layers are {', '.join(named)}")
    return list(named.items()) if picked is None else [(name, named[name]) for name in picked]


def under(named: Named, prefix: str) -> Named:
    """Return the layers whose names begin with ``prefix``, in the same order."""
    start = prefix.rstrip("./")
    found = {name: held for name, held in named.items() if name == start or name.startswith((f"{start}.", f"{start}/"))}
    if not found:
        begun = sorted({re.split(r"[./]", name)[0] for name in named})
        likely = next((name for name in begun if "dec" in name), begun[0])
        raise ModelError(
            f"no layer's name begins with layers={prefix!r}; they begin with {', '.join(map(repr, begun))}: pass one "
            f"of these, e.g. layers='{likely}.'"
        )
    return found


def _of_kernels(named: Named, picked: bool) -> Named:
    """Rename the kernels of Keras and Flax to PyTorch's weights; other layers are returned as they are.

    A kernel is (inputs, outputs), the transpose of a weight. Layers that are not ``picked`` are put in order.
    """
    if not any("kernel" in held for held in named.values()):
        return named
    names = named if picked else _in_order(named)
    return {name: dict(_as_weight(key, array) for key, array in named[name].items()) for name in names}


def _in_order(named: Named) -> list[str]:
    """Return the names of layers with kernels in the order in which they are applied.

    Neither Keras nor Flax stores it, and JAX sorts dictionaries by name, ``Dense_10`` before ``Dense_2``. Layers whose
    names differ only in their numbers are in the order of these, if the kernels chain so. Otherwise they are in the
    only order in which they do: of nested calls, the outer layer is made first.
    """
    order = sorted(named, key=natural)
    shapes = {name: tuple(held["kernel"].shape) if "kernel" in held else () for name, held in named.items()}
    numbered, matrices = (
        len({re.sub(r"_?\d+", "", name) for name in named}) == 1,
        {len(s) for s in shapes.values()} == {2},
    )
    if numbered and (not matrices or _chain(order, shapes)):
        either = matrices and len(set(shapes.values())) > 1 and _chain(order[::-1], shapes)
        order = [] if either else order
    else:
        order = _by_shapes(shapes) if matrices else []
    if not order:
        raise ModelError(
            f"nothing says in which order its layers, {names_and_shapes(named.items())}, are applied; pass "
            "layers=[...] in that order"
        )
    return order


def _chain(order: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return all(shapes[one][1] == shapes[next_][0] for one, next_ in pairwise(order))


def _by_shapes(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the only order in which kernels (inputs, outputs) chain; empty if there is none, or maybe several."""
    left, order = dict(shapes), list[str]()
    widths = {a for a, b in shapes.values() if a != b} - {b for a, b in shapes.values() if a != b}
    while len(widths) == 1 and left:
        (width,) = widths
        fit = [name for name, (a, _) in left.items() if a == width]
        # A square kernel keeps the width, so it comes before the kernel that changes it.
        square = [name for name in fit if left[name][1] == width]
        if len(square) > 1 or len(fit) - len(square) > 1 or not fit:
            return []
        order.append((square or fit)[0])
        widths = {left.pop(order[-1])[1]}
    return [] if left else order


def _as_weight(key: str, array: Entry) -> tuple[str, Entry]:
    return (key, array) if key != "kernel" else ("weight", array.T if array.ndim == 2 else array)


def numbered(flat: Mapping[str, Entry]) -> Named | None:
    """Group ``W0, b0, W1, b1, ...`` by the name of the weight, in numeric order; None if names are not of this form."""
    weights = {int(m[1]): n for n in flat if (m := _WEIGHT.fullmatch(n))}
    biases = {int(m[1]): n for n in flat if (m := _BIAS.fullmatch(n))}
    if not weights or any(not _WEIGHT.fullmatch(n) and not _BIAS.fullmatch(n) for n in flat):
        return None
    order = sorted(weights)
    if len(weights) + len(biases) != len(flat) or order != list(range(order[0], order[0] + len(order))):
        raise ModelFileError(
            f"weights must be numbered 0, 1, 2, ... or 1, 2, 3, ... without gaps, found {', '.join(flat)}"
        )
    if not biases.keys() <= weights.keys():
        raise ModelFileError(f"there is a bias without a weight of the same number: {', '.join(flat)}")
    absent = [i for i in order if weights[i].startswith("w_array") and i not in biases]
    if absent:
        raise ModelFileError(f"b_array_{absent[0]} is missing; each layer of The Payne has a weight and a bias")
    return {
        weights[i]: {"weight": flat[weights[i]]} | ({"bias": flat[biases[i]]} if i in biases else {}) for i in order
    }


def unnamed(flat: Mapping[str, Entry]) -> Named | None:
    """Group ``arr_0, arr_1, ...``: each matrix and its bias (if any) in turn, or all matrices and then all biases."""
    if not flat or any(not re.fullmatch(r"arr_\d+", name) for name in flat):
        return None
    names = sorted(flat, key=natural)
    axes = [flat[name].ndim for name in names]
    half = len(names) // 2
    if axes == [2] * half + [1] * half:
        return {w: {"weight": flat[w], "bias": flat[b]} for w, b in zip(names[:half], names[half:], strict=True)}
    layers: dict[str, dict[str, Entry]] = {}
    for name, n in zip(names, axes, strict=True):
        if n == 1 and layers and "bias" not in (last := layers[next(reversed(layers))]):
            last["bias"] = flat[name]
        elif n == 2:
            layers[name] = {"weight": flat[name]}
        else:
            held = ", ".join(f"{name} {tuple(flat[name].shape)}" for name in names)
            raise ModelFileError(
                f"arrays must be matrices (n_i, n_(i-1)), each followed by its bias (n_i,), found {held}"
            )
    return layers


def tensors(checkpoint: object, several: bool) -> Mapping[str, Entry]:
    """Return the state_dict in a checkpoint: the checkpoint itself, or the only dictionary of tensors inside it.

    If there is more than one, ``several`` allows to join them, with their keys before the names (``generator.fc1``).
    """
    if not isinstance(checkpoint, Mapping):
        raise ModelFileError(
            f"the file holds a {type(checkpoint).__name__}, not a state_dict; save module.state_dict(), or pass "
            "lists of arrays to unrelu.from_arrays"
        )
    own = {name: value for name, value in checkpoint.items() if isinstance(value, Tensor) and isinstance(name, str)}
    inner = {key: value for key, value in checkpoint.items() if isinstance(value, Mapping) and _all_tensors(value)}
    if own and not inner:
        return own
    if len(inner) == 1 and not own:
        return dict(next(iter(inner.values())))
    if len(inner) + bool(own) > 1 and several:
        return own | {f"{key}.{name}": value for key, held in inner.items() for name, value in held.items()}
    keys = ", ".join(map(str, checkpoint)) or "none"
    if not own and not inner:
        raise ModelFileError(f"the file holds no state_dict; its keys are {keys}. Save module.state_dict()")
    raise ModelFileError(
        f"the file holds several state_dicts: {', '.join(map(str, inner))} (its keys are {keys}); pass "
        f"layers=['{next(iter(inner))}.<layer>', ...] to pick layers, or save one of them alone"
    )


def _all_tensors(held: Mapping[Any, Any]) -> bool:
    return bool(held) and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in held.items())
