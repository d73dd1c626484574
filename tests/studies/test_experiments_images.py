"""The experiments on pictures: noisy digits, hidden pixels, and few measurements against sparsity."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unrelu.errors import OptionError
from unrelu_studies.kit.measures import lasso, violation
from unrelu_studies.kit.numbers_file import Numbers, plain_row
from unrelu_studies.kit.random_instances import random
from unrelu_studies.paper import load
from unrelu_studies.paper.experiment import SEED, Verdict
from unrelu_studies.paper.figures.few_measurements import cosines, wavelets
from unrelu_studies.paper.figures.figure4 import seen

NAMES = ("fig3", "fig4", "measurements")


@pytest.fixture(scope="module")
def quick() -> dict[str, Numbers]:
    return {name: load(name).run(quick=True) for name in NAMES}


def median(numbers: Numbers, column: str, **where) -> float:
    return float(np.median(numbers.column(column, **where).astype(float)))


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_its_columns_and_no_error_is_missing(quick, name):
    numbers = quick[name]
    assert len(numbers.rows) > 10
    assert {len(row) for row in numbers.rows} == {len(numbers.columns)}
    methods = [method for method in numbers.distinct("method") if method != "oracle"]
    assert all(np.isfinite(numbers.column("mse", method=method).astype(float)).all() for method in methods)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_numbers_survive_a_file_and_give_a_picture_and_claims(quick, name, tmp_path):
    quick[name].save(tmp_path / "numbers.json")
    numbers = Numbers.load(tmp_path / "numbers.json")
    png, svg = load(name).plot(numbers, tmp_path)
    with Image.open(png) as picture:
        assert picture.size[0] == 1440
    assert svg.stat().st_size > 1000
    claims = load(name).claims(numbers)
    assert len(claims) >= 5
    for claim in claims:
        assert isinstance(claim.verdict, Verdict)
        assert claim.measured
        assert "nan" not in claim.measured


@pytest.mark.long
def test_a_unit_gives_the_same_rows_again(quick):
    numbers, unit = quick["measurements"], ("real", 25)
    again = [plain_row(row)[:-1] for row in load("measurements").measure(unit, SEED, True)]
    assert again == [row[:-1] for row in numbers.where(source=unit[0], m=unit[1]).rows]


@pytest.mark.long
def test_another_seed_has_other_pictures(quick):
    rows = load("measurements").measure(("generated", 25), SEED + 1, True)
    blank = quick["measurements"].column("mse", source="generated", m=25, method="blank")
    assert not set(blank) & {row[4] for row in rows}


@pytest.mark.long
@pytest.mark.parametrize("source", ["generated", "real"])
def test_auto_that_is_told_the_noise_denoises_no_worse_than_gradient_descent(quick, source):
    numbers = quick["fig3"].where(generator="mnist-relu")
    told, descent = (median(numbers, "mse", source=source, method=m) for m in ("auto, prior", "GD, trained"))
    # On real digits, which no code gives, both end about as far from the clean picture.
    assert told <= (1.0 if source == "generated" else 1.15) * descent


@pytest.mark.long
def test_denoising_leaves_less_than_the_noise(quick):
    assert quick["fig3"].column("mse", generator="mnist-relu", method="auto").max() < 0.1


@pytest.mark.long
def test_codes_are_kept_of_the_pictures_that_are_drawn(quick):
    codes = [row[quick["fig3"].columns.index("code")] for row in quick["fig3"].where(method="auto").rows]
    assert {len(code) for code in codes} == {20}


@pytest.mark.long
def test_auto_finds_every_identifiable_code_under_masks(quick):
    numbers = quick["fig4"].where(generator="mnist-relu")
    found, told = (numbers.column("success", method=m).astype(bool) for m in ("auto", "identifiable"))
    assert found[told].all()
    assert median(numbers, "mse", method="auto") <= median(numbers, "mse", method="GD")


@pytest.mark.long
@pytest.mark.parametrize("name", ["fig3", "fig4"])
def test_every_claim_is_judged_on_both_generators_in_the_same_readings(quick, name):
    claims = load(name).claims(quick[name])
    ours, other = ([c for c in claims if c.reading.startswith("on the plain VAE") is vae] for vae in (False, True))
    assert [(c.source, c.says) for c in ours] == [(c.source, c.says) for c in other]
    for mine, theirs in zip(ours, other, strict=True):
        assert theirs.reading == ", ".join(filter(None, ("on the plain VAE", mine.reading)))


@pytest.mark.long
@pytest.mark.parametrize("m", [25, 300])
def test_generated_pictures_need_few_measurements(quick, m):
    numbers = quick["measurements"].where(source="generated", m=m)
    auto, blank, sparse = (median(numbers, "mse", method=name) for name in ("auto", "blank", "lasso, wavelets"))
    assert auto < 0.05 * sparse
    assert sparse < 1.5 * blank


@pytest.mark.parametrize(
    ("mask", "kept"),
    [
        ("half of the pixels", 392), ("a quarter of them", 196), ("all but 8 x 8", 720), ("all but 12 x 12", 640),
        ("the upper half", 392),
    ],
)  # fmt: skip
def test_masks_hide_what_they_say(mask, kept):
    visible = seen(mask, 3, random("test", 0, mask))
    assert visible.shape == (3, 28, 28)
    assert (visible.sum(axis=(1, 2)) == kept).all()
    drawn_anew = not (visible[0] == visible[1]).all()
    assert drawn_anew == ("them" in mask or "half of" in mask)
    if mask.startswith("all but"):
        assert not visible[:, 10:18, 10:18].any()
        assert (visible == visible[:, ::-1, ::-1]).all()
    if mask == "the upper half":
        assert visible[:, :14].all()


@pytest.mark.parametrize("basis", [cosines(28), wavelets(28, 2), wavelets(28, 1)])
def test_bases_are_orthogonal(basis):
    np.testing.assert_allclose(basis @ basis.T, np.eye(784), atol=1e-12)


def test_smooth_pictures_have_few_coefficients():
    flat = np.ones(784)
    assert (np.abs(cosines(28) @ flat) > 1e-9).sum() == 1
    assert (np.abs(wavelets(28, 2) @ flat) > 1e-9).sum() == 49
    # Blocks of 4 x 4 are spanned by the coarsest means.
    blocks = np.kron(np.random.default_rng(0).random((7, 7)), np.ones((4, 4))).ravel()
    assert (np.abs(wavelets(28, 2) @ blocks) > 1e-9).sum() == 49


@pytest.mark.parametrize("share", [0.3, 0.03])
def test_lasso_satisfies_the_conditions_for_optimality(share):
    rng = np.random.default_rng(1)
    b, y = rng.standard_normal((30, 80)) / 30**0.5, rng.standard_normal((3, 30))
    weight = share * np.abs(y @ b).max(axis=1)
    c = lasso(b, y, weight)
    # Written out here once more: the correlations with the residual, and the signs.
    correlation = (y - c @ b.T) @ b
    assert (np.abs(correlation) <= 1.001 * weight[:, None]).all()
    on = c != 0
    assert on.any()
    assert not on.all()
    gap = np.abs(correlation - weight[:, None] * np.sign(c))
    assert (gap <= 1.1e-3 * weight[:, None])[on].all()
    assert (violation(b, y, weight, c) <= 1e-3 * weight).all()


def test_lasso_of_an_orthogonal_matrix_is_soft_thresholding():
    y = np.array([[3.0, -0.5, 1.2, 0.0]])
    np.testing.assert_allclose(lasso(np.eye(4), y, np.array([1.0])), [[2.0, 0.0, 0.2, 0.0]], atol=1e-12)


def test_violation_sees_what_is_no_solution():
    assert violation(np.eye(2), np.array([[2.0, 0.0]]), np.array([0.5]), np.zeros((1, 2)))[0] == 1.5


def test_an_unknown_name_is_an_error():
    with pytest.raises(OptionError, match="fig3"):
        load("figure 3")
