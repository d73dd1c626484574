"""Figure 4: pictures with hidden pixels, and how often the methods find the whole."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullLocator

from unrelu._invert import invert
from unrelu.runtime.array_types import Array, Flags
from unrelu_studies.kit.measures import relative_error, said
from unrelu_studies.kit.method_labels import METHODS, options_of
from unrelu_studies.kit.numbers_file import Numbers, Row
from unrelu_studies.kit.picture_style import STYLES, grid_of_images, legend, tidy
from unrelu_studies.kit.random_instances import draw_seed, random
from unrelu_studies.kit.trained_generators import BOTH, TrainedGenerator, named
from unrelu_studies.kit.unit_runner import Unit
from unrelu_studies.paper.experiment import Claim, Experiment, Verdict, on_each_generator
from unrelu_studies.peers.projected_gradient import ProjectedGradient

_SIDE = 28
_BATCH, _BATCHES, _BATCH_QUICK = 10, 2, 2  # pictures that are inverted together, under every mask
_DRAWN = 3  # pictures a mask
_SUCCESS = 1e-3
_ADAM_STARTS = 2
# A picture is reasonable if the mean square error of its hidden pixels is at most this share of their mean square.
_REASONABLE = 0.1

_MASKS = ("half of the pixels", "a quarter of them", "all but 8 x 8", "all but 12 x 12", "the upper half")
# Step 1 fills the hidden pixels with those of the iterate; step 0.5 and 10 projections are Shah and Hegde's.
_FILL: dict[str, Any] = {"step": 1.0, "max_iterations": 50}
_RUN: dict[str, tuple[str | ProjectedGradient, dict[str, Any]]] = {
    "projected": (ProjectedGradient("linf"), {}),
    "projected, filling": (ProjectedGradient("linf", **_FILL), {}),
    "projected, lm": (ProjectedGradient("lm", **_FILL), {}),
    "linf": ("linf", {}),
    "GD": METHODS["GD, trained"],
    "adam": ("adam", {"restarts": _ADAM_STARTS}),
    "auto": METHODS["auto"],
}
# From where gradient descent ended: if this finds the code, the run had not arrived yet.
_FINISHED: tuple[str, tuple[str, dict[str, Any]]] = ("GD, then lm", ("lm", {}))
_PUBLISHED = ("projected", "projected, filling")  # with linf inside, as the paper says


def _units(generators: Sequence[TrainedGenerator], quick: bool) -> list[Unit]:
    """A batch of pictures of a generator each."""
    return [(generator.name, batch) for generator in generators for batch in range(1 if quick else _BATCHES)]


def _masks(quick: bool) -> tuple[str, ...]:
    return (_MASKS[0], _MASKS[2]) if quick else _MASKS


def seen(mask: str, count: int, rng: np.random.Generator) -> Flags:
    """Which pixels are observed, (count, 28, 28); random ones are others for every picture."""
    whole = np.ones((count, _SIDE, _SIDE), dtype=bool)
    if mask == "the upper half":
        whole[:, _SIDE // 2 :] = False
    elif mask.startswith("all but"):
        side = int(mask.rsplit(" ", 1)[1])
        hidden = slice((_SIDE - side) // 2, (_SIDE + side) // 2)
        whole[:, hidden, hidden] = False
    else:
        # An exact share, so that the pictures can be compared.
        kept = _SIDE**2 // (2 if mask.startswith("half") else 4)
        whole = rng.random(whole.shape).reshape(count, -1).argsort(axis=1).reshape(whole.shape) < kept
    return whole


def _instances(generator: TrainedGenerator, batch: int, seed: int, quick: bool) -> tuple[Array, Array, Flags]:
    """Codes (c, k), their pictures (c, n) and what each mask lets see of them (masks, c, n)."""
    network, key = generator.load(), (seed, "fig4", generator.name)
    truth = random("truth", *key, batch).standard_normal((_BATCH, network.latent_dim))
    visible = [seen(mask, _BATCH, random("masks", *key, mask, batch)).reshape(_BATCH, -1) for mask in _masks(quick)]
    count = _BATCH_QUICK if quick else _BATCH
    return truth[:count], network(truth)[:count].reshape(count, -1), np.stack(visible)[:, :count]


def _measure(generators: Sequence[TrainedGenerator], unit: Unit, seed: int, quick: bool) -> list[Row]:
    """Every method on the pictures of a batch under all masks at once."""
    which, batch = str(unit[0]), int(unit[1])
    generator = {generator.name: generator for generator in generators}[which]
    network = generator.load()
    truth, clean, visible = _instances(generator, batch, seed, quick)
    names = [(which, mask, batch * _BATCH + i) for mask in _masks(quick) for i in range(len(truth))]
    truth, clean, visible = (np.concatenate(list(v)) for v in ([truth] * len(visible), [clean] * len(visible), visible))
    # Rows of hidden pixels are no observations.
    jacobian = network.jacobian(truth).reshape(len(truth), -1, network.latent_dim)
    told = np.linalg.matrix_rank(jacobian * visible[:, :, None]) == network.latent_dim

    def off(x: Array) -> Array:
        return np.asarray(((x - clean) ** 2 * ~visible).sum(axis=1) / (~visible).sum(axis=1))

    blank, start = off(np.zeros_like(clean)), draw_seed(random("starts", seed, "fig4", which, batch))
    rows: list[Row] = [(*name, "identifiable", None, blank[i], told[i], None, None) for i, name in enumerate(names)]
    shape = (len(truth), *network.output_shape)
    y, mask = np.where(visible, clean, 0).reshape(shape), visible.reshape(shape)
    z = None
    for method, (name, options) in {**_RUN, "GD": options_of("GD, trained", quick), _FINISHED[0]: _FINISHED[1]}.items():
        given = z if method == _FINISHED[0] else None
        result = invert(network, y, name, operator=mask, seed=start, z0=given, **options)
        z = result.z if method == "GD" else z
        errors = relative_error(result.z, truth)
        # A method that found no code is charged for a blank picture.
        mse = off(np.nan_to_num(result.reconstruction.reshape(len(truth), -1)))
        for i, (_, mask_name, image) in enumerate(names):
            shown = result.z[i] if image < _DRAWN and np.isfinite(result.z[i]).all() else None
            found = errors[i] <= _SUCCESS
            rows.append((which, mask_name, image, method, errors[i], mse[i], found, shown, result.seconds[i]))
    return rows


def _draw(generators: Sequence[TrainedGenerator], numbers: Numbers) -> Figure:
    """Some pictures of the first generator under every mask; below, the codes found of each, and the errors."""
    first = generators[0]
    part = numbers.where(generator=first.name)
    _, clean, visible = _instances(first, 0, numbers.seed, numbers.quick)
    count = min(_DRAWN, len(clean))
    grid: list[list[Array | None]] = [[] for _ in range(2 + len(_RUN))]
    columns: list[str] = []
    for letter, mask, mine in zip("abcde", part.distinct("mask"), visible, strict=False):
        observed = np.where(mine, clean, np.nan)
        grid[0] += [x.reshape(_SIDE, _SIDE) for x in clean[:count]]
        grid[1] += [x.reshape(_SIDE, _SIDE) for x in observed[:count]]
        for pictures, method in zip(grid[2:], _RUN, strict=True):
            pictures += [_shown(first, part, mask, method, i) for i in range(count)]
        columns += [f"{letter}) {mask}", *[""] * (count - 1)]
    figure, below = grid_of_images(
        grid, [f"clean,\n{first.name}", "observed", *_RUN], columns, below=0.4 + 2.1 * len(generators)
    )
    _summary(below or figure, {g.name: numbers.where(generator=g.name) for g in generators})
    return figure


def _shown(generator: TrainedGenerator, numbers: Numbers, mask: str, method: str, image: int) -> Array | None:
    """The picture of a code that is kept in the rows."""
    (row,) = numbers.where(mask=mask, image=image, method=method).rows
    code = row[numbers.columns.index("code")]
    return None if code is None else generator.load()(np.array(code)).reshape(_SIDE, _SIDE)


def _summary(figure: Figure | SubFigure, parts: dict[str, Numbers]) -> None:
    """Two panels a generator: codes found, and the error of the hidden pixels, under every mask."""
    axes = figure.subplots(len(parts), 2, squeeze=False)
    for (left, right), (name, numbers) in zip(axes, parts.items(), strict=True):
        _codes_found(left, numbers, f"codes of {name}\nfound to {_SUCCESS:g}, %")
        _hidden_errors(right, numbers)
        masks = numbers.distinct("mask")
        for axis in (left, right):
            axis.xaxis.set_major_locator(FixedLocator(range(len(masks))))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FixedFormatter([f"{chr(97 + i)})" for i in range(len(masks))]))
            axis.grid(visible=False, axis="x")
    legend(figure, axes[0, 0], 5)


def _mark(method: str, masks: Sequence[str]) -> tuple[npt.NDArray[np.floating], dict[str, Any]]:
    """Where a method is drawn beside the others, and how."""
    style, place = STYLES[method], list(_RUN).index(method)
    at = np.arange(len(masks)) + 0.11 * (place - (len(_RUN) - 1) / 2)
    return at, {"marker": style.marker, "color": style.color, "linestyle": "", "markersize": 4}


def _codes_found(axis: Axes, numbers: Numbers, label: str) -> None:
    masks = numbers.distinct("mask")
    for method in _RUN:
        at, kind = _mark(method, masks)
        axis.plot(at, [100 * _share(numbers, method, mask) for mask in masks], label=method, zorder=3, **kind)
    for i, mask in enumerate(masks):
        share = 100 * _share(numbers, "identifiable", mask)
        axis.plot([i - 0.45, i + 0.45], [share] * 2, color="0.6", label="" if i else "identifiable", zorder=1)
    axis.plot([], [], ":", color="0.3", label="blank")
    tidy(axis, "mask", label)
    axis.set_ylim(-4, 104)


def _hidden_errors(axis: Axes, numbers: Numbers) -> None:
    masks = numbers.distinct("mask")
    for method in _RUN:
        at, kind = _mark(method, masks)
        for x, mask in zip(at, masks, strict=True):
            errors = np.maximum(_column(numbers, "mse", method, mask), 1e-17)
            axis.plot(np.full(len(errors), x), errors, ".", color=kind["color"], markersize=2, alpha=0.35, zorder=2)
            axis.plot([x], [np.median(errors)], zorder=3, **kind)
    for i, mask in enumerate(masks):
        blank = np.median(_column(numbers, "mse", "identifiable", mask))
        axis.plot([i - 0.45, i + 0.45], [blank] * 2, ":", color="0.3", zorder=1)
    tidy(axis, "mask", "mean square error\nof hidden pixels", log="y")
    axis.yaxis.set_major_locator(LogLocator(numticks=7))


def _column(numbers: Numbers, name: str, method: str, mask: str | None = None) -> Array:
    """A column under one mask, or under all."""
    which = {} if mask is None else {"mask": mask}
    return numbers.column(name, method=method, **which).astype(float)


def _share(numbers: Numbers, method: str, mask: str | None = None) -> float:
    return float(_column(numbers, "success", method, mask).mean())


def _reasonable(numbers: Numbers, method: str) -> float:
    """The share of pictures whose hidden pixels are about right."""
    return float(np.mean(_column(numbers, "mse", method) <= _REASONABLE * _column(numbers, "mse", "identifiable")))


_WHAT = f"hidden pixels with an error up to {_REASONABLE:.0%} of their energy, all masks"


def _reasonable_results(numbers: Numbers) -> list[Claim]:
    """Whether linf gives reasonable results, and better ones than gradient descent, in every reading."""
    right = {method: _reasonable(numbers, method) for method in _RUN}
    # With step 0.5 or filling, whichever is better.
    best = max(_PUBLISHED, key=right.__getitem__)

    def always(reading: str, method: str, shown: Sequence[str]) -> Claim:
        return Claim(
            "Figure 4", "projected gradient descent with linf always finds reasonable results",
            f"{_WHAT}: {said({m: right[m] for m in shown}, '.0%')}",
            Verdict.of(right[method] >= 0.95, right[method] > 0.5),
            "the first projections take wrongly filled pixels for observed ones; linf fits the largest error, so that "
            "a few of them move the whole code", reading,
        )  # fmt: skip

    def better(reading: str, ours: str, theirs: str, shown: Sequence[str]) -> Claim:
        return Claim(
            "Figure 4", "projected gradient descent with linf is better than gradient descent",
            f"{_WHAT}: {said({m: right[m] for m in shown}, '.0%')}",
            Verdict.of(right[ours] > right[theirs]),
            "projections with linf are misled by wrongly filled pixels, gradient descent uses the observed ones alone",
            reading,
        )  # fmt: skip

    alone = "linf inverts the observed pixels alone, as the published code does, without projected gradient descent"
    return [
        always("", best, (*_PUBLISHED, "projected, lm")),
        always(alone, "linf", ("linf",)),
        better("", best, "GD", (*_PUBLISHED, "GD")),
        better(alone, "linf", "GD", ("linf", "GD")),
    ]  # fmt: skip


def _one_generator(numbers: Numbers) -> list[Claim]:
    found = {method: _share(numbers, method) for method in _RUN}
    told = _column(numbers, "success", "identifiable").astype(bool)
    known = {method: float(_column(numbers, "success", method)[told].mean()) for method in _RUN}
    masks = numbers.distinct("mask")
    arrived = float(_column(numbers, "success", _FINISHED[0])[told].mean())
    return [
        *_reasonable_results(numbers),
        Claim(
            "Figure 4", "gradient descent sometimes gets stuck at a local minimum",
            f"{_WHAT}: GD {_reasonable(numbers, 'GD'):.0%}; of the identifiable codes, GD is within {_SUCCESS:g} on "
            f"{known['GD']:.0%}, and lm from where GD ended finds {arrived:.1%}: the others are in a basin of a local "
            "minimum",
            Verdict.of(arrived <= 0.98, arrived < 1),
            "almost every run was on its way to the code",
        ),
        Claim(
            "unrelu, Figure 4", "linf on the observed pixels alone needs no projected gradient descent",
            f"codes found: {said({m: found[m] for m in ('linf', *_PUBLISHED, 'projected, lm')}, '.0%')}",
            Verdict.of(found["linf"] > max(found[m] for m in (*_PUBLISHED, "projected, lm"))),
            "a projection finds as many",
        ),
        Claim(
            "unrelu, Figure 4", "auto finds every code that the observed pixels tell",
            f"identifiable: {told.mean():.1%} ("
            + ", ".join(f"{mask} {_share(numbers, 'identifiable', mask):.0%}" for mask in masks)
            + f"); of these found: {said({m: known[m] for m in ('auto', 'linf', 'GD')}, '.0%')}",
            Verdict.of(known["auto"] == 1, known["auto"] >= 0.95),
            "another code fits the observed pixels as well, or the search stopped at one that fits worse",
        ),
    ]  # fmt: skip


def _experiment(generators: Sequence[TrainedGenerator] = BOTH) -> Experiment:
    first = generators[0]
    return Experiment(
        name="fig4",
        title="Figure 4: hidden pixels" + (f", {first.name}, {first.shape}" if first.origin == "file" else ""),
        about=(
            f"{named(generators)} {_BATCH * _BATCHES} pictures of each, codes N(0, I), no noise, under "
            f"five masks; {_DRAWN} of {first.name} are drawn, with hidden pixels in blue. `projected` is projected "
            "gradient descent with linf inside, with Shah and Hegde's step 0.5 and 10 projections; `filling` takes "
            "step 1 and up to 50 projections, and `lm` the same with Levenberg-Marquardt inside. `linf` is "
            "layer-wise on the observed pixels. GD makes up to 10,000 steps of length 1e-3, adam is CSGM's with "
            f"{_ADAM_STARTS} starts. An instance is identifiable if the Jacobian of the observed pixels at its code "
            "has full rank. Blank: the mean square of the hidden pixels. Errors below 1e-17 are drawn there."
        ),
        columns=("generator", "mask", "image", "method", "error", "mse", "success", "code", "seconds"),
        units=partial(_units, generators),
        measure=partial(_measure, generators),
        draw=partial(_draw, generators),
        claims=partial(on_each_generator, claims=_one_generator),
        network=first.record,
    )


def on_a_network(name: str, generator: TrainedGenerator) -> Experiment:
    """Figure 4 on one generator."""
    return _experiment((generator,))


EXPERIMENTS = {"fig4": _experiment()}
