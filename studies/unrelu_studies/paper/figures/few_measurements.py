"""Recovery from few random measurements, as a generator's codes and by sparsity: the comparison of CSGM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from scipy.fft import dct

from unrelu import zoo
from unrelu._invert import invert
from unrelu_studies.kit.measures import lasso, median, moved_by, relative_error
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import cloud, legend, panels, tidy
from unrelu_studies.kit.random_instances import draw_seed, gaussian_measurements, random
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict

Array = npt.NDArray[np.float64]

_NETWORK = "mnist-relu"
_SIDE, _LATENT = 28, 20
_MEASUREMENTS = (10, 20, 25, 30, 40, 50, 75, 100, 150, 200, 300, 400, 500, 750)
_QUICK = (25, 300)
_SOURCES = ("generated", "real")
_COUNT, _COUNT_QUICK = 20, 2  # pictures of each source
_NOISE = 0.1  # the norm of the noise, as in CSGM
_TUNED = 10  # other pictures that tell the Lasso's weight
# Weights as shares of the least one that gives zero, in the order of solving, each from the solution before.
_SHARES = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)
_STEPS_TUNED = 200
_RUN: dict[str, tuple[str, dict[str, Any]]] = {
    "adam": ("adam", {"restarts": 10}),
    "lm": ("lm", {}),
    "auto": ("auto", {}),
    "auto, prior": ("auto", {}),
}
# A code is recovered if its relative error is at most this; the noise is about 1% of the measurements.
_RECOVERED = 0.1
# Published: so many times fewer measurements, for the same error. Below the least m there is not much to compare.
_PUBLISHED, _LEAST = 5, 50


def cosines(side: int) -> Array:
    """The orthogonal matrix of the two-dimensional discrete cosine transform of pictures side x side."""
    one = dct(np.eye(side), norm="ortho", axis=0)
    return np.kron(one, one)


def wavelets(side: int, levels: int) -> Array:
    """The orthogonal matrix of the two-dimensional Haar transform; 2**levels has to divide the side."""
    whole = np.eye(side * side)
    places = np.arange(side * side).reshape(side, side)
    for level in range(levels):
        n = side >> level
        # Means before differences, along both axes, of the means of the level before.
        one = np.concatenate([np.kron(np.eye(n // 2), [[1, sign]]) for sign in (1, -1)]) / 2**0.5
        rows = places[:n, :n].ravel()
        whole[rows] = np.kron(one, one) @ whole[rows]
    return whole


def _units(quick: bool) -> list[Unit]:
    """One measurement matrix each."""
    return [(source, m) for source in _SOURCES for m in (_QUICK if quick else _MEASUREMENTS)]


def _pictures(source: str, tuning: bool, count: int, seed: int) -> tuple[Array | None, Array]:
    """Codes (c, k), if the pictures have some, and pictures (c, n); those for tuning are others. All m share them."""
    network = zoo.load(_NETWORK)
    if source == "generated":
        truth = random("truth", seed, "measurements", tuning).standard_normal((count, network.latent_dim))
        return truth, network(truth)
    order = random("order", seed, "measurements").permutation(len(zoo.digits()[1]))
    return None, zoo.observations(_NETWORK)[order[-count:] if tuning else order[:count]]


def _observe(x: Array, m: int, seed: int, *key: str | float) -> tuple[Array, Array]:
    """A (m, n), A_ij ~ N(0, 1/m), and A x + e with E |e|_2^2 = 0.1^2."""
    a = gaussian_measurements(m, x.shape[1], random("measurement matrix", seed, *key))
    return a, x @ a.T + _NOISE / m**0.5 * random("noise", seed, *key).standard_normal((len(x), m))


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    source, m = str(unit[0]), int(unit[1])
    network = zoo.load(_NETWORK)
    truth, x = _pictures(source, False, _COUNT_QUICK if quick else _COUNT, seed)
    a, y = _observe(x, m, seed, "measurements", *unit)
    blank, start = (x**2).mean(axis=1), draw_seed(random("starts", seed, "measurements", *unit))
    if truth is None:
        rows: list[Row] = [(source, m, i, "blank", blank[i], None, None, None, None) for i in range(len(x))]
    else:
        told = np.linalg.matrix_rank(a @ network.jacobian(truth)) == network.latent_dim
        rows = [(source, m, i, "blank", blank[i], None, told[i], None, None) for i in range(len(x))]
        rows += _oracle(m, a @ network.jacobian(truth), y - x @ a.T, truth)
    for method, (name, options) in _RUN.items():
        prior = _NOISE**2 / m if method == "auto, prior" else 0.0
        result = invert(network, y, name, operator=a, prior=prior, seed=start, **options)
        mse = ((np.nan_to_num(result.reconstruction) - x) ** 2).mean(axis=1)
        errors = [None] * len(x) if truth is None else relative_error(result.z, truth)
        rows += [(source, m, i, method, mse[i], errors[i], None, None, result.seconds[i]) for i in range(len(x))]
    _, others = _pictures(source, True, _COUNT_QUICK if quick else _TUNED, seed)
    for name, basis in _bases().items():
        share = _tuned(basis, others, *_observe(others, m, seed, "measurements, tuning", *unit))
        mse = ((_sparse(basis, a, y, (share,))[0] - x) ** 2).mean(axis=1)
        rows += [(source, m, i, name, mse[i], None, None, share, None) for i in range(len(x))]
    return rows


def _oracle(m: int, jacobian: Array, e: Array, truth: Array) -> list[Row]:
    """z* + (A J)^+ e: least squares with all ReLU signs known; with m < k it also knows what A J does not tell."""
    errors = relative_error(moved_by(jacobian, truth, e), truth)
    return [("generated", m, i, "oracle", None, error, None, None, None) for i, error in enumerate(errors)]


def _bases() -> dict[str, Array]:
    """Orthogonal matrices W in whose coefficients W x pictures are taken for sparse."""
    return {"lasso, pixels": np.eye(_SIDE**2), "lasso, DCT": cosines(_SIDE), "lasso, wavelets": wavelets(_SIDE, 2)}


def _sparse(basis: Array, a: Array, y: Array, shares: Sequence[float], steps: int = 1_000) -> list[Array]:
    """The Lasso's pictures for every weight; pixels are not negative."""
    b = a @ basis.T
    largest = np.abs(y @ b).max(axis=1)
    found, c = [], None
    for share in shares:
        c = lasso(b, y, share * largest, c, steps)
        found.append(np.maximum(c @ basis, 0))
    return found


