"""The table of the network benchmark: a row for each noise level, 100 columns wide at most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from unrelu_studies.benchmarks.summary import Quartiles, short
from unrelu_studies.benchmarks.whole_network import BASELINES, NOISES, Inverted

_NAMES = {"highs": "HiGHS,\nour search,\nms", "published": "published\nloop, HiGHS\ncold, ms"}
NETWORK_CAPTION = (
    "ours: best of 3, the others once. HiGHS, our search: only the solver is another one. published loop, HiGHS cold: "
    "Algorithm 1 with one program at every eps = eps_0 1.2^t, t = 0, 1, 2, ... until delta <= eps, layer by layer, the "
    "threshold handed down; only on the first observations of each noise (obs.: all / these), and compared with ours "
    "on these. Both give HiGHS the dual of each program, shifted and scaled. LPs: programs an observation, over all "
    "layers. differ by: largest difference of the last layer's delta, relative to max(delta, 1e-8 max|x|). same: "
    "observations on which |y - G(z)| of ours is that of the baseline, to 1e-6."
)


def network_table(measured: Sequence[Inverted]) -> Table:
    """Median milliseconds, and how many times longer the baselines take: median and quartiles of the ratios."""
    title = 'unrelu.invert(mnist-relu, y, method="linf"): medians; times longer than ours'
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    headings = ["noise", "obs.", "ours\nms", "LPs"]
    for name in BASELINES:
        programs = ["LPs"] if name == "published" else []
        headings += [_NAMES[name], "times\nlonger", *programs, "differ\nby", "same"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for noise in NOISES:
        group = [m for m in measured if m.noise == noise]
        if group:
            table.add_row(*_cells(noise, group))
    return table


def _cells(noise: float, group: list[Inverted]) -> Iterator[str]:
    published = sum(m.published is not None for m in group)
    yield f"{noise:.0e}"
    yield f"{len(group)}/{published}"
    yield short(1e3 * float(np.median([min(m.ours.seconds) for m in group])))
    yield _median([m.ours.programs for m in group])
    for name in BASELINES:
        compared = [m for m in group if m.against(name)]
        runs = [pair[1] for m in compared if (pair := m.against(name))]
        yield short(1e3 * float(np.median([min(r.seconds) for r in runs]))) if runs else "-"
        ratios = [ratio for m in compared if (ratio := m.ratio(name)) is not None]
        yield _quartiles(ratios)
        if name == "published":
            yield _median([r.programs for r in runs])
        differences = [abs(d) for m in compared if (d := m.difference(name)) is not None]
        yield f"{max(differences):.0e}" if differences else "-"
        yield f"{sum(m.same_residual(name) is True for m in compared)}/{len(compared)}"


def _quartiles(values: list[float]) -> str:
    """The median with its quartiles below it; of a single number, the number."""
    if len(values) < 2:
        return short(values[0]) if values else "-"
    return str(Quartiles.of(values))


def _median(counts: list[int]) -> str:
    return f"{np.median(counts):.0f}" if counts else "-"
