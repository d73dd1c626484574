"""The picture of Example 1: a preimage in the latent plane that is not convex.

Draws |y - G(z)|_inf, the codes where it is 0, and two of them with a midpoint where it is not; writes preimage.png and
preimage.svg into a folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from unrelu import hardness

REACH = 2.75
# Multiples of 1/20: every kink and level of the residual then runs along edges and diagonals of the grid's cells, where
# linear interpolation draws it exactly.
POINTS = 111
ZERO = 1e-12
RING = "#e69f00"


def run():
    """The example, the axis (P,) and |y - G(z)|_inf on the grid, (P, P), rows along z_2."""
    example = hardness.example_1()
    axis = np.round(np.linspace(-REACH, REACH, POINTS), 2)
    z = np.stack(np.meshgrid(axis, axis), axis=-1)
    x = example.network(z.reshape(-1, 2)).reshape(*z.shape)
    return example, axis, np.abs(example.observation - x).max(axis=-1)


def draw(example, axis, residual):
    """One column wide."""
    figure = Figure(figsize=(3.5, 3.45), layout="constrained")
    axes = figure.subplots()
    filled = axes.contourf(axis, axis, residual, levels=np.arange(0, 3.75, 0.25), cmap="Blues")
    axes.contourf(axis, axis, residual, levels=[-1, ZERO], colors=[RING])
    axes.contour(axis, axis, residual, levels=[ZERO], colors="black", linewidths=0.9)
    axes.plot(*example.codes.T, color="black", linewidth=1.2, linestyle=(0, (4, 2)))
    (codes,) = axes.plot(*example.codes.T, "o", color="black", markersize=6, linestyle="", label="two codes in it")
    (middle,) = axes.plot(
        *example.codes.mean(axis=0), "X", color="black", markerfacecolor="white", markersize=9, linestyle="",
        label="their midpoint, not in it",
    )  # fmt: skip
    axes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal", xticks=range(-2, 3), yticks=range(-2, 3))
    figure.colorbar(filled, ax=axes, label=r"$\|y - G(z)\|_\infty$", ticks=range(4))
    ring = Patch(facecolor=RING, edgecolor="black", label="the preimage, $G(z) = y$")
    figure.legend(handles=[ring, codes, middle], loc="outside upper center", frameon=False, fontsize=9)
    return figure


def main():
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path())
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    figure = draw(*run())
    figure.savefig(folder / "preimage.png", dpi=200)
    figure.savefig(folder / "preimage.svg")


if __name__ == "__main__":
    main()