def _tuned(basis: Array, x: Array, a: Array, y: Array) -> float:
    """The weight of the least median error on pictures that are not reported, under another matrix of the same size."""
    errors = [np.median(((found - x) ** 2).mean(axis=1)) for found in _sparse(basis, a, y, _SHARES, _STEPS_TUNED)]
    return _SHARES[int(np.argmin(errors))]


def _draw(numbers: Numbers) -> Figure:
    figure, axes = panels(1, 2, height=3.2)
    ms = numbers.distinct("m")
    methods = [*_RUN, *_bases()]
    titles = {"generated": "pictures that it generates", "real": "real digits, held out of its training"}
    for axis, source in zip(axes, _SOURCES, strict=True):
        for i, method in enumerate(methods):
            groups = [numbers.column("mse", source=source, m=m, method=method).astype(float) for m in ms]
            cloud(axis, ms, groups, method, place=0.01 * (i - 3))
        axis.axvline(_LATENT, color="0.6", linewidth=0.8, linestyle="--", zorder=1)
        tidy(axis, "measurements m", "mean square error a pixel", titles[source], log="xy")
        axis.xaxis.set_major_locator(FixedLocator([10, 20, 50, 100, 200, 400, 750]))
        axis.annotate(
            "m = k", (_LATENT, 0), (2, 3), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=7,
            color="0.4",
        )  # fmt: skip
    legend(figure, axes[0], 4)
    return figure


def _medians(numbers: Numbers, source: str, method: str) -> dict[int, float]:
    return {m: median(numbers, "mse", source=source, m=m, method=method) for m in numbers.distinct("m")}


def _best_lasso(numbers: Numbers, source: str) -> dict[int, float]:
    """The least median error of the three bases at every m."""
    every = [_medians(numbers, source, basis) for basis in _bases()]
    return {m: min(one[m] for one in every) for m in every[0]}


def _saved(numbers: Numbers, source: str, method: str) -> dict[int, float]:
    """For every m of the best Lasso: how many times fewer measurements give an error at most as large; 0 if none do."""
    mine, theirs = _medians(numbers, source, method), _best_lasso(numbers, source)
    return {
        m: max((m / n for n, error in mine.items() if error <= theirs[m]), default=0.0) for m in theirs if m >= _LEAST
    }


def _enough(numbers: Numbers, values: dict[int, float]) -> str:
    """From which m on a share is at least 95%."""
    good = [m for m in values if all(share >= 0.95 for other, share in values.items() if other >= m)]
    return f"m = {min(good)}" if good else "no m"


def _recovered(numbers: Numbers, method: str) -> dict[int, float]:
    """The share of generated codes that are recovered at every m."""
    return {
        m: float(np.mean(numbers.column("error", source="generated", m=m, method=method).astype(float) <= _RECOVERED))
        for m in numbers.distinct("m")
    }


def _published(numbers: Numbers, method: str) -> tuple[Verdict, str]:
    saved = {source: _saved(numbers, source, method) for source in _SOURCES}
    reached = {source: [v for v in s.values() if v] for source, s in saved.items()}
    never = [m for m, value in saved["real"].items() if not value]
    said = "; ".join(
        f"{source}: {min(v):.3g} to {max(v):.3g} times fewer" if v else f"{source}: never"
        for source, v in reached.items()
    )
    said += f"; on real digits no m gives the error of the Lasso from {min(never)} or more" if never else ""
    real = reached["real"]
    return Verdict.of(not never and min(real) >= _PUBLISHED, bool(real) and max(real) >= _PUBLISHED), said


