"""Latent codes as features: a generator as a scikit-learn transformer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from unrelu._invert import invert
from unrelu.errors import InputError, MissingPackageError, OptionError
from unrelu.measurements import Mask, Operator, read_operator
from unrelu.measurements.latent_bounds import Bounds
from unrelu.measurements.noise import Noise
from unrelu.measurements.picture_scale import Scaling
from unrelu.measurements.working_units import searched
from unrelu.methods import Method, make
from unrelu.models.code_prior import Normal
from unrelu.models.generator import Generator, as_generator, by
from unrelu.problem import Problem
from unrelu.result import Inversion, Status
from unrelu.runtime.array_types import Array

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:  # validate_data came with 1.6
    raise MissingPackageError(
        f'LatentInverter needs scikit-learn 1.6 or newer: pip install "scikit-learn>=1.6" ({error})', name="sklearn"
    ) from error


# Statuses that raise a warning: there is no code, or the search did not converge.
_UNFINISHED = {Status.TIME_LIMIT, Status.STOPPED, Status.ERROR}


class LatentInverter(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Map rows x of X to latent codes z with A G(z) close to x, and codes back to outputs G(z).

    Each row of :math:`X \in R^{N \times m}` is one observation: a flattened output of the generator, or a measurement
    of it by ``operator``. :meth:`transform` calls :func:`unrelu.invert` for the rows.

    A row's code may depend on the other rows of the call: random starts are drawn for the whole batch, and if a row has
    several best codes, other starts may find another one. It does not depend on them for data that the generator fits
    exactly, and for layer-wise methods.

    Args:
        network: G, from :func:`unrelu.load`, :func:`unrelu.from_torch` or :func:`unrelu.from_arrays`; or a function
            ``X -> G``, called by :meth:`fit`, for generators that are trained on the data (in a cross-validation, on
            the training rows only).
        method: a name of the registry or a callable, as in :func:`unrelu.invert`.
        operator: A, for all rows: a mask, a matrix, ..., as in :func:`unrelu.invert`.
        noise: the noise of X, as in :func:`unrelu.invert`.
        bounds: bounds of the codes, as in :func:`unrelu.invert`.
        norm: "l2", "l1", "linf" or "huber:D"; by default that of the noise.
        prior: weight of :math:`|z|_2^2` in the l2 objective, or :class:`unrelu.Normal`, as in :func:`unrelu.invert`.
        hide_nan: whether NaN entries of X count as not observed. Codes are then found from the other entries, and
            ``inverse_transform(transform(X))`` fills in the NaN entries. By default they are an error.
        time_limit: seconds for each call.
        random_state: seed of the random starts: an integer, a ``RandomState``, or None for a new seed in each
            :meth:`fit`. A fitted transformer always gives the same codes for the same rows.
        options: options of the method, as a dictionary.
        scale: as in :func:`unrelu.invert`: (low, high) maps the range of X (bytes, or floats in [0, 1]) to this one;
            codes, :meth:`score` and ``noise`` then refer to the scaled rows. Rows on another scale of pictures than the
            generator are an error, except with "none".

    Attributes:
        network_: G.
        operator_: A.
        seed_: the seed of every call after :meth:`fit`.
        n_features_in_: m.
        feature_names_in_: the names of X's columns, if all are strings.

    Raises:
        MissingPackageError: at the import, if scikit-learn 1.6 or newer is not installed.
    """

    def __init__(
        self,
        network: Generator | Callable[[Array], Generator],
        method: str | Method = "auto",
        *,
        operator: Any = None,
        noise: Noise | str | None = None,
        bounds: Any = None,
        norm: str | None = None,
        prior: float | Normal = 0.0,
        hide_nan: bool = False,
        time_limit: float | None = None,
        random_state: int | np.random.RandomState | None = 0,
        options: Mapping[str, Any] | None = None,
        scale: str | tuple[float, float] | None = None,
    ) -> None:
        self.network = network
        self.method = method
        self.operator = operator
        self.noise = noise
        self.bounds = bounds
        self.norm = norm
        self.prior = prior
        self.hide_nan = hide_nan
        self.time_limit = time_limit
        self.random_state = random_state
        self.options = options
        self.scale = scale

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check parameters and X, and train the generator if ``network`` is a function; no codes are computed.

        Args:
            X: observations, (N, m).
            y: ignored.

        Raises:
            InputError: X has a wrong number of columns for the generator or ``operator``, or is on another scale than
                its outputs; or ``operator``, ``noise``, ``bounds``, ``norm``, ``prior``, ``time_limit`` or ``scale``
                cannot be used.
            OptionError: ``network`` is not a generator, or ``method`` or ``options`` is not valid.
        """
        table = self._table(X, reset=True)
        make(self.method, self._options())
        network = self._generator(table)
        operator = self._read_operator(network, table)
        random = check_random_state(self.random_state)
        seed = self.random_state if isinstance(self.random_state, int | np.integer) else random.randint(2**31 - 1)
        rows, stated = self._stated(table, operator)
        Problem.build(network, rows, seed=int(seed), **stated)
        self.network_ = network
        self.operator_ = operator
        self.seed_ = int(seed)
        self._n_features_out = network.latent_dim
        return self

    def transform(self, X: Any) -> Any:
        """Return latent codes, flat as scikit-learn has tables, (N, k), for observations (N, m).

        A row without a code is NaN, which most estimators refuse. One ``ConvergenceWarning`` names rows without a code
        and rows whose search did not converge. :meth:`invert` returns the status of every row.

        Raises:
            NotFittedError: :meth:`fit` was not called.
            InputError: the method cannot use these rows.
            UnsupportedModelError: the method cannot invert this generator, or not under this operator.
            ValueError: X is not a table of numbers like that of :meth:`fit`; raised by scikit-learn.
        """
        result = self._warned(X)
        return result.z.reshape(result.problem.size, -1)

    def invert(self, X: Any) -> Inversion:
        """Return the whole result for observations (N, m): code, objective, status and identifiability of every row.

        It does not warn. It raises the same errors as :meth:`transform`.
        """
        check_is_fitted(self)
        rows, stated = self._stated(self._table(X, reset=False), self.operator_)
        return invert(self.network_, rows, self.method, seed=self.seed_, **stated, **self._options())

    def inverse_transform(self, X: Any) -> Array:
        """Return G(z), flattened, (N, n), for codes (N, k); NaN for codes of NaN.

        It returns the whole output, even if ``operator`` measures a part of it.

        Raises:
            NotFittedError: :meth:`fit` was not called.
            InputError: X does not have k columns.
            ValueError: X is not a table of numbers; raised by scikit-learn.
        """
        check_is_fitted(self)
        codes = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan", estimator=self, input_name="X")
        if codes.shape[1] != self.network_.latent_dim:
            raise InputError(
                f"X has {codes.shape[1]} features; the generator takes codes of {self.network_.latent_dim}: pass "
                "what transform returned"
            )
        return self.network_.outputs(codes).reshape(len(codes), -1)

    def score(self, X: Any, y: Any = None) -> float:
        r"""Return minus the root mean square residual of a row, averaged over rows; the best score is 0.

        :math:`-\frac{1}{N} \sum_i |x_i - A G(z_i)|_2 / \sqrt{m_i}`, for every ``norm``, so that scores of different
        parameters can be compared. It measures how well the generator can reproduce X. It cannot select a ``prior``,
        which only makes the misfit of these rows larger: choose that by the use of the codes, or by observations whose
        clean outputs are known.

        Args:
            X: observations, (N, m).
            y: ignored.

        Returns:
            A number; NaN if a row has no code, which a search over parameters ranks last. Warnings and errors are those
            of :meth:`transform`.
        """
        result = self._warned(X)
        return -float(np.mean(result.residual("l2") / np.sqrt(result.problem.observed)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = bool(self.hide_nan)
        return tags

    def _table(self, X: Any, *, reset: bool) -> npt.NDArray[Any]:
        """X as an array in its own type, bytes or floats."""
        finite = "allow-nan" if self.hide_nan else True
        return np.asarray(validate_data(self, X, dtype="numeric", ensure_all_finite=finite, reset=reset))

    def _options(self) -> dict[str, Any]:
        if self.options is None:
            return {}
        if not isinstance(self.options, Mapping):
            raise OptionError(f"options={self.options!r} must be a dictionary of options of the method, or None")
        return dict(self.options)

    def _stated(self, table: npt.NDArray[Any], operator: Operator) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Rows as observations, and arguments of ``invert``, with a mask for each row if entries are missing."""
        rows = table.reshape(len(table), *operator.shape)  # (1, n) of the output's own shape would be one observation
        seen = ~np.isnan(table)
        stated = {name: getattr(self, name) for name in ("noise", "bounds", "norm", "prior", "time_limit", "scale")}
        return rows, {"operator": operator if seen.all() else Mask(seen), **stated}

    def _generator(self, table: npt.NDArray[Any]) -> Generator:
        """The generator: ``network`` itself, or its value for the scaled training rows if it is a function."""
        network = self.network
        if isinstance(network, torch.nn.Module | Generator) or not callable(network):
            return as_generator(network)
        made = network(Scaling.parse(self.scale).apply(np.array(table, dtype=np.float64), table.dtype))
        if not isinstance(made, Generator):
            raise OptionError(
                f"network made a {type(made).__name__} of X; return a generator, as from_arrays makes one"
            )
        return made

    def _read_operator(self, network: Generator, table: npt.NDArray[Any]) -> Operator:
        """A, read once: code is tested, and made a matrix if it is small."""
        names = network.names.latent_names
        tried = searched(network, Bounds.parse(self.bounds, network.latent_shape, names), self.prior)
        operator = read_operator(self.operator, network.output_shape, table.shape, tried)
        if operator.count:
            raise InputError(
                f"operator= has a mask for each of {operator.count} rows, but other rows will come; pass one for all, "
                "or mark what was not observed as NaN and pass hide_nan=True"
            )
        if operator.m != table.shape[1]:
            shape = by(network.output_shape)
            raise InputError(
                f"X has {table.shape[1]} features, but the generator has {operator.m} outputs ({shape}): pass one "
                "flattened output a row, or what was measured of it as operator="
                if self.operator is None
                else f"X has {table.shape[1]} features, but operator= measures {operator.m} numbers of an output "
                f"({shape}): pass these, one observation a row"
            )
        if self.hide_nan and self.operator is not None:
            raise InputError("hide_nan=True hides entries of the whole output, and operator= was given; pass one")
        return operator

    def _warned(self, X: Any) -> Inversion:
        result = self.invert(X)
        missing = np.asarray(np.isnan(result.z.reshape(result.problem.size, -1)).any(axis=1))
        unfinished = missing | np.array([status in _UNFINISHED for status in result.status])
        if unfinished.any():
            kinds = {status: np.flatnonzero(unfinished & (result.status == status)) for status in Status}
            named = [
                f"{status} in {len(rows)}, first in row {rows[0]}: {result.message[rows[0]]}"
                for status, rows in kinds.items()
                if len(rows)
            ]
            warnings.warn(
                f"{int(unfinished.sum())} of {len(missing)} rows ended early, {int(missing.sum())} without a code "
                f"(NaN). {'; '.join(named)}",
                ConvergenceWarning,
                stacklevel=3,
            )
        return result
