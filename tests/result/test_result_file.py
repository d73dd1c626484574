"""Results that are saved: what comes back, what is refused, and which numbers are computed again."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

import unrelu
from tests.opaque_modules import made
from tests.support import image_network, random_network
from unrelu.diagnostics.code_diagnostics import alone_after_breakdown
from unrelu.errors import InputError, OptionError, SolverError
from unrelu.result import COLUMNS, Status
from unrelu.runtime.streams import stream

NET = random_network((3, 8, 20), bias=True)
IMAGE = image_network()
Z = stream("saved results").standard_normal((4, 3))
Y = NET(Z) + stream("saved results", 1).normal(0, 0.05, (4, 20))
MATRIX = stream("saved results", 2).standard_normal((12, 20))
SIZES = stream("saved results", 3).uniform(0.04, 0.1, (4, 20))
COVARIANCE = 0.01 * np.exp(-np.abs(np.subtract.outer(np.arange(20), np.arange(20))))
CASES = {
    "plain": {},
    "gaussian": {"noise": "gaussian:0.05"},
    "sizes": {"noise": unrelu.Gaussian(SIZES)},
    "covariance": {"noise": unrelu.Gaussian(covariance=COVARIANCE)},
    "uniform": {"noise": "uniform:0.2", "bounds": ([-1.0, -2.0, -3.0], 1.5), "norm": "linf"},
    "masks": {"operator": unrelu.Mask(stream("saved results", 4).random((4, 20)) < 0.8), "noise": "gaussian:0.05"},
    "prior": {"prior": 0.01, "seed": 5},
    "normal": {"prior": unrelu.Normal([0.5, 0, 0], 2.0), "noise": "gaussian:0.05", "bounds": (-1.0, 2.0)},
    "normal, sizes": {"prior": unrelu.Normal(), "noise": unrelu.Gaussian(SIZES)},
    "matrix": {"operator": MATRIX},
    "sparse": {"operator": sparse.csr_array(MATRIX * (MATRIX > 0))},
}


def result_of(case="gaussian"):
    options = CASES[case]
    given = options.get("operator")
    matrix = given.toarray() if sparse.issparse(given) else given
    y = Y if given is None or isinstance(given, unrelu.Mask) else Y @ matrix.T
    return unrelu.invert(NET, y, "lm", z0=np.clip(Z, -0.9, 0.9), **options)


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_comes_back(tmp_path, case):
    result = result_of(case)
    for part in (result, result[1], result[[3, 0]]):
        part.save(tmp_path / "result.npz")
        for again in (unrelu.load_result(tmp_path / "result.npz"), unrelu.load_result(tmp_path / "result.npz", NET)):
            for name in COLUMNS.keys() - {"restarts"}:
                np.testing.assert_array_equal(getattr(again, name), getattr(part, name))
            assert str(again) == str(part)
            assert again.options == part.options
            assert again.problem.seed == part.problem.seed
            np.testing.assert_array_equal(again.active_bounds, part.active_bounds)
    np.testing.assert_array_equal(again.residual("l1"), part.residual("l1"))


def test_without_the_network_a_result_can_be_looked_at_and_no_more(tmp_path):
    z = stream("saved pictures").standard_normal((2, 3))
    result = unrelu.invert(IMAGE, IMAGE(z), "lm", z0=z)
    result.save(tmp_path / "result.npz")
    loaded = unrelu.load_result(tmp_path / "result.npz")
    assert loaded.plot()._repr_png_()
    texts = [re.sub('base64,[^"]*', "", shown._repr_html_()) for shown in (loaded, result)]
    assert texts[0] == texts[1]  # pictures are drawn in their own range, as that of the generator is not known
    assert loaded.to_frame().equals(result.to_frame())
    with pytest.raises(InputError, match=r"loaded without its network, .*: unrelu\.load_result\(path, network\)"):
        loaded.residual()


def test_a_measurement_that_is_code_is_kept_as_its_values(tmp_path):
    path = tmp_path / "result.npz"

    def saturated(x):
        return torch.tanh(x / 2)

    result = unrelu.invert(NET, np.tanh(Y / 2), "lm", z0=Z, operator=saturated)
    result.save(path)
    loaded = unrelu.load_result(path, NET, operator=saturated)
    assert str(loaded) == str(result)
    assert str(loaded[1:3]) == str(result[1:3])
    np.testing.assert_array_equal(loaded.residual(), result.residual())
    for network in (None, NET):
        with pytest.raises(InputError, match=r"by an operator that is code, .*\(path, network, operator=...\)"):
            unrelu.load_result(path, network)
    with pytest.raises(InputError, match="not the one that the result was measured with"):
        unrelu.load_result(path, NET, operator=torch.tanh)
    result_of().save(path)
    with pytest.raises(InputError, match="operator= is in the file"):
        unrelu.load_result(path, NET, operator=saturated)


def test_another_network_is_told(tmp_path):
    result_of().save(tmp_path / "result.npz")
    other = random_network((3, 8, 20), "leaky_relu:0.1", bias=True)
    with pytest.raises(InputError, match="was found on another network: the fingerprint of its network is"):
        unrelu.load_result(tmp_path / "result.npz", other)
    with pytest.raises(OptionError, match="network is a str"):
        unrelu.load_result(tmp_path / "result.npz", "decoder.onnx")


def forged(path, digest=True, **changes):
    """The file with arrays changed, and a digest that fits them."""
    from unrelu.runtime import archives

    with np.load(path) as held:
        table = dict(held)
    for argument, change in changes.items():
        name = argument.replace("__", ".")
        table[name] = change(table[name].copy()) if callable(change) else np.asarray(change)
        if change is None:
            del table[name]
    if digest:
        table["digest"] = np.array(archives.digest(table))
    np.savez(path, **table)


def first(value):
    def change(array):
        array[0] = value
        return array

    return change


def test_a_changed_number_is_told_by_the_digest(tmp_path):
    path = tmp_path / "result.npz"
    result_of().save(path)
    forged(path, digest=False, p_value=first(0.7))
    for network in (None, NET):
        with pytest.raises(InputError, match=r"damaged .its numbers are not those that it was written with"):
            unrelu.load_result(path, network)


def test_a_method_of_ones_own_keeps_its_name_if_it_is_one(tmp_path):
    def own(name):
        def method(problem):
            return unrelu.Inversion.of(problem, Z, method=name)

        return unrelu.invert(NET, Y, method)

    path = tmp_path / "result.npz"
    own("my method, version 2").save(path)
    assert unrelu.load_result(path, NET).method == "my method, version 2"
    for name in ("", "two\nlines", "x" * 81):
        with pytest.raises(InputError, match="is no name"):
            own(name).save(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "something"}, "holds no result; its format is 'something'"),
        ({"format": "unrelu certificate 1"}, r"holds a certificate: unrelu\.Certificate\.load"),
        ({"z": np.zeros((3, 3))}, "damaged .z has shape"),
        ({"z": np.zeros((4, 3), dtype=np.float32)}, "damaged .entries are float32"),
        ({"y": np.zeros((4, 7))}, "damaged .y has shape"),
        ({"verdict": np.array(["FINE"] * 4)}, "damaged .'FINE'"),
        ({"message": np.array(["one"])}, "damaged .message has 1 entries"),
        ({"operator": "magic"}, "damaged .the operator is 'magic'"),
        ({"network__output_shape": np.array([2**40, 2**40])}, "damaged .a shape is"),
        ({"options": "{"}, "damaged"),
        ({"norm": "l7"}, "damaged .a norm is 'l7'"),
        ({"noise": "gaussian:-1"}, "noise=gaussian"),
        ({"fun": None}, "damaged .'fun'"),
        ({"confidence": np.full(4, 7.0)}, "damaged .confidence is 7.0, which is not from 0 to 1"),
        ({"seconds": np.full(4, np.nan)}, "damaged .seconds is nan"),
    ],
)  # fmt: skip
def test_files_that_hold_something_else_are_refused(tmp_path, changes, message):
    path = tmp_path / "result.npz"
    result_of().save(path)
    forged(path, **changes)
    with pytest.raises(InputError, match=message):
        unrelu.load_result(path)


def test_the_rounding_of_half_precision_comes_back_as_the_noise(tmp_path):
    net = unrelu.from_torch(made(lambda: nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 20))).half())
    y = net(Z).astype(np.float16).astype(float)
    result = unrelu.invert(net, y, "lm", z0=Z)
    for part in (result, result[1]):
        part.save(tmp_path / "result.npz")
        again = unrelu.load_result(tmp_path / "result.npz", net)
        assert str(again) == str(part)
        assert again.problem.noise.note == part.problem.noise.note != ""


def test_texts_of_a_file_do_not_steer_the_terminal(tmp_path):
    path = tmp_path / "result.npz"
    result_of().save(path)
    forged(path, message=np.full(4, "two\nlines\x1b[2J\r"), version="0\x1b[2J")
    loaded = unrelu.load_result(path)
    assert loaded.message[0] == "two\nlines?[2J?"
    assert "\x1b" not in str(loaded) + str(loaded[0])


def test_a_result_without_observations_comes_back(tmp_path):
    none = result_of("masks")[np.zeros(4, dtype=bool)]
    none.save(tmp_path / "result.npz")
    assert (
        len(unrelu.load_result(tmp_path / "result.npz", NET)) == len(unrelu.load_result(tmp_path / "result.npz")) == 0
    )


def test_observations_that_failed_are_kept_with_their_messages(tmp_path):
    result = result_of()

    def refused(rows):
        raise SolverError("the solver refused it")

    alone_after_breakdown(refused, result.problem, "lm").save(tmp_path / "result.npz")
    again = unrelu.load_result(tmp_path / "result.npz", NET)
    assert set(again.status) == {Status.ERROR}
    assert set(again.message) == {"could not be inverted: the solver refused it"}
    assert np.isnan(again.z).all()
