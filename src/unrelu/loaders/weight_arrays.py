"""Plain weight matrices as a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from unrelu.errors import ModelError
from unrelu.loaders.chain_builder import Part, float64
from unrelu.models.activations import Activation
from unrelu.models.affine import Dense, Scale
from unrelu.models.network import Network
from unrelu.runtime.host import computing

Activations = str | Activation | Sequence[str | Activation]


@computing()
def from_arrays(
    weights: Sequence[object], biases: Sequence[object | None] | None = None, activation: Activations = "relu"
) -> Network:
    r"""A multilayer perceptron, :math:`x_i = \phi_i(W_i x_{i-1} + b_i)`, from its matrices.

    Args:
        weights: :math:`W_1, W_2, \dots`, of shapes (n_i, n_{i-1}); arrays, tensors or nested lists. Copied.
        biases: :math:`b_1, b_2, \dots`, of shapes (n_i,); an entry may be None, and so may the list.
        activation: ``"relu"``, ``"leaky_relu:0.1"``, ``"sigmoid"``, ``"tanh"`` or ``"identity"`` for every layer, or a
            list of these, one for each layer.

    Raises:
        ModelError: shapes do not chain, an entry is not a finite real number, or an activation is unknown.

    Source: equation (3) of the paper.

    >>> import unrelu
    >>> unrelu.from_arrays([[[2.0], [-1.0], [1.0]]], activation="relu")([0.5])
    array([1. , 0. , 0.5])
    """
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


def dense(weight_name: str, weight: object, bias_name: str, bias: object | None) -> Dense:
    """W h + b, with messages that call W and b by these names.

    Raises:
        ModelError: W is not a matrix, b does not fit it, or an entry is not a finite real number.
    """
    matrix = _finite(float64(weight, weight_name), weight_name)
    if matrix.dim() != 2 or not matrix.numel():
        raise ModelError(f"{weight_name} has shape {tuple(matrix.shape)}; a weight is a matrix (outputs, inputs)")
    vector = None if bias is None else _finite(float64(bias, bias_name), bias_name)
    if vector is not None and vector.shape != matrix.shape[:1]:
        raise ModelError(
            f"{bias_name} has shape {tuple(vector.shape)}, but {weight_name} has shape {tuple(matrix.shape)}; "
            f"the bias must be ({len(matrix)},)"
        )
    return Dense(matrix, vector)


def multilayer(steps: Sequence[tuple[str, Dense | Scale]], activation: Activations) -> Network:
    """Named matrices, each followed by any scales that belong to it and an activation, as a network.

    Scales before the first matrix act on the latent code.

    Raises:
        ModelError: neighbours do not fit; the message names both.
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


def _finite(tensor: Tensor, name: str) -> Tensor:
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ModelError(f"{bad} of {tensor.numel()} entries of {name} are NaN or infinite")
    return tensor
