"""What a page says of posteriors: how many have mixed, and no standard deviations of those that have not."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.report.report_runs import Page, observations, run, saved
from unrelu.report import write_report
from unrelu.runs.chunk_work import STATUSES

ASKED = {"noise": "gaussian:0.05", "posterior": 150, "chunk": 5, "method": "lm"}


def with_column(made: unrelu.Run, name: str, value: float, *rows: int) -> unrelu.Run:
    """The run, with another number of some observations."""
    path = made.folder / "columns" / f"{name}.npy"
    column = np.load(path)
    column[list(rows)] = value
    np.save(path, column)
    return unrelu.open_run(made.folder)


def marked(made: unrelu.Run, status: str, *rows: int) -> unrelu.Run:
    """The run, with another status of some posteriors."""
    return with_column(made, "posterior_status", STATUSES.index(status) + 1, *rows)


@pytest.fixture(scope="module")
def partly(tmp_path_factory) -> unrelu.Run:
    """Five posteriors, of which two have not mixed and one was not sampled to its end."""
    folder = tmp_path_factory.mktemp("posteriors")
    made = run(folder / "out", saved(folder, observations(5)), **ASKED)
    return marked(marked(marked(made, "MIXED", 0, 3), "NOT_MIXED", 1, 4), "TIME_LIMIT", 2)


def test_it_says_how_many_have_mixed_and_what_to_do_with_the_others(partly):
    page = Page(write_report(partly.folder))
    assert "posterior 150 draws of each chain; codes Normal(0, 1)" in page.text
    assert "posteriors mixed 2 of 5" in page.text
    assert "the chains of 2 (40.0%) have mixed: nothing shows that a part of the posterior was missed" in page.text
    assert "Posteriors that have not mixed: 3 observations" in page.text
    attention = page.text.partition("What needs attention")[2].partition("Identifiability")[0]
    assert "NOT_MIXED the chains have not mixed: raise draws" in attention
    assert "2 1, 4" in attention
    assert "TIME_LIMIT stopped at the time limit before the chains agreed" in attention
    assert f"R-hat up to {partly.read('rhat')[[1, 4]].max():.3f}" in attention
    assert "150 draws of each chain" in page.text


def test_numbers_are_those_of_mixed_posteriors_alone(partly):
    page = Page(write_report(partly.folder))
    mixed = partly.read("std")[[0, 3]]
    row = page.text.partition("std standard deviation of a coordinate, over all that are mixed")[2].split()[:5]
    assert float(row[0]) == pytest.approx(mixed.min(), rel=5e-3)
    assert float(row[4]) == pytest.approx(mixed.max(), rel=5e-3)
    assert 2 in page.charts()


def test_the_gallery_has_maps_of_standard_deviations_where_chains_have_mixed(partly):
    page = Page(write_report(partly.folder))
    named = [image["alt"] for image in page.all("img") if "standard deviation" in image["alt"]]
    assert sorted(named) == ["observation 0, standard deviation", "observation 3, standard deviation"]
    deviations = partly.read("reconstruction_std")[[0, 3]]
    grey = np.round(255 * deviations / deviations.max())
    for i, expected in zip((0, 3), grey, strict=True):
        assert (page.picture(f"observation {i}, standard deviation")[..., 0] == expected.reshape(8, 8)).all()
    assert page.text.count("posterior NOT_MIXED") == 2


def test_a_page_of_mixed_posteriors_and_one_without(partly, tmp_path):
    page = Page(write_report(marked(partly, "MIXED", *range(5)).folder, tmp_path / "all.html"))
    assert "have not mixed" not in page.text
    assert "posteriors mixed 5 of 5" in page.text
    run(tmp_path / "plain", saved(tmp_path, observations(3)))
    assert "Posteriors" not in Page(write_report(tmp_path / "plain")).text


def test_it_says_how_many_mixed_posteriors_are_of_misfits(tmp_path):
    made = run(tmp_path / "out", saved(tmp_path, observations(3)), **ASKED | {"posterior": 5})
    with_column(marked(made, "MIXED", 0, 1, 2), "p_value", 1e-9, 1, 2)
    assert "was missed; 2 of them with a code that is a misfit (p < 0.01)" in Page(write_report(made.folder)).text


def test_nothing_is_said_to_have_mixed_where_nothing_has(tmp_path):
    given = ASKED | {"posterior": 5, "prior": unrelu.Normal(0.5, 2.0)}
    made = run(tmp_path / "out", saved(tmp_path, observations(2, 40)), 40, **given)
    page = Page(write_report(made.folder))
    assert "posteriors mixed 0 of 2" in page.text
    assert "nothing shows that" not in page.text
    assert not [image for image in page.all("img") if "standard deviation" in image["alt"]]
    assert "posterior 5 draws of each chain; codes Normal(0.5, 2)" in page.text
    run(tmp_path / "within", saved(tmp_path, observations(2)), **ASKED | {"posterior": 5, "bounds": (-3, 3)})
    assert "codes uniform between two finite bounds" in Page(write_report(tmp_path / "within")).text
