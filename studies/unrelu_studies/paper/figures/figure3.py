"""Figure 3: noisy pictures of digits, and what the methods make of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from scipy.stats import binomtest

from unrelu import zoo
from unrelu._invert import invert
from unrelu.runtime.array_types import Array
from unrelu_studies.kit.measures import median, oracle, relative_error
from unrelu_studies.kit.method_labels import options_of
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import grid_of_images
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.trained_generators import BOTH, TrainedGenerator, named
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict, on_each_generator

_SIDE = 28
_VARIANCE = 0.3
# The paper writes N(0, a) for noise of level a, so that 0.3 may have been meant as the deviation.
_LEVELS = {"variance 0.3": _VARIANCE**0.5, "deviation 0.3": 0.3}
_READ = "variance 0.3"
_SOURCES = ("generated", "real")
_BATCH, _BATCHES = 25, 2  # pictures of each source that are inverted together, and how often
_DRAWN = 4  # of each source
# The name of a row of the picture, and what is run. The last one is told the noise and the prior of the codes.
_RUN = ("linf", "linf, told", "l1", "GD, trained", "auto", "auto, prior")
_LABELS = {"GD, trained": "GD", "linf, told": "linf, noise told", "auto, prior": "auto, noise\nand prior told"}
_BEST = "auto, clean picture"  # how well the generator can draw it


def _units(generators: Sequence[TrainedGenerator], quick: bool) -> list[Unit]:
    """A batch of generated and real pictures each, with its noise."""
    kinds = [(_READ, 0)] if quick else [(level, batch) for level in _LEVELS for batch in range(_BATCHES)]
    return [(generator.name, *kind) for generator in generators for kind in kinds]


def _instances(
    generator: TrainedGenerator, level: str, batch: int, seed: int, quick: bool
) -> tuple[Array, Array, Array]:
    """The codes (c, k) of c generated pictures, those and c real ones (2c, n), and their noise.

    Levels share pictures, and the noise but for its size; generators share the real ones, which have been held out of
    training.
    """
    network = generator.load()
    truth = random("truth", seed, "fig3", generator.name, batch).standard_normal((_BATCH, network.latent_dim))
    digits = zoo.digits()[0].reshape(-1, _SIDE**2)
    order = random("order", seed, "fig3").permutation(len(digits))
    real = digits[order[batch * _BATCH : (batch + 1) * _BATCH]]
    noise = random("noise", seed, "fig3", generator.name, batch).standard_normal((2, _BATCH, _SIDE**2))
    count = _DRAWN if quick else _BATCH
    clean = np.concatenate([network(truth)[:count].reshape(count, -1), real[:count]])
    return truth[:count], clean, _LEVELS[level] * noise[:, :count].reshape(2 * count, -1)


def _measure(generators: Sequence[TrainedGenerator], unit: Unit, seed: int, quick: bool) -> list[Row]:
    name, level, batch = str(unit[0]), str(unit[1]), int(unit[2])
    generator = {generator.name: generator for generator in generators}[name]
    network = generator.load()
    truth, clean, noise = _instances(generator, level, batch, seed, quick)
    count, deviation = len(truth), _LEVELS[level]
    start = draw_seed(random("starts", seed, "fig3", name, batch))
    rows: list[Row] = []

    def record(method: str, z: Array, x: Array, seconds: npt.NDArray[np.float64] | None) -> None:
        """One row a picture; a method that found no code is charged for a blank picture."""
        mse = ((np.nan_to_num(x.reshape(len(x), -1)) - clean[: len(x)]) ** 2).mean(axis=1)
        errors = relative_error(z[:count], truth)
        for i in range(len(x)):
            source, image = _SOURCES[i // count], batch * _BATCH + i % count
            shown = z[i] if image < _DRAWN and np.isfinite(z[i]).all() else None
            error = errors[i] if source == "generated" else None
            spent = None if seconds is None else seconds[i]
            rows.append((name, level, source, image, method, mse[i], error, shown, spent))

    y = (clean + noise).reshape(2 * count, *network.output_shape)
    for method in _RUN:
        label, options = options_of(method.removesuffix(", prior").removesuffix(", told"), quick)
        given: dict[str, Any] = {"prior": deviation**2} if method == "auto, prior" else {}
        if method in ("auto, prior", "linf, told"):
            given["noise"] = f"gaussian:{deviation:.6f}"
        result = invert(network, y, label, seed=start, **options, **given)
        record(method, result.z, result.reconstruction, result.seconds)
    z = oracle(network, truth, noise[:count])
    # On the linear piece of the true code: at this noise z may lie on another one, where it is no oracle.
    jacobian = network.jacobian(truth).reshape(count, -1, network.latent_dim)
    record("oracle", z, clean[:count] + np.einsum("bnk,bk->bn", jacobian, z - truth), None)
    result = invert(network, clean.reshape(y.shape), "auto", seed=start)
    record(_BEST, result.z, result.reconstruction, result.seconds)
    return rows


def _draw(generators: Sequence[TrainedGenerator], numbers: Numbers) -> Figure:
    """The first pictures of either source, as the paper's figure has them; mean squared errors are medians of all."""
    parts = [_columns(generator, numbers.where(generator=generator.name)) for generator in generators]
    grid = [_joined(lines) for lines in zip(*(pictures for pictures, _ in parts), strict=True)]
    labels = ["clean", f"observed\nMSE {_VARIANCE:g}", *(_LABELS.get(method, method) for method in _RUN)]
    for i, method in enumerate(_RUN, 2):
        labels[i] += "\n" + "; ".join(medians[method] for _, medians in parts)
    columns = [""] * len(grid[0])
    for i, generator in enumerate(generators):
        first = 2 * (_DRAWN + 1) * i
        columns[first], columns[first + _DRAWN + 1] = f"generated by {generator.name}", "real digits"
    return grid_of_images(grid, labels, columns)[0]


