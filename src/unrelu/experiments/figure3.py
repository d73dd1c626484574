"""Figure 3: noisy pictures of digits, and what the methods make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy.stats import binomtest

from unrelu import zoo
from unrelu.experiments.drawing import grid_of_images
from unrelu.experiments.experiment import Claim, Experiment, Numbers, Row, Unit, Verdict, draw_seed, random
from unrelu.experiments.instances import METHODS, oracle, relative_error
from unrelu.solve import invert

__all__ = ["EXPERIMENTS"]

Array = npt.NDArray[np.float64]

_NETWORK = "mnist-relu"
_SIDE = 28
_VARIANCE = 0.3
# The paper writes N(0, a) for noise of level a, so that 0.3 may have been meant as the deviation.
_LEVELS = {"variance 0.3": _VARIANCE**0.5, "deviation 0.3": 0.3}
_READ = "variance 0.3"
_SOURCES = ("generated", "real")
_BATCH, _BATCHES = 25, 4  # pictures of each source that are inverted together, and how often
_DRAWN = 8  # of each source
# The name of a row of the picture, and what is run. The last one is told the noise and the prior of the codes.
_RUN = ("linf", "linf, told", "l1", "GD, trained", "auto", "auto, prior")
_LABELS = {"GD, trained": "GD", "linf, told": "linf, noise told", "auto, prior": "auto, noise\nand prior told"}
_BEST = "auto, clean picture"  # how well the generator can draw it


def _units(quick: bool) -> list[Unit]:
    """A batch of generated and real pictures each, with its noise."""
    if quick:
        return [(_READ, 0)]
    return [(level, batch) for level in _LEVELS for batch in range(_BATCHES)]


def _instances(unit: Unit, seed: int, quick: bool) -> tuple[Array, Array, Array]:
    """The codes (c, k) of c generated pictures, those and c real ones (2c, n), and their noise.

    Levels share pictures, and the noise but for its size. The real ones have been held out of training.
    """
    level, batch = str(unit[0]), int(unit[1])
    network = zoo.load(_NETWORK)
    truth = random("truth", seed, "fig3", batch).standard_normal((_BATCH, network.latent_dim))
    order = random("order", seed, "fig3").permutation(len(zoo.digits()[1]))
    real = zoo.observations(_NETWORK)[order[batch * _BATCH : (batch + 1) * _BATCH]]
    noise = _LEVELS[level] * random("noise", seed, "fig3", batch).standard_normal((2, _BATCH, network.output_dim))
    count = _DRAWN if quick else _BATCH
    clean = np.concatenate([network(truth)[:count], real[:count]])
    return truth[:count], clean, noise[:, :count].reshape(2 * count, -1)


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    level, batch = str(unit[0]), int(unit[1])
    network = zoo.load(_NETWORK)
    truth, clean, noise = _instances(unit, seed, quick)
    count, deviation = len(truth), _LEVELS[level]
    start = draw_seed(random("starts", seed, "fig3", batch))
    rows: list[Row] = []

    def record(method: str, z: Array, x: Array, seconds: npt.NDArray[np.float64] | None) -> None:
        """One row a picture; a method that found no code is charged for a blank picture."""
        mse = ((np.nan_to_num(x) - clean[: len(x)]) ** 2).mean(axis=1)
        errors = relative_error(z[:count], truth)
        for i in range(len(x)):
            source, image = _SOURCES[i // count], batch * _BATCH + i % count
            shown = z[i] if image < _DRAWN and np.isfinite(z[i]).all() else None
            error = errors[i] if source == "generated" else None
            rows.append((level, source, image, method, mse[i], error, shown, None if seconds is None else seconds[i]))

    for method in _RUN:
        name, options = METHODS[method.removesuffix(", prior").removesuffix(", told")]
        given: dict[str, Any] = {"prior": deviation**2} if method == "auto, prior" else {}
        if method in ("auto, prior", "linf, told"):
            given["noise"] = f"gaussian:{deviation:.6f}"
        result = invert(network, clean + noise, name, seed=start, **options, **given)
        record(method, result.z, result.x, result.seconds)
    z = oracle(network, truth, noise[:count])
    # On the linear piece of the true code: at this noise z may lie on another one, where it is no oracle.
    moved = np.einsum("bnk,bk->bn", network.jacobian(truth), z - truth)
    record("oracle", z, clean[:count] + moved, None)
    result = invert(network, clean, "auto", seed=start)
    record(_BEST, result.z, result.x, result.seconds)
    return rows


def _draw(numbers: Numbers) -> Figure:
    """The first pictures of either source, as the paper's figure has them; mean squared errors are medians of all."""
    _, clean, noise = _instances((_READ, 0), numbers.seed, numbers.quick)
    halves = [x.reshape(2, len(x) // 2, -1) for x in (clean, clean + noise)]
    grid = [_line([[_picture(x) for x in half[:_DRAWN]] for half in both]) for both in halves]
    labels = ["clean", f"observed\nMSE {_VARIANCE:g}"]
    for method in _RUN:
        shown = numbers.where(noise=_READ, method=method)
        grid.append(_line([[_shown(shown, source, i) for i in range(_DRAWN)] for source in _SOURCES]))
        errors = ", ".join(f"{_median(numbers, method, source):.2g}" for source in _SOURCES)
        labels.append(f"{_LABELS.get(method, method)}\nMSE {errors}")
    columns = [""] * len(grid[0])
    columns[0], columns[-_DRAWN] = "generated by the network", "real digits, held out of its training"
    return grid_of_images(grid, labels, columns)[0]


def _line(halves: Sequence[Sequence[Array | None]]) -> list[Array | None]:
    """A row of the picture, with a gap between the sources."""
    return [*halves[0], None, *halves[1]]


def _picture(x: Array) -> Array:
    return x.reshape(_SIDE, _SIDE)


def _shown(numbers: Numbers, source: str, image: int) -> Array | None:
    """The picture of a code that is kept in the rows."""
    (row,) = numbers.where(source=source, image=image).rows
    code = row[numbers.columns.index("code")]
    return None if code is None else _picture(zoo.load(_NETWORK)(np.array(code)))


def _mse(numbers: Numbers, method: str, source: str, level: str = _READ) -> Array:
    """Mean squared errors, one a picture, in the same order for every method."""
    return numbers.column("mse", noise=level, source=source, method=method).astype(float)


def _median(numbers: Numbers, method: str, source: str, level: str = _READ) -> float:
    return float(np.median(_mse(numbers, method, source, level)))


def _closer(numbers: Numbers, level: str) -> tuple[dict[str, float], str]:
    """The share of pictures on which linf is closer to the clean one than GD, and a sentence."""
    share = {s: float(np.mean(_mse(numbers, "linf", s, level) < _mse(numbers, "GD, trained", s, level)))
             for s in _SOURCES}  # fmt: skip
    said = "; ".join(
        f"{s}: linf closer on {share[s]:.0%}, median MSE {_median(numbers, 'linf', s, level):.2g} against "
        f"{_median(numbers, 'GD, trained', s, level):.2g}"
        for s in _SOURCES
    )
    return share, f"{level}: {said}"


def _claims(numbers: Numbers) -> list[Claim]:
    heard = ", ".join(f"{s} {_median(numbers, 'linf, told', s):.2g}" for s in _SOURCES)
    shares, said = zip(*(_closer(numbers, level) for level in numbers.distinct("noise")), strict=True)
    least, most = min(shares[0].values()), max(max(share.values()) for share in shares)
    linf, floor, told = (_median(numbers, m, "generated") for m in ("linf", "oracle", "auto, prior"))
    descent = {s: _median(numbers, "GD, trained", s) for s in _SOURCES}
    blind = {s: _median(numbers, "auto", s) for s in _SOURCES}
    prior = {s: _median(numbers, "auto, prior", s) for s in _SOURCES}
    won = {s: _mse(numbers, "auto, prior", s) < _mse(numbers, "GD, trained", s) for s in _SOURCES}
    wins = {s: float(np.mean(won[s])) for s in _SOURCES}
    # Half of the pictures, and some, are won by chance.
    chance = {s: float(binomtest(int(won[s].sum()), won[s].size, alternative="greater").pvalue) for s in _SOURCES}
    real, best = _median(numbers, "auto, prior", "real"), _median(numbers, _BEST, "real")
    return [
        Claim(
            "Figure 3", "linf's reconstructions are clearly closer to the ground truth than gradient descent's",
            ". ".join(said) + f". linf that is told the noise: {heard}",
            Verdict.of(least >= 0.75, most > 0.5),
            "the largest error of 784 pixels is mostly the noise of one; the sum of squares, which gradient descent "
            "minimises, averages the noise of all",
        ),
        Claim(
            "Section 5.2", "linf almost perfectly denoises",
            f"generated pictures, median MSE: linf {linf:.2g}, the noise {_VARIANCE:g}, the oracle {floor:.2g}",
            Verdict.of(linf <= 2 * floor, linf <= 0.1 * _VARIANCE),
            "linf follows the noise of single pixels, and the error of the last layer is amplified by the first",
        ),
        Claim(
            "unrelu, Figure 3", "auto that is told the noise and the prior is closer than gradient descent",
            "; ".join(f"{s}: closer on {wins[s]:.0%} (by chance: p = {chance[s]:.1g}), median MSE {prior[s]:.2g} "
                      f"against {descent[s]:.2g}, without being told {blind[s]:.2g}" for s in _SOURCES),
            Verdict.of(all(prior[s] <= descent[s] and chance[s] < 0.01 for s in _SOURCES),
                       any(prior[s] <= descent[s] for s in _SOURCES)),
            "real digits are further from all that the generator draws than the noise moves the code",
        ),
        Claim(
            "unrelu, Figure 3", "auto that is told the noise and the prior denoises as well as the oracle",
            f"generated pictures, median MSE: {told:.2g}, the oracle {floor:.2g}",
            Verdict.of(told <= floor, told <= 2 * floor),
            "the oracle is told the sign of every neuron",
        ),
        Claim(
            "unrelu, Figure 3", "most of the error on real digits is that the generator cannot draw them",
            f"median MSE of auto with noise and prior told: {real:.2g}, of auto on the clean digits: {best:.2g}",
            Verdict.of(best >= 0.5 * real, best >= 0.25 * real),
        ),
    ]  # fmt: skip


EXPERIMENTS = {
    "fig3": Experiment(
        name="fig3",
        title="Figure 3: noisy digits",
        about=(
            f"The zoo's `{_NETWORK}`, 20-60-784. {_BATCH * _BATCHES} of its own pictures, codes N(0, I), as in the "
            f"paper, and {_BATCH * _BATCHES} real digits that were held out of its training, with Gaussian noise of "
            "variance 0.3 on every pixel; once more with a standard deviation of 0.3, as the paper writes N(0, a) for "
            f"level a. The first {_DRAWN} of either are drawn. GD makes up to 10,000 steps of length 1e-3 from "
            "a normal start. Two methods are told the noise, one of them also that codes are N(0, I). MSE: mean square "
            "of the picture's error against the clean one. The oracle is least squares with all ReLU signs known."
        ),
        columns=("noise", "source", "image", "method", "mse", "error", "code", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}
