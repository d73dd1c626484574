"""The experiments on pictures: noisy digits and hidden pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unrelu_studies.kit.numbers_file import Numbers
from unrelu_studies.kit.random_instances import random
from unrelu_studies.paper import load
from unrelu_studies.paper.experiment import Verdict
from unrelu_studies.paper.figures.figure4 import seen

NAMES = ("fig3", "fig4")


@pytest.fixture(scope="module")
def quick() -> dict[str, Numbers]:
    return {name: load(name).run(quick=True) for name in NAMES}


def median(numbers: Numbers, column: str, **where) -> float:
    return float(np.median(numbers.column(column, **where).astype(float)))


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
