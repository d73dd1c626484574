"""Estimate the error of an emulator, as a term of the noise, from simulations that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from unrelu.errors import InputError
from unrelu.measurements.additive_noise import CORRELATED, Gaussian
from unrelu.measurements.named_parts import joined
from unrelu.measurements.operator_arguments import read_operator
from unrelu.models.generator import Generator, as_generator
from unrelu.parameters.names import Names
from unrelu.runtime.argument_checks import numbers
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream

# The fewest simulations, the number of folds that they are split into, and the least eigenvalue relative to the mean.
_FEWEST, _FOLDS, _LEAST = 20, 10, 1e-9


@computing()
def emulator_error(network: Generator, z: Any, x: Any, operator: Any = None) -> Gaussian:
    r"""Measure the error of an emulator G as a term of the noise, N(0, C), from simulations that it has not seen.

    With ``noise=unrelu.Gaussian(sigma) + unrelu.emulator_error(net, z, x)``, a small p-value says that the data do not
    fit the simulator. Without this term, the error of the emulator may also make it small. C estimates the second
    moment of the N differences :math:`r = A x - A G(z)`. The moment is not centred, so it includes a bias. Its small
    eigenvalues would be too small, and 0 for N below m. They are therefore estimated by cross-validation in F folds:
    each is the mean square of other simulations along its eigenvector:

    .. math:: C = D \Bigl( \sum_{f=1}^F \frac{N_f}{N} \, U_f \, \mathrm{diag}(U_f^T S_f U_f) \, U_f^T + 10^{-9} I
        \Bigr) D

    D contains the root mean squares of the entries. :math:`S_f` is the second moment of :math:`D^{-1} r` in fold f, and
    :math:`U_f` are the eigenvectors of the second moment in the other folds. Directions orthogonal to them share one
    eigenvalue.

    Args:
        network: G.
        z: the codes of the simulations, (N, \*latent_shape), at least 20, distributed like the expected solutions.
        x: the simulator's outputs without noise, (N, \*output_shape) or (N, n), or a dictionary of the measured parts.
        operator: A, as for :func:`unrelu.invert`, the same for all. Hidden entries get a variance that has no effect.

    Raises:
        InputError: shapes do not fit, there are too few simulations or more than 4096 entries, differences are not
            finite or are all 0, or there is a mask for each observation.

    Source: Abadir, Distaso and Zikes, "Design-free estimation of variance matrices", J. Econometrics 181 (2014); Lam,
    "Nonparametric eigenvalue-regularized precision or covariance matrix estimator", Annals of Statistics 44 (2016).

    >>> import numpy as np
    >>> import unrelu
    >>> net = unrelu.from_arrays([[[2.0], [1.0]]], activation="identity")
    >>> z = np.linspace(-1, 1, 50)[:, None]
    >>> error = unrelu.emulator_error(net, z, net(z) + [0.3, 0.4])
    >>> np.sqrt(np.diag(error.covariance)).round(3), unrelu.Gaussian(0.1) + error
    (array([0.3, 0.4]), Gaussian(covariance=array(2, 2)))
    """
    generator = as_generator(network)
    names, generator = generator.names, generator.plain
    codes = generator.flat_codes(z, batch=True)
    if (size := len(codes)) < _FEWEST:
        raise InputError(f"z has {size} simulations; the error of an emulator takes at least {_FEWEST}")
    outputs, operator = _whole(names, x, operator)
    if outputs.shape not in ((size, *names.output_shape), (size, generator.output_dim)):
        raise InputError(f"x has shape {outputs.shape} and z {size} codes; pass {(size, *names.output_shape)}")
    measured = read_operator(operator, names.output_shape, (), generator)
    if measured.count or measured.m > CORRELATED:
        raise InputError(
            f"operator= has {measured.m} entries{' and masks for each observation' * (measured.count > 0)}; the error "
            f"of an emulator has a covariance of at most {CORRELATED} entries, which all observations share"
        )
    r = measured.values(outputs.reshape(size, -1)) - measured.values(generator.outputs(codes).reshape(size, -1))
    r = r[:, seen := measured.seen(1)[0]]
    if (bad := ~np.isfinite(r).all(axis=1)).any():
        raise InputError(f"x or G(z) is not finite in {bad.sum()} of {size} simulations, first in {np.argmax(bad)}")
    if not r.any():
        raise InputError("x is G(z) in all simulations: the emulator is exact there, and the noise needs no such term")
    covariance = np.eye(measured.m) * np.square(r).mean()
    covariance[np.ix_(seen, seen)] = _second_moment(r)
    return Gaussian(covariance=covariance)


def _whole(names: Names, x: Any, operator: Any) -> tuple[Array, Any]:
    """Return x and the operator for the whole output, also if they are given by part."""
    if not isinstance(operator, Mapping):
        outputs, _, operator = joined(names, x, None, operator, "x")
        return numbers(outputs, "x"), operator
    maps = {str(name): each for name, each in operator.items()}
    given = set(map(str, x)) if isinstance(x, Mapping) else names.parts
    shapes = {name: read_operator(maps.get(name), names.parts[name], ()).shape for name in names.parts if name in given}
    operator = joined(names, {name: np.zeros(shape) for name, shape in shapes.items()}, None, operator)[2]
    return numbers(joined(names, x, None, None, "x")[0], "x"), operator


def _second_moment(r: Array) -> Array:
    """Compute C from differences (N, m). An entry that never differs gets the least root mean square of the others."""
    size = np.sqrt(np.square(r).mean(axis=0))
    size = np.where(size > 0, size, size[size > 0].min())
    s, (count, m) = r / size, r.shape
    fold, found = stream("folds of simulations").permutation(count) % _FOLDS, _LEAST * np.eye(m)
    for f in range(_FOLDS):
        _, _, vectors = np.linalg.svd(s[fold != f], full_matrices=False)
        inside = np.square(s[fold == f] @ vectors.T).sum(axis=0) / count
        rest = (np.square(s[fold == f]).sum() / count - inside.sum()) / max(1, m - len(vectors))
        found += (vectors.T * (inside - rest)) @ vectors + rest * np.eye(m)
    return np.asarray(size[:, None] * found * size)