def _claims(numbers: Numbers) -> list[Claim]:
    adam, ours = (_published(numbers, method) for method in ("adam", "auto"))
    told = {m: float(numbers.column("told", source="generated", m=m, method="blank").astype(float).mean())
            for m in numbers.distinct("m")}  # fmt: skip
    shares = {method: _recovered(numbers, method) for method in (*_RUN, "oracle")}
    behind = {m: shares["oracle"][m] - shares["auto"][m] for m in numbers.distinct("m") if m > _LATENT}
    far = [m for m, gap in behind.items() if gap > 0.05 + 1e-9]  # one of twenty is no more than 5%
    from_ = {method: _enough(numbers, share) for method, share in shares.items()}
    auto = [m for m in shares["auto"] if from_["auto"] == f"m = {m}"]
    largest = max(numbers.distinct("m"))
    best, real = _best_lasso(numbers, "real")[largest], _medians(numbers, "real", "auto")[largest]
    few = [m for m in numbers.distinct("m") if _LATENT < m <= 2 * _LATENT]
    gain = {m: _medians(numbers, "real", "auto")[m] / _medians(numbers, "real", "auto, prior")[m] for m in few}
    return [
        Claim(
            "Bora et al. 2017", "CSGM needs 5-10 times fewer measurements than the Lasso for the same error",
            f"adam, 10 starts, against the best of three bases at m of {_LEAST} and more: {adam[1]}",
            adam[0],
            "no number of measurements brings the error on real digits below that with which the generator draws them",
        ),
        Claim(
            "Bora et al. 2017", "with many measurements the Lasso is better on real digits, as no code gives them",
            f"median MSE at m = {largest}: the best Lasso {best:.2g}, auto {real:.2g}",
            Verdict.of(best < real),
        ),
        Claim(
            "unrelu", "auto needs as few measurements as CSGM or fewer, for the error of the Lasso",
            f"auto: {ours[1]}",
            Verdict.of(*_no_worse(numbers)),
            "at some m, the code that fits best is not the one with the nearest picture",
        ),
        Claim(
            "unrelu", f"auto recovers the code from {2.5 * _LATENT:g} measurements, 2.5 times its {_LATENT} entries",
            f"relative error up to {_RECOVERED:g} in at least 95% of the runs: "
            + ", ".join(f"{method} from {start}" for method, start in from_.items())
            + f"; identifiable by rank in at least 95% from {_enough(numbers, told)}",
            Verdict.of(bool(auto) and auto[0] <= 2.5 * _LATENT, bool(auto)),
            "along some directions the picture hardly changes, and the noise moves the code: the oracle's, too",
        ),
        Claim(
            "unrelu", "from more than k measurements, auto recovers the code as often as the oracle",
            "share of auto, the oracle: "
            + ", ".join(f"m = {m} {shares['auto'][m]:.0%}, {shares['oracle'][m]:.0%}" for m in behind),
            Verdict.of(not far, all(m < 2.5 * _LATENT for m in far)),
            "with little more than k measurements a code on another linear piece may fit as well",
        ),
        Claim(
            "unrelu", "the prior of the codes helps with few measurements of real digits",
            "median MSE of auto / with the prior: " + (", ".join(f"{v:.2f} at m = {m}" for m, v in gain.items())),
            Verdict.of(all(v > 1 for v in gain.values()), any(v > 1 for v in gain.values())),
            "its weight is that of the noise, which is small against what the generator cannot draw",
        ),
    ]  # fmt: skip


def _no_worse(numbers: Numbers) -> tuple[bool, bool]:
    """Whether auto saves as much as adam at every m of the Lasso, and at most of them."""
    pairs = [
        (mine, theirs)
        for source in _SOURCES
        for mine, theirs in zip(
            _saved(numbers, source, "auto").values(), _saved(numbers, source, "adam").values(), strict=True
        )
    ]
    better = [mine >= theirs for mine, theirs in pairs]
    return all(better), float(np.mean(better)) > 0.5


EXPERIMENTS = {
    "measurements": Experiment(
        name="measurements",
        title="Few random measurements, against sparsity",
        about=(
            f"The zoo's `{_NETWORK}`, k = {_LATENT}. y = A x + e with m measurements, A_ij ~ N(0, 1/m), e Gaussian of "
            f"norm {_NOISE:g}, of {_COUNT} generated pictures and of {_COUNT} real digits that were held out of "
            "training. adam is CSGM's, with 10 starts; lm has one; `auto, prior` is given the noise's variance as the "
            "weight of |z|². The Lasso takes pictures for sparse in pixels, in the cosine transform or in Haar "
            f"wavelets of 2 levels; its weight has the least median error on {_TUNED} other pictures under another "
            f"matrix, out of {len(_SHARES)}, for every m, source and basis. Its negative pixels are set to 0. "
            "Lines are medians, dots are runs. The oracle is least squares with all ReLU signs known."
        ),
        columns=("source", "m", "image", "method", "mse", "error", "told", "weight", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}
