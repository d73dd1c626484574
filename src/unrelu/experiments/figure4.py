"""Figure 4: pictures with hidden pixels, and how often the methods find the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullLocator

from unrelu import zoo
from unrelu.experiments.drawing import STYLES, grid_of_images, legend, tidy
from unrelu.experiments.experiment import Claim, Experiment, Numbers, Row, Unit, Verdict, draw_seed, random
from unrelu.experiments.instances import METHODS, relative_error
from unrelu.experiments.summary import said
from unrelu.solve import invert

__all__ = ["EXPERIMENTS"]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_NETWORK = "mnist-relu"
_SIDE = 28
_BATCH, _BATCHES, _BATCH_QUICK = 10, 5, 2  # pictures that are inverted together, under every mask
_DRAWN = 3  # pictures a mask
_SUCCESS = 1e-3
_ADAM_STARTS = 2
# A picture is reasonable if the mean square error of its hidden pixels is at most this share of their mean square.
_REASONABLE = 0.1

_MASKS = ("half of the pixels", "a quarter of them", "all but 8 x 8", "all but 12 x 12", "the upper half")
# Step 1 fills the hidden pixels with those of the iterate; step 0.5 and 10 projections are Shah and Hegde's.
_FILL: dict[str, Any] = {"step": 1.0, "max_iterations": 50}
_RUN: dict[str, tuple[str, dict[str, Any]]] = {
    "projected": ("projected", {"projection": "linf"}),
    "projected, filling": ("projected", {"projection": "linf", **_FILL}),
    "projected, lm": ("projected", {"projection": "lm", **_FILL}),
    "linf": ("linf", {}),
    "GD": METHODS["GD, trained"],
    "adam": ("adam", {"restarts": _ADAM_STARTS}),
    "auto": METHODS["auto"],
}
# From where gradient descent ended: if this finds the code, the run had not arrived yet.
_FINISHED: tuple[str, tuple[str, dict[str, Any]]] = ("GD, then lm", ("lm", {}))
_PUBLISHED = ("projected", "projected, filling")  # with linf inside, as the paper says


def _units(quick: bool) -> list[Unit]:
    """A batch of pictures each."""
    return [(batch,) for batch in range(1 if quick else _BATCHES)]


def _masks(quick: bool) -> tuple[str, ...]:
    return (_MASKS[0], _MASKS[2]) if quick else _MASKS


def seen(mask: str, count: int, rng: np.random.Generator) -> Bools:
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


def _instances(batch: int, seed: int, quick: bool) -> tuple[Array, Array, Bools]:
    """Codes (c, k), their pictures (c, n) and what each mask lets see of them (masks, c, n)."""
    network = zoo.load(_NETWORK)
    truth = random("truth", seed, "fig4", batch).standard_normal((_BATCH, network.latent_dim))
    visible = [
        seen(mask, _BATCH, random("masks", seed, "fig4", mask, batch)).reshape(_BATCH, -1) for mask in _masks(quick)
    ]
    count = _BATCH_QUICK if quick else _BATCH
    return truth[:count], network(truth)[:count], np.stack(visible)[:, :count]


def _measure(unit: Unit, seed: int, quick: bool) -> list[Row]:
    """Every method on the pictures of a batch under all masks at once."""
    batch = int(unit[0])
    network = zoo.load(_NETWORK)
    truth, clean, visible = _instances(batch, seed, quick)
    names = [(mask, batch * _BATCH + i) for mask in _masks(quick) for i in range(len(truth))]
    truth, clean, visible = (np.concatenate(list(v)) for v in ([truth] * len(visible), [clean] * len(visible), visible))
    # Rows of hidden pixels are no observations.
    told = np.linalg.matrix_rank(network.jacobian(truth) * visible[:, :, None]) == network.latent_dim

    def off(x: Array) -> Array:
        return np.asarray(((x - clean) ** 2 * ~visible).sum(axis=1) / (~visible).sum(axis=1))

    blank, start = off(np.zeros_like(clean)), draw_seed(random("starts", seed, "fig4", batch))
    rows: list[Row] = [(*name, "identifiable", None, blank[i], told[i], None, None) for i, name in enumerate(names)]
    z = None
    for method, (name, options) in (*_RUN.items(), _FINISHED):
        result = invert(
            network, np.where(visible, clean, 0), name, operator=visible, seed=start, z0=z if name == "lm" else None,
            **options,
        )  # fmt: skip
        z = result.z if method == "GD" else z
        errors = relative_error(result.z, truth)
        mse = off(np.nan_to_num(result.x))  # a method that found no code is charged for a blank picture
        for i, (mask, image) in enumerate(names):
            shown = result.z[i] if image < _DRAWN and np.isfinite(result.z[i]).all() else None
            rows.append((mask, image, method, errors[i], mse[i], errors[i] <= _SUCCESS, shown, result.seconds[i]))
    return rows


def _draw(numbers: Numbers) -> Figure:
    """Some pictures under every mask, and below them the share of the codes that were found, and the errors."""
    _, clean, visible = _instances(0, numbers.seed, numbers.quick)
    count = min(_DRAWN, len(clean))
    grid: list[list[Array | None]] = [[] for _ in range(2 + len(_RUN))]
    columns: list[str] = []
    for letter, mask, mine in zip("abcde", numbers.distinct("mask"), visible, strict=False):
        observed = np.where(mine, clean, np.nan)
        grid[0] += [x.reshape(_SIDE, _SIDE) for x in clean[:count]]
        grid[1] += [x.reshape(_SIDE, _SIDE) for x in observed[:count]]
        for pictures, method in zip(grid[2:], _RUN, strict=True):
            pictures += [_shown(numbers, mask, method, i) for i in range(count)]
        columns += [f"{letter}) {mask}", *[""] * (count - 1)]
    figure, below = grid_of_images(grid, ["clean", "observed", *_RUN], columns, below=2.5)
    _summary(below or figure, numbers)
    return figure


def _shown(numbers: Numbers, mask: str, method: str, image: int) -> Array | None:
    """The picture of a code that is kept in the rows."""
    (row,) = numbers.where(mask=mask, image=image, method=method).rows
    code = row[numbers.columns.index("code")]
    return None if code is None else zoo.load(_NETWORK)(np.array(code)).reshape(_SIDE, _SIDE)


def _summary(figure: Figure | SubFigure, numbers: Numbers) -> None:
    """Two panels: codes found, and the error of the hidden pixels, under every mask."""
    left, right = figure.subplots(1, 2)
    masks = numbers.distinct("mask")
    for i, method in enumerate(_RUN):
        style, label = STYLES[method], method
        at = np.arange(len(masks)) + 0.11 * (i - (len(_RUN) - 1) / 2)
        kind: dict[str, Any] = {"marker": style.marker, "color": style.color, "linestyle": "", "markersize": 4}
        left.plot(at, [100 * _share(numbers, method, mask) for mask in masks], label=label, zorder=3, **kind)
        for x, mask in zip(at, masks, strict=True):
            errors = np.maximum(_column(numbers, "mse", method, mask), 1e-17)
            right.plot(np.full(len(errors), x), errors, ".", color=style.color, markersize=2, alpha=0.35, zorder=2)
            right.plot([x], [np.median(errors)], zorder=3, **kind)
    for i, mask in enumerate(masks):
        share = 100 * _share(numbers, "identifiable", mask)
        left.plot([i - 0.45, i + 0.45], [share] * 2, color="0.6", label="" if i else "identifiable", zorder=1)
        blank = np.median(_column(numbers, "mse", "identifiable", mask))
        right.plot([i - 0.45, i + 0.45], [blank] * 2, ":", color="0.3", zorder=1)
    left.plot([], [], ":", color="0.3", label="blank")
    tidy(left, "mask", f"codes found to {_SUCCESS:g}, %")
    tidy(right, "mask", "mean square error\nof hidden pixels", log="y")
    left.set_ylim(-4, 104)
    right.yaxis.set_major_locator(LogLocator(numticks=7))
    for axis in (left, right):
        axis.xaxis.set_major_locator(FixedLocator(range(len(masks))))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FixedFormatter([f"{chr(97 + i)})" for i in range(len(masks))]))
        axis.grid(visible=False, axis="x")
    legend(figure, left, 5)


def _column(numbers: Numbers, name: str, method: str, mask: str | None = None) -> Array:
    """A column under one mask, or under all."""
    which = {} if mask is None else {"mask": mask}
    return numbers.column(name, method=method, **which).astype(float)


def _share(numbers: Numbers, method: str, mask: str | None = None) -> float:
    return float(_column(numbers, "success", method, mask).mean())


def _reasonable(numbers: Numbers, method: str) -> float:
    """The share of pictures whose hidden pixels are about right."""
    return float(np.mean(_column(numbers, "mse", method) <= _REASONABLE * _column(numbers, "mse", "identifiable")))


def _claims(numbers: Numbers) -> list[Claim]:
    right = {method: _reasonable(numbers, method) for method in _RUN}
    found = {method: _share(numbers, method) for method in _RUN}
    told = _column(numbers, "success", "identifiable").astype(bool)
    known = {method: float(_column(numbers, "success", method)[told].mean()) for method in _RUN}
    masks = numbers.distinct("mask")
    arrived = float(_column(numbers, "success", _FINISHED[0])[told].mean())
    best = max(_PUBLISHED, key=right.__getitem__)
    what = f"hidden pixels with an error up to {_REASONABLE:.0%} of their energy, all masks"
    return [
        Claim(
            "Figure 4", "projected gradient descent with linf always finds reasonable results",
            f"{what}: {said({m: right[m] for m in (*_PUBLISHED, 'projected, lm')}, '.0%')}",
            Verdict.of(right[best] >= 0.95, right[best] > 0.5),
            "the first projections take wrongly filled pixels for observed ones; linf fits the largest error, so that "
            "a few of them move the whole code",
        ),
        Claim(
            "Figure 4", "gradient descent sometimes gets stuck at a local minimum",
            f"{what}: GD {right['GD']:.0%}; of the identifiable codes, GD is within {_SUCCESS:g} on {known['GD']:.0%}, "
            f"and lm from where GD ended finds {arrived:.1%}: the others are in a basin of a local minimum",
            Verdict.of(arrived <= 0.98, arrived < 1),
            "almost every run was on its way to the code",
        ),
        Claim(
            "Figure 4", "projected gradient descent with linf is better than gradient descent",
            f"{what}: {said({m: right[m] for m in (*_PUBLISHED, 'GD')}, '.0%')}",
            Verdict.of(right[best] > right["GD"]),
            "projections with linf are misled by wrongly filled pixels, gradient descent uses the observed ones alone",
        ),
        Claim(
            "unrelu, Figure 4", "linf on the observed pixels alone needs no projected gradient descent",
            f"codes found: {said({m: found[m] for m in ('linf', *_PUBLISHED, 'projected, lm')}, '.0%')}",
            Verdict.of(found["linf"] > max(found[m] for m in (*_PUBLISHED, "projected, lm"))),
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


EXPERIMENTS = {
    "fig4": Experiment(
        name="fig4",
        title="Figure 4: hidden pixels",
        about=(
            f"The zoo's `{_NETWORK}`, 20-60-784, {_BATCH * _BATCHES} of its pictures, codes N(0, I), no noise, under "
            f"five masks; {_DRAWN} of them are drawn, with hidden pixels in blue. `projected` is projected gradient "
            "descent with linf inside, with Shah and Hegde's step 0.5 and 10 projections; `filling` takes step 1 and "
            "up to 50 projections, and `lm` the same with Levenberg-Marquardt inside. `linf` is layer-wise on "
            f"the observed pixels. GD makes up to 10,000 steps of length 1e-3, adam is CSGM's with {_ADAM_STARTS} "
            "starts. An instance is identifiable if the Jacobian of the observed pixels at its code has rank 20. "
            "Blank: the mean square of the hidden pixels. Errors below 1e-17 are drawn there."
        ),
        columns=("mask", "image", "method", "error", "mse", "success", "code", "seconds"),
        units=_units,
        measure=_measure,
        draw=_draw,
        claims=_claims,
    )
}