def _columns(generator: TrainedGenerator, numbers: Numbers) -> tuple[list[list[Array | None]], dict[str, str]]:
    """What is drawn of one generator, a line of pictures a row, and the median errors of the methods in words."""
    _, clean, noise = _instances(generator, _READ, 0, numbers.seed, numbers.quick)
    grid, medians = [], {}
    for pictures in (clean, clean + noise):
        halves = pictures.reshape(2, len(pictures) // 2, -1)
        grid.append(_joined([[_picture(x) for x in half[:_DRAWN]] for half in halves]))
    for method in _RUN:
        shown = numbers.where(noise=_READ, method=method)
        grid.append(_joined([[_shown(generator, shown, source, i) for i in range(_DRAWN)] for source in _SOURCES]))
        medians[method] = ", ".join(f"{_median(numbers, method, source):.2g}" for source in _SOURCES)
    return grid, medians


def _joined(parts: Sequence[Sequence[Array | None]]) -> list[Array | None]:
    """Parts of a row of the picture, with a gap between them."""
    return [picture for part in parts for picture in (None, *part)][1:]


def _picture(x: Array) -> Array:
    return x.reshape(_SIDE, _SIDE)


def _shown(generator: TrainedGenerator, numbers: Numbers, source: str, image: int) -> Array | None:
    """The picture of a code that is kept in the rows."""
    (row,) = numbers.where(source=source, image=image).rows
    code = row[numbers.columns.index("code")]
    return None if code is None else _picture(generator.load()(np.array(code)))


def _mse(numbers: Numbers, method: str, source: str, level: str = _READ) -> Array:
    """Mean squared errors, one a picture, in the same order for every method."""
    return numbers.column("mse", noise=level, source=source, method=method).astype(float)


def _median(numbers: Numbers, method: str, source: str, level: str = _READ) -> float:
    return median(numbers, "mse", noise=level, source=source, method=method)


def _closer(numbers: Numbers) -> list[Claim]:
    """Whether linf is closer to the clean picture than gradient descent, in every reading on one generator."""

    def read(reading: str, by: str = "linf", level: str = _READ) -> Claim:
        ours, theirs = ([_mse(numbers, method, s, level) for s in _SOURCES] for method in (by, "GD, trained"))
        share = min(float(np.mean(a < b)) for a, b in zip(ours, theirs, strict=True))
        medians = ["; ".join(f"{np.median(mse):.2g}" for mse in errors) for errors in (ours, theirs)]
        return Claim(
            "Figure 3", "linf's reconstructions are clearly closer to the ground truth than gradient descent's",
            f"linf closer on {share:.0%} or more of the pictures; median MSE of generated; real pictures: linf "
            f"{medians[0]}, GD {medians[1]}",
            Verdict.of(share >= 0.75, share > 0.5),
            "the largest error of 784 pixels is mostly the noise of one; the sum of squares, which gradient descent "
            "minimises, averages the noise of all", reading,
        )  # fmt: skip

    claims = [read("")]
    if "deviation 0.3" in numbers.distinct("noise"):
        claims.append(read("0.3 is the standard deviation", level="deviation 0.3"))
    return [*claims, read("linf is told the noise", by="linf, told")]


def _denoises(numbers: Numbers) -> list[Claim]:
    """Whether linf denoises, in every reading on one generator."""

    def read(reading: str, method: str = "linf", level: str = _READ) -> Claim:
        linf, floor = (_median(numbers, m, "generated", level) for m in (method, "oracle"))
        variance = _LEVELS[level] ** 2
        return Claim(
            "Section 5.2", "linf almost perfectly denoises",
            f"generated pictures, median MSE: linf {linf:.2g}, the noise {variance:.2g}, the oracle {floor:.2g}",
            Verdict.of(linf <= 2 * floor, linf <= 0.1 * variance),
            "linf follows the noise of single pixels, and the error of the last layer is amplified by the first",
            reading,
        )  # fmt: skip

    claims = [read("")]
    if "deviation 0.3" in numbers.distinct("noise"):
        claims.append(read("0.3 is the standard deviation", level="deviation 0.3"))
    return [*claims, read("linf is told the noise", "linf, told")]


def _ours(numbers: Numbers) -> list[Claim]:
    floor, told = (_median(numbers, m, "generated") for m in ("oracle", "auto, prior"))
    descent, blind, prior = (
        {s: _median(numbers, m, s) for s in _SOURCES} for m in ("GD, trained", "auto", "auto, prior")
    )
    won = {s: _mse(numbers, "auto, prior", s) < _mse(numbers, "GD, trained", s) for s in _SOURCES}
    wins = {s: float(np.mean(won[s])) for s in _SOURCES}
    # Half of the pictures, and some, are won by chance.
    chance = {s: float(binomtest(int(won[s].sum()), won[s].size, alternative="greater").pvalue) for s in _SOURCES}
    real, best = _median(numbers, "auto, prior", "real"), _median(numbers, _BEST, "real")
    return [
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
            "the noise adds more",
        ),
    ]  # fmt: skip


