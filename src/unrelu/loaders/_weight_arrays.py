"""Make a network of dense layers from plain weight matrices, or from arrays named as in a file.

A state_dict lists tensors only. It stores neither the activations nor the stride of a convolution. Therefore only
fully connected layers and batch normalisations can be read from one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from unrelu.errors import ModelError, ModelFileError, OptionError, UnsupportedModelError
from unrelu.loaders._torch_operations import Part, float64
from unrelu.models.activations import Activation
from unrelu.models.affine import Conv, Dense, Reshape, Scale, check_finite
from unrelu.models.network import Network
from unrelu.runtime.argument_checks import known_arguments
from unrelu.runtime.file_reading import check_names
from unrelu.runtime.host import computing
from unrelu.wrappers.standardisation import Transform, standardised, surrounded, transforms

Activations = str | Activation | Sequence[str | Activation]
Entry = Tensor | npt.NDArray[Any]
# Names of layers in order, a common prefix of names, or None for all.
Layers = str | Sequence[str] | None
# Arrays by layer, and within a layer by "weight", "bias", "running_mean", ...
Named = dict[str, dict[str, Entry]]

# The default epsilon of torch.nn.BatchNorm1d; a state_dict does not store it.
_EPS = 1e-5

_NUMBERED = re.compile(r"([Ww]|weights?|w_array|b|bias|biases|b_array)_?(\d+)")
# A Flax collection, a layer, a parameter, and the suffix of Keras.
_NAME = re.compile(r"(?:params[./])?(?:(.*)[./])?([^./]*?)(?::0)?", re.DOTALL)


@known_arguments
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

    where N is the network as it was trained. If these outputs are logarithms to the base a, the generator is a to this
    power. The scales and the basis become part of the first and the last layer. Searches take steps in the units of z,
    so rescale a parameter of order 1e-9 to order 1 if the others are of order 1.

    Args:
        weights: :math:`W_1, W_2, \dots`, of shapes (n_i, n_{i-1}): arrays, tensors or nested lists. Copied. Or one of

            - a dictionary with the names of Flax, Keras or PyTorch, nested or flat: ``{"params": {"Dense_0":
              {"kernel": ..., "bias": ...}, ...}}``. A ``kernel`` is (n_{i-1}, n_i), a ``weight`` is (n_i, n_{i-1}).
              Weights keep the order of the dictionary; kernels are sorted by the numbers in their names, if these tell
              the order. A list of dictionaries keeps its order.
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
        output_log: the base a, such as 10, if the outputs are logarithms; None if they are not.
        layers: names of layers of a dictionary to pick, in the order in which they are applied, such as ``["Dense_1",
            "Dense_0"]``; or a prefix of their names, ``"decoder"``. None takes all layers.

    Raises:
        OptionError: ``layers`` has a wrong type, or is given although ``weights`` is no dictionary.
        ModelError: shapes do not chain, the order of layers is not known, an entry is not a finite real number, an
            activation is unknown or missing, a standard deviation is not positive, or an object is not fitted or is not
            an affine map.

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
        raise OptionError(f"layers={layers!r} picks from a dictionary; weights is a {type(weights).__name__}")
    tree = _is_tree(weights)
    if tree or hasattr(weights, "predict"):
        if biases is not None:
            raise ModelError(f"biases do not go with a {type(weights).__name__}, which holds its own; leave them out")
        network = _of_tree(weights, activation, layers) if tree else _of_estimator(weights, activation)
    else:
        network = _of_matrices(weights, biases, "relu" if activation is None else activation)
    return standardised(network, input_scale, output_scale, output_basis, output_log)


def _of_tree(tree: Any, activation: Activations | None, layers: Layers) -> Network:
    """Build a network from a dictionary, or from a list of dictionaries in order."""
    several = {"": tree} if isinstance(tree, Mapping) else {f"{i}/": part for i, part in enumerate(tree)}
    named = {
        before + name: held
        for before, part in several.items()
        for name, held in chosen(by_layer(flattened(part, float64)), layers).items()
    }
    return from_names(named, activation)


def _of_matrices(weights: Any, biases: Sequence[object | None] | None, activation: Activations) -> Network:
    matrices = _listed(weights, "weights")
    vectors = [None] * len(matrices) if biases is None else _listed(biases, "biases")
    if len(vectors) != len(matrices):
        raise ModelError(f"there are {len(matrices)} weights but {len(vectors)} biases; use None for a missing one")
    named: Named = {}
    for i, (weight, bias) in enumerate(zip(matrices, vectors, strict=True)):
        named[f"weights[{i}]"] = {"weight": float64(weight, f"weights[{i}]")}
        if bias is not None:
            named[f"weights[{i}]"]["bias"] = float64(bias, f"biases[{i}]")
    return from_names(named, activation)


def _of_estimator(model: Any, activation: Activations | None) -> Network:
    """Build a network from a fitted scikit-learn MLPRegressor, with the scalers and projections around it."""
    inputs, perceptron, outputs = _unwrapped(model)
    if activation is not None:
        raise ModelError(f"activation={activation!r} does not go with {perceptron}, which has its own; leave it out")
    stored = [perceptron.activation] * (len(perceptron.coefs_) - 1) + [perceptron.out_activation_]
    names = ["sigmoid" if name == "logistic" else name for name in stored]
    return surrounded(_of_matrices([c.T for c in perceptron.coefs_], perceptron.intercepts_, names), inputs, outputs)


def _unwrapped(model: Any) -> tuple[list[Transform], Any, list[Transform]]:
    """Split an estimator into input transforms, the multilayer perceptron, and transforms of the training targets."""
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


# --- weights by name --------------------------------------------------------------------------------------------------


def _is_tree(value: Any) -> bool:
    """Check whether a value is a dictionary of arrays or a list of such dictionaries."""
    listed = isinstance(value, list | tuple) and len(value) > 0
    return isinstance(value[0] if listed else value, Mapping)


def flattened(tree: object, entry: Callable[[Any, str], Entry]) -> dict[str, Entry]:
    """Flatten nested dictionaries to arrays by path, ``params/Dense_0/kernel``; ``entry(value, path)`` makes each.

    Raises:
        ModelFileError: a container occurs twice (walking it could take forever), or a key is no string or integer.
        InputError: a name is too long, or cannot be printed.
    """
    flat: dict[str, Entry] = {}
    left: list[tuple[str, Any]] = [("", tree)]
    seen = set[int]()
    while left:
        path, value = left.pop()
        if _is_tree(value):
            if id(value) in seen:
                raise ModelFileError(f"the model holds a dictionary twice, {path[:80]!r}; save each array once")
            seen.add(id(value))
            keys = list(value) if isinstance(value, Mapping) else range(len(value))
            if odd := [type(key).__name__ for key in keys if not isinstance(key, str | int)]:
                raise ModelFileError(f"the model holds a dictionary with a key of type {odd[0]}; name arrays by words")
            items = [(f"{path}/{key}" if path else str(key), value[key]) for key in keys]
            check_names([name for name, _ in items], "the model")
            left += items[::-1]
        elif value is not None:
            flat[path] = entry(value, path)
    return flat


def by_layer(flat: Mapping[str, Entry]) -> Named:
    """Group arrays by layer and parameter, in the order of the file.

    Names are ``fc1.weight, fc1.bias, ...`` in PyTorch, ``params/Dense_0/kernel`` in Flax, ``dense/kernel:0`` in Keras;
    or ``W0, b0, W1, ...``.
    """
    named: Named = {}
    numbered = all(map(_NUMBERED.fullmatch, flat))
    for name, value in flat.items():
        if numbered:
            kind, number = _NUMBERED.fullmatch(name).groups()  # type: ignore[union-attr] # it matches all
            layer, parameter = f"W{number}", "bias" if kind[0] == "b" else "weight"
        else:
            layer, parameter = _NAME.fullmatch(name).groups()  # type: ignore[union-attr] # it matches any name
        held = named.setdefault(layer or "", {})
        if parameter in held:
            raise ModelFileError(f"two arrays are the {parameter} of {layer!r}: {', '.join(flat)}")
        held[parameter] = value
    return named


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sorting key that puts ``fc2`` before ``fc10``."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name) if p]


def check_layers(layers: object) -> None:
    """Raise an OptionError unless ``layers`` is None, a list of names or a prefix of names."""
    named = isinstance(layers, Sequence) and layers and all(isinstance(name, str) for name in layers)
    if layers is not None and not named:
        raise OptionError(
            f"layers must be a list of layer names, or what they begin with, such as 'decoder.', got {layers!r}"
        )


def chosen(named: Named, layers: Layers, ordered: bool = True) -> Named:
    """Pick layers by a list of names, in its order, or by a prefix of names; None picks all.

    If names differ only in numbers, sort by number. Otherwise keep the order of the file, if it has one (``ordered``).
    Keras and Flax files, which hold kernels, have none.

    Raises:
        ModelError: there is no such layer, or the order of the layers is not known.
    """
    if isinstance(layers, str):
        start = layers.rstrip("./")
        found = {n: held for n, held in named.items() if n == start or n.startswith((f"{start}.", f"{start}/"))}
    else:
        found = named if layers is None else {name: named[name] for name in layers if name in named}
    if layers and (not found or (len(found) < len(layers) and not isinstance(layers, str))):
        raise ModelError(f"there is no layer as in layers={layers!r}; its layers are {', '.join(named)}")
    if layers and not isinstance(layers, str):
        return found
    alike = len({re.sub(r"_?\d+", "", name) for name in found}) == 1
    numbers = {name: found[name] for name in sorted(found, key=natural)} if alike else found
    kernels = [_shape(held) for held in numbers.values() if "kernel" in held]
    # In Dense(5)(relu(Dense(5)(z))), Flax makes the outer layer first and gives it the lower number. So kernels that
    # chain in both directions do not tell the order.
    backwards = len(kernels) > 1 and all(a[0] == b[-1] for a, b in pairwise(kernels))
    if backwards or (len(found) > 1 and not alike and (kernels or not ordered)):
        raise ModelError(
            f"nothing says in which order its layers, {_names_and_shapes(found)}, are applied; pass layers=[...] in "
            "that order"
        )
    return numbers


def from_names(named: Named, activation: Activations | None) -> Network:
    """Chain named layers in this order; put an activation after each matrix and its batch normalisations.

    Raises:
        ModelError: shapes do not chain, or no activation is given.
    """
    shown = _names_and_shapes(named) or "none"
    try:
        steps = [_step(name, held) for name, held in named.items()]
        matrices = [step.weight for step in steps if isinstance(step, Dense)]
        if not matrices:
            raise ModelError("there is no weight matrix among the layers; a network needs at least one")
        left = iter(_activations("relu" if activation is None else activation, len(matrices)))
        parts: list[Part] = []
        for step in steps:
            if isinstance(step, Dense) and step.weight is not matrices[0]:
                parts.append(next(left))
            parts.append(step)
        network = Network.chain([*parts, *left], (matrices[0].shape[1],))
    except ModelError as error:
        raise type(error)(
            f"{error}. The layers are {shown}; weights are (outputs, inputs): pass kernels of Keras, JAX and "
            "scikit-learn as kernel.T. Of a file or dictionary pick layers, in the order in which they are applied, by "
            "layers=[...]"
        ) from error
    if activation is None:
        each = ["relu"] * (len(matrices) - 1) + ["sigmoid"]
        raise ModelError(
            f'weights do not say what their activations are; its layers are {shown}. Pass activation="relu" if they '
            f"are all ReLU, or one for each layer, activation={each} (on the command line, --activation relu or "
            f"{','.join(each)})"
        )
    return network


def by_pixel(named: Named, activation: Activations | None) -> Network:
    """Chain the layers of n small networks, one for each pixel: weights (n, outputs, inputs), or (n, inputs) for one.

    All share the inputs of the first layer. The others are convolutions with n groups.

    Raises:
        ModelError: shapes do not chain, or no activation is given.
    """
    arrays = [{key: float64(value, f"{name} {key}") for key, value in held.items()} for name, held in named.items()]
    weights = [held.get("weight", torch.zeros(0)) for held in arrays]
    n = len(weights[0])
    # A layer with one output may leave its axis out, and that of its only input, too.
    weights = [w[:, None] if w.dim() == 2 else w[:, None, None] if w.dim() == 1 else w for w in weights]
    sizes = [tuple(weight.shape[1:]) for weight in weights]
    chained = all(before[:1] == after[1:] for before, after in pairwise(sizes))
    if not chained or any(len(weight) != n or weight.dim() != 3 for weight in weights):
        raise ModelError(
            f"weights for each pixel are (n, outputs, inputs) for the same n pixels, (n, inputs) for one output; its "
            f"layers are {_names_and_shapes(named)}"
        )
    if activation is None:
        raise ModelError('weights do not say what their activations are; pass activation="sigmoid", or one for each')
    acting = _activations(activation, len(weights))
    parts: list[Part] = []
    for i, (weight, held, phi) in enumerate(zip(weights, arrays, acting, strict=True)):
        check_finite(weight, f"weight {i}")
        bias = held["bias"].reshape(-1) if "bias" in held else None
        one = Dense(weight.flatten(0, 1).contiguous(), bias)
        parts += [one if not i else Conv(weight.flatten(0, 1)[..., None].contiguous(), bias, groups=n)]
        parts += [Reshape((n * weight.shape[1], 1))] if not i else []
        parts.append(phi)
    return Network.chain([*parts, Reshape((n * weights[-1].shape[1],))], tuple(weights[0].shape[2:]))


def _activations(activation: Activations, count: int) -> list[Activation]:
    single = isinstance(activation, str | Activation)
    given: list[Any] = [activation] * count if single else _listed(activation, "activation")
    if len(given) != count or not all(isinstance(entry, str | Activation) for entry in given):
        raise ModelError(
            f"there are {count} layers but activations {given}; give one name, such as 'relu' or 'leaky_relu:0.1', or "
            "one for each layer"
        )
    return [entry if isinstance(entry, Activation) else Activation.parse(entry) for entry in given]


def _listed(values: Any, name: str) -> list[Any]:
    try:
        return list(values)
    except TypeError:
        raise ModelError(f"{name} is a {type(values).__name__}; pass a list with one entry for each layer") from None


def _names_and_shapes(named: Named) -> str:
    return ", ".join(f"{name or repr(name)} {_shape(held)}" for name, held in named.items())


def _shape(tensors: Mapping[str, Entry]) -> tuple[int, ...]:
    first = next(iter(tensors.values()))
    return tuple(tensors.get("weight", tensors.get("kernel", first)).shape)


def _step(name: str, tensors: Mapping[str, Entry]) -> Dense | Scale:
    """Convert the arrays of one layer to a dense layer, or to a PyTorch batch normalisation."""
    label = f"layer {name!r}"
    held = {key: float64(value, f"{label} {key}") for key, value in tensors.items() if key != "num_batches_tracked"}
    for key, value in held.items():
        check_finite(value, f"{label} {key}")
    keys, shapes = held.keys(), {tuple(value.shape) for value in held.values()}
    weight = held["kernel"].T if "kernel" in keys and held["kernel"].dim() == 2 else held.get("weight")
    if keys <= {"weight", "kernel", "bias"} and weight is not None and weight.dim() == 2 and weight.numel():
        bias = held.get("bias")
        if bias is None or bias.shape == weight.shape[:1]:
            return Dense(weight.contiguous(), bias)
    moments = {"running_mean", "running_var"}
    if len(shapes) == 1 and len(*shapes) == 1 and moments <= keys <= {*moments, "weight", "bias"}:
        scale = held.get("weight", 1.0) * torch.rsqrt(held["running_var"] + _EPS)
        return Scale(scale, held.get("bias", 0.0) - held["running_mean"] * scale)
    raise UnsupportedModelError(
        f"{label} holds {', '.join(f'{key} {tuple(value.shape)}' for key, value in held.items())}, which is no matrix "
        "(outputs, inputs) with a bias (outputs,): weights alone do not say what it computes, such as the stride of a "
        "convolution, or whether a normalisation of Keras or Flax acts before the activation. Build the module, load "
        "the weights into it and pass unrelu.from_torch(module.eval(), latent_shape=...), or load an ONNX file of the "
        "whole model"
    )
