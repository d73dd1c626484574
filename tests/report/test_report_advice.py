"""What the page advises: fits that the stated noise does not explain, and how to run it again."""

from __future__ import annotations

import numpy as np
import pytest

import unrelu
from tests.report.report_runs import Page, observations, run, saved
from unrelu.report import write_report


def test_misfits_need_attention_and_are_no_successes(tmp_path):
    y = observations(9)
    y[4] = np.nan
    y[6:] += 5 * np.random.default_rng(0).standard_normal((3, 64))
    found = run(tmp_path / "out", saved(tmp_path, y), method="auto", noise="gaussian:0.05")
    assert found.counts == {"NOISE_LEVEL": 5, "ERROR": 1, "MISFIT": 3}
    p_value = found.read("p_value")
    assert (p_value[6:] < 1e-10).all()
    np.testing.assert_array_equal(found.read("success"), p_value >= 0.01)  # NaN of the error is none
    page = Page(write_report(found.folder))
    assert f"MISFIT {unrelu.Status.MISFIT.value} 3 33.3%" in page.text
    assert "fits the noise 5 of 9 55.6%" in page.text
    assert "3 observations with a code are not explained by the stated noise, gaussian:0.05" in page.text
    assert "What failed: 3 observations by the size of the residual." in page.text
    assert "Of 8 outputs of the generator with such noise, 0.08 have a p-value below 0.01 by chance." in page.text
    assert "a wrong --scale , a wrong activation or model, noise of another size or kind, or a search" in page.text
    assert "They are 6, 7, 8." in page.text
    median = np.nanquantile(found.read("residual_l2"), 0.5, method="closest_observation")
    assert f"median residual (l2) {median:.3g} stated noise: 0.4" in page.text
    assert "How those that do not fit the noise ended" in page.text
    drawn = page.source[page.source.index("Histogram of Residual") :].split("</svg>")[0]
    assert "#c07f2a" in drawn  # bars of those that do not fit
    assert "does not fit the noise" in drawn


def test_without_stated_noise_success_is_what_counts(tmp_path):
    found = run(tmp_path / "out", saved(tmp_path, observations(5)), method="auto", rounds=1)
    page = Page(write_report(found.folder))
    assert "not explained by" not in page.text
    assert f"{found.success} of 5 observations" in page.text
    assert "A G(z)" not in page.text
    confidence = found.read("confidence")
    assert (confidence < 0.99).all()  # one chain is little evidence
    assert found.success == 0
    numbers = page.text[page.text.index("Numbers of every") :]
    assert f"{np.median(confidence):.3g}" in numbers.split("that no code has an objective more than 1% lower", 1)[1]
    assert "p_value" not in page.text


def test_what_stands_out_from_its_chunk_is_no_success_in_the_page(tmp_path):
    y = observations(30)
    y[7] += np.random.default_rng(0).standard_normal(64)
    found = run(tmp_path / "out", saved(tmp_path, y), method="auto", chunk=256)
    assert found.counts["MISFIT"] == 1
    assert not found.read("success")[7]
    row = list(found.rows())[7]
    assert row["status"] == "MISFIT"
    assert "times the batch's noise level" in row["message"]
    assert f"MISFIT {unrelu.Status.MISFIT.value} 1 3.3%" in Page(write_report(found.folder)).text
    apart = run(tmp_path / "apart", saved(tmp_path, y), method="auto", chunk=256, pool=False)
    assert "MISFIT" not in apart.counts


def test_nothing_needs_attention_where_everything_fits(tmp_path):
    found = run(tmp_path / "out", saved(tmp_path, observations(5)), method="auto", noise="gaussian:0.2")
    assert "Nothing: every observation fits the stated noise." in Page(write_report(found.folder)).text


@pytest.mark.parametrize(
    ("given", "norm", "objective"),
    [
        ({"noise": "gaussian:0.1"}, "l2, that of lm", "squared l2 residual, squared"),
        ({"method": "linf"}, "linf, that of linf", "linf residual, its largest entry"),
        ({"method": "auto", "noise": "outliers:0.1"}, "l1, that of outliers noise", "l1 residual, the sum"),
        ({"norm": "linf"}, "linf, as asked for", "linf residual, its largest entry"),
        ({"method": "auto", "prior": 0.5}, "l2, as no noise is stated", "squared l2 residual + 0.5 |z|²"),
        (
            {"prior": unrelu.Normal(1, 2), "noise": "gaussian:0.1"},
            "l2, that of lm",
            "squared l2 residual + 0.01 |(z - mean) / std|²",
        ),
    ],
)
def test_the_norm_and_the_objective_are_named(tmp_path, given, norm, objective):
    run(tmp_path / "out", saved(tmp_path, observations(2)), **given)
    page = Page(write_report(tmp_path / "out"))
    assert f"norm {norm}" in page.text
    assert f"objective {objective}" in page.text


def test_the_page_has_the_prior(tmp_path):
    prior = unrelu.Normal(1, 2)
    run(tmp_path / "out", saved(tmp_path, observations(2)), noise="gaussian:0.1", prior=prior)
    page = Page(write_report(tmp_path / "out"))
    assert "prior Normal(1, 2), the most probable code" in page.text
    assert "It was begun in Python" in page.text


def test_the_command_that_goes_on_is_in_the_banner(tmp_path):
    command = "unrelu run g.onnx 'a b.npy' -o out"
    data = saved(tmp_path, observations())
    run(tmp_path / "out", data, names={"command": command}, callback=lambda moment: moment.done >= 6)
    page = Page(write_report(tmp_path / "out"))
    assert command in page.text.split("What was run")[0].split("Not finished")[1]
    assert command in page.text.split("To run it again")[1]


def test_title_and_heading_agree(tmp_path):
    run(tmp_path / "out", saved(tmp_path, observations(2)), names={"model": "g.onnx"})
    page = Page(write_report(tmp_path / "out"))
    assert page.text.count(f"Inverting g.onnx on {tmp_path / 'y.npy'}") == 2


def test_a_command_that_was_noted_is_shown(tmp_path):
    run(tmp_path / "out", saved(tmp_path, observations(3)), names={"command": "unrelu run 'a b.npy'"})
    assert "unrelu run 'a b.npy'" in Page(write_report(tmp_path / "out")).text


def test_results_in_zarr(tmp_path):
    run(tmp_path / "out", saved(tmp_path, observations()), results="zarr", callback=lambda moment: moment.done >= 12)
    page = Page(write_report(tmp_path / "out"))
    assert page.charts() == [12]
    assert len(page.all("img")) == 36