def _claims(numbers: Numbers) -> list[Claim]:
    """The claims in all readings on one generator."""
    return [*_closer(numbers), *_denoises(numbers), *_ours(numbers)]


def _experiment(generators: Sequence[TrainedGenerator] = BOTH) -> Experiment:
    first = generators[0]
    held = "of MNIST" if first.origin == "file" else "that were held out of training"
    return Experiment(
        name="fig3",
        title="Figure 3: noisy digits" + (f" by {first.name}, {first.shape}" if first.origin == "file" else ""),
        about=(
            f"{named(generators)} {_BATCH * _BATCHES} pictures of its own, codes N(0, I), as in the paper, and "
            f"{_BATCH * _BATCHES} real digits {held}, with Gaussian noise of variance 0.3 on "
            "every pixel; once more with a standard deviation of 0.3, as the paper writes N(0, a) for level a and "
            f"its code takes a for the deviation. The first {_DRAWN} of either are drawn. GD makes up to 10,000 "
            "steps of length 1e-3 from a normal start. Two methods are told the noise, one of them also that codes are "
            "N(0, I). MSE: mean square of the picture's error against the clean one, beside the pictures the medians "
            "of generated and real ones. The oracle is least squares with all ReLU signs known."
        ),
        columns=("generator", "noise", "source", "image", "method", "mse", "error", "code", "seconds"),
        units=partial(_units, generators),
        measure=partial(_measure, generators),
        draw=partial(_draw, generators),
        claims=partial(on_each_generator, claims=_claims),
        network=first.record,
    )


def on_a_network(name: str, generator: TrainedGenerator) -> Experiment:
    """Figure 3 on one generator."""
    return _experiment((generator,))


EXPERIMENTS = {"fig3": _experiment()}
