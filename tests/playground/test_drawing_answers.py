"""What the playground says of a picture."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

import unrelu
from tests.playground.asking import colours, question, seven
from unrelu import zoo
from unrelu.errors import InputError
from unrelu.playground import PictureGenerator, bundled
from unrelu.playground._drawing_answers import SECONDS, answer, parsed, picture


def never():
    return False


@pytest.fixture(scope="module")
def digits():
    digits = PictureGenerator.of("mnist-relu", zoo.load("mnist-relu"), digits=zoo.observations("mnist-relu"))
    digits.prepare(never)
    return digits


@pytest.fixture(scope="module")
def generators():
    return {generator.name: generator for generator in bundled()}


def answered(generator, y, **changes):
    return answer(generator, question(generator, y, **changes), never)


def said(facts):
    return dict(facts)


def test_black_and_white_are_those_of_the_pictures_that_the_generators_know(generators):
    for name, generator in generators.items():
        known = zoo.observations(name)
        assert (generator.low, generator.high) == (known.min(), known.max())
        assert generator.shape == (1, 28, 28)


def test_its_own_picture_is_drawn_exactly(digits):
    y = digits.picture("sample", 3)
    found = answered(digits, y)
    assert (found["status"], found["success"], found["cut_off"]) == ("EXACT_FIT", True, False)
    assert found["verdict"] == "The generator draws the visible picture exactly."
    np.testing.assert_allclose(found["reconstruction"], y, atol=1e-7)
    np.testing.assert_allclose(found["residual"], 0, atol=1e-7)
    assert said(found["facts"])["Uniqueness"] == "no other code near it gives the same observation (rank 20 of 20)"


def test_hidden_pixels_are_filled_in_and_have_no_residual(digits):
    y = digits.picture("sample", 3)
    visible = np.arange(784) >= 14 * 28
    found = answered(digits, np.where(visible, y, 7.0), visible=visible.astype(int).tolist())
    assert found["status"] == "EXACT_FIT"
    np.testing.assert_allclose(found["reconstruction"], y, atol=1e-5)
    assert not np.any(np.array(found["residual"])[~visible])


def test_too_little_is_visible(digits):
    y = digits.picture("sample", 3)
    middle = np.zeros((28, 28), dtype=int)
    middle[13, 12:16] = 1
    found = answered(digits, y, visible=middle.ravel().tolist())
    assert found["status"] == "NOT_UNIQUE"
    assert "a set of codes around it, of " in said(found["facts"])["Uniqueness"]


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_stated_noise_judges(digits, kind):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 784) if kind == "gaussian" else rng.uniform(-0.1, 0.1, 784)
    stated = {"kind": kind, "level": 0.1}
    own = answered(digits, digits.picture("sample", 3) + noise, noise=stated)
    assert (own["status"], own["success"]) == ("NOISE_LEVEL", True)
    if kind == "uniform":
        sure = said(own["facts"])["Confidence"]
        assert sure == "unknown: it is computed for least squares, not for the largest error"
    drawn = answered(digits, seven(), noise={**stated, "level": 0.03})
    assert (drawn["status"], drawn["success"]) == ("MISFIT", False)
    assert drawn["verdict"].endswith("does not explain yours: the stated noise would not leave what is left over.")
    assert float(said(drawn["facts"])["Fit"].removeprefix("p = ").split()[0].lstrip("<")) < 0.01


@pytest.mark.parametrize("level", [0.02, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("shown", ["sample", "noisy", "drawn"])
def test_the_sentence_agrees_with_the_facts(digits, shown, level):
    """What is said of the size of the residual is what the facts say, whatever was drawn and stated."""
    sample = digits.picture("sample", 3)
    noisy = sample + 0.1 * np.random.default_rng(0).standard_normal(784)
    found = answered(
        digits, {"sample": sample, "noisy": noisy, "drawn": seven()}[shown], noise={"kind": "gaussian", "level": level}
    )
    sentence, facts = found["verdict"], said(found["facts"])
    size = float(facts["Residual"].partition(" ")[0])
    p = facts["Fit"].partition("p = ")[2].partition(" ")[0].lstrip("<>")
    assert found["success"] == (bool(p) and float(p) >= 0.01)
    assert ("does not explain" in sentence) == (not found["success"])
    assert ("exactly" in sentence) == facts["Fit"].startswith("exact") == (shown == "sample")
    if "less than the stated noise" in sentence or "smaller than the stated noise" in sentence:
        assert size < level
    if found["success"] and size < 0.5 * level:
        assert "less than the stated noise would leave" in sentence or "exactly" in sentence


def test_what_chance_would_explain_is_said_in_the_words_of_the_page(digits):
    own = digits.picture("sample", 3) + 0.1 * np.random.default_rng(0).standard_normal(784)
    sure = answered(digits, own)
    assert (sure["success"], sure["verdict"].startswith("No picture of the generator is nearer")) == (True, True)
    white = np.random.default_rng(0).standard_normal(784)
    found = answered(digits, white)
    assert (found["status"], found["success"]) == ("MISFIT", False)
    assert found["verdict"].endswith("than it would of random pixels. State the noise to judge it.")
    assert said(found["facts"])["Fit"] == "not judged: the noise is unknown"
    assert "noise=" not in found["verdict"]


def test_a_search_that_is_cut_off_says_so(generators):
    generator = generators["mnist-dcgan"]
    found = answered(generator, 2 * seven() - 1, seconds=1e-9)
    assert found["cut_off"]
    assert "Search longer" in found["verdict"]


def test_nobody_waits_for_it(generators):
    generator = generators["mnist-dcgan"]
    begun = time.perf_counter()
    found = answer(generator, question(generator, 2 * seven() - 1), lambda: True)
    assert found["status"] == "STOPPED"
    assert time.perf_counter() - begun < 9


@pytest.mark.parametrize("name", zoo.names())
@pytest.mark.parametrize("noise", [None, "gaussian", "uniform"])
def test_a_drawn_digit_is_answered_in_a_second(generators, name, noise, capsys):
    """It is printed; a machine with other work may take a little longer, and no more than that is asked here."""
    generator = generators[name]
    drawn = generator.low + (generator.high - generator.low) * seven()
    stated = noise and {"kind": noise, "level": 0.1 * (generator.high - generator.low)}
    answered(generator, drawn, noise=stated, seconds=0.01)
    begun, busy = time.perf_counter(), time.process_time()
    found = answered(generator, drawn, noise=stated, seconds=SECONDS)
    seconds, busy = time.perf_counter() - begun, time.process_time() - busy
    with capsys.disabled():
        print(
            f"\n{name:13} {noise or 'unknown':8} {seconds:.2f} s, {busy:.2f} of the processor: {found['status']}",
            end="",
        )
    assert seconds < 10 * SECONDS


def test_colours():
    generator = colours()
    y = generator.picture("sample", 0)
    found = answered(generator, y)
    assert found["status"] == "EXACT_FIT"
    assert generator.described()["channels"] == 3
    half = [1] * 32 + [0] * 32
    assert answered(generator, y, visible=half)["status"] == "EXACT_FIT"


# --- what cannot be answered ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"y": None}, "y is to be a list of 784 numbers"),
        ({"y": [0.0] * 783}, "y is to be a list of 784 numbers"),
        ({"y": ["0"] * 784}, "y is to be a list of 784 numbers"),
        ({"y": [[0.0]] * 784}, "y is to be a list of 784 numbers"),
        ({"y": [float("nan")] * 784}, "no finite numbers"),
        ({"y": [10**400] * 784}, "no finite numbers"),
        ({"visible": [0] * 784}, "everything is hidden"),
        ({"visible": "all"}, "visible is to be a list of 784 numbers"),
        ({"noise": {"kind": "gaussian", "level": 0}}, "noise is null for unknown"),
        ({"noise": {"kind": "gaussian", "level": True}}, "noise is null for unknown"),
        ({"noise": {"kind": "outliers", "level": 0.1}}, "noise is null for unknown"),
        ({"noise": "gaussian:0.1"}, "noise is null for unknown"),
        ({"seconds": 11}, "seconds 11 is no number above 0, up to 10"),
        ({"seconds": None}, "seconds None"),
    ],
)
def test_what_makes_no_sense_is_said(digits, changes, why):
    with pytest.raises(InputError, match=why):
        answer(digits, {**question(digits, np.zeros(784)), **changes}, never)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", None, 3, ["mnist-relu"]])
def test_a_generator_is_one_of_those_that_were_opened(digits, name):
    with pytest.raises(InputError, match="is not open; there are mnist-relu"):
        parsed(json.dumps({"generator": name}).encode(), {"mnist-relu": digits})


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000, b"3"])
def test_a_request_is_an_object(body):
    with pytest.raises(InputError, match="a request must be a JSON object"):
        parsed(body, {})


@pytest.mark.parametrize(
    ("kind", "index"), [("sample", -1), ("sample", 2**31), ("sample", True), ("digit", "1"), ("x", 1)]
)
def test_pictures_to_begin_with(digits, kind, index):
    with pytest.raises(InputError, match=r"no whole number|no picture of the kind"):
        picture(digits, {"kind": kind, "index": index})


def test_only_digits_have_real_digits():
    with pytest.raises(InputError, match="colours has no picture of the kind 'digit'"):
        picture(colours(), {"kind": "digit", "index": 0})


@pytest.mark.parametrize(
    ("shape", "scale", "why"),
    [
        ((50,), None, "puts out .50,., which is no picture"),
        ((2, 300), None, "draws 2 x 300 pixels; the playground takes up to 256 x 256"),
        ((64,), "1,0", "pass two finite numbers, the lower one first"),
    ],
)
def test_generators_of_no_pictures(shape, scale, why):
    n = int(np.prod(shape))
    network = unrelu.from_arrays([np.ones((n, 2))])
    if len(shape) > 1:
        from torch import nn

        network = unrelu.from_torch(nn.Sequential(nn.Linear(2, n), nn.Unflatten(1, shape)), latent_shape=(2,))
    with pytest.raises(InputError, match=why):
        PictureGenerator.of("net.npz", network, scale)


def test_black_and_white_have_to_be_known():
    with pytest.raises(InputError, match=r"outputs of the generator go from 0 to 0, .* --scale 0,0"):
        PictureGenerator.of("net.npz", unrelu.from_arrays([np.zeros((64, 2))]))
