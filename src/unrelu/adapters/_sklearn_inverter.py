"""Latent codes as features: a generator as a scikit-learn transformer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch

from unrelu._invert import invert
from unrelu.errors import MissingPackageError
from unrelu.measurements import Mask
from unrelu.measurements.noise import Noise
from unrelu.methods import Method
from unrelu.models.generator import Generator, as_generator
from unrelu.parameters.code_prior import Normal
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


class LatentInverter(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Map rows x of X to latent codes z with A G(z) close to x, and codes back to outputs G(z).

    Each row of :math:`X \in R^{N \times m}` is one observation: a flattened output of the generator, or a measurement
    of it by ``operator``. :meth:`transform` calls :func:`unrelu.invert` for the rows, which checks the parameters.

    A row's code may depend on the other rows of the call, as random starts are drawn for the whole batch. It does not
    for data that the generator fits exactly, and for layer-wise methods.

    Args:
        network: G, from :func:`unrelu.load`, :func:`unrelu.from_torch` or :func:`unrelu.from_arrays`; or a function
            ``X -> G``, called by :meth:`fit`, for generators that are trained on the data (in a cross-validation, on
            the training rows only).
        method, operator, noise, bounds, norm, prior, time_limit, scale: as in :func:`unrelu.invert`; A is the same for
            all rows.
        hide_nan: whether NaN entries of X count as not observed. Codes are then found from the other entries, and
            ``inverse_transform(transform(X))`` fills in the NaN entries. By default they are an error.
        random_state: seed of the random starts: an integer, a ``RandomState``, or None for a new seed in each
            :meth:`fit`. A fitted transformer always gives the same codes for the same rows.
        options: options of the method, as a dictionary.

    Attributes:
        network_: G.
        seed_: the seed of every call after :meth:`fit`.
        n_features_in_: m.
        feature_names_in_: the names of X's columns, if all are strings.
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
        """Check X, (N, m), and train the generator if ``network`` is a function; no codes are computed."""
        table, network = self._table(X, reset=True), self.network
        trained = callable(network) and not isinstance(network, Generator | torch.nn.Module)
        self.network_ = as_generator(network(table) if trained else network)
        given, random = self.random_state, check_random_state(self.random_state)
        self.seed_ = int(given if isinstance(given, int | np.integer) else random.randint(2**31 - 1))
        self._n_features_out = self.network_.latent_dim
        return self

    def transform(self, X: Any) -> Array:
        """Return latent codes, flat as scikit-learn has tables, (N, k), for observations (N, m).

        A row without a code is NaN, which most estimators refuse. A ``ConvergenceWarning`` counts these rows, and those
        whose search did not converge. :meth:`invert` returns the status of every row.

        Raises:
            NotFittedError: :meth:`fit` was not called.
            ValueError: X is not a table of numbers like that of :meth:`fit`.
            UnreluError: :func:`unrelu.invert` cannot use a parameter, the method or these rows.
        """
        result = self._warned(X)
        return result.z.reshape(result.problem.size, -1)

    def invert(self, X: Any) -> Inversion:
        """Return the whole result for observations (N, m), without a warning; errors are those of :meth:`transform`."""
        check_is_fitted(self)
        table = self._table(X, reset=False)
        hidden = np.isnan(table)
        stated = {name: getattr(self, name) for name in ("noise", "bounds", "norm", "prior", "time_limit", "scale")}
        operator = Mask(~hidden) if self.operator is None and hidden.any() else self.operator
        return invert(
            self.network_, table, self.method, operator=operator, seed=self.seed_, **stated, **(self.options or {})
        )

    def inverse_transform(self, X: Any) -> Array:
        """Return G(z), flattened, (N, n), for codes (N, k): the whole output for every ``operator``; NaN for NaN."""
        check_is_fitted(self)
        codes = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan", estimator=self, input_name="X")
        return self.network_.outputs(codes).reshape(len(codes), -1)

    def score(self, X: Any, y: Any = None) -> float:
        r"""Return minus the root mean square residual of a row, averaged over rows; the best score is 0.

        :math:`-\frac{1}{N} \sum_i |x_i - A G(z_i)|_2 / \sqrt{m_i}`, for every ``norm``, so that scores of different
        parameters can be compared. It cannot select a ``prior``, which only makes the misfit larger: choose that by the
        use of the codes. It is NaN if a row has no code. Warnings and errors are those of :meth:`transform`.
        """
        result = self._warned(X)
        return -float(np.mean(result.residual("l2") / np.sqrt(result.problem.observed)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = bool(self.hide_nan)
        return tags

    def _table(self, X: Any, *, reset: bool) -> Any:
        """Check X, and return it as an array of its own type, bytes or floats."""
        finite = "allow-nan" if self.hide_nan else True
        return np.asarray(validate_data(self, X, dtype="numeric", ensure_all_finite=finite, reset=reset))

    def _warned(self, X: Any) -> Inversion:
        """Invert the rows of X, and warn of those that ended early or have no code."""
        result = self.invert(X)
        size, early = result.problem.size, (Status.TIME_LIMIT, Status.STOPPED, Status.ERROR)
        missing = np.isnan(result.z.reshape(size, -1).sum(axis=1))
        ended = [status in early for status in np.atleast_1d(result.status)]
        if rows := np.flatnonzero(missing | ended).tolist():
            warnings.warn(
                f"{len(rows)} of {size} rows ended early, {missing.sum()} without a code (NaN); first row {rows[0]}: "
                f"{np.atleast_1d(result.message)[rows[0]]}",
                ConvergenceWarning,
                stacklevel=3,
            )
        return result
