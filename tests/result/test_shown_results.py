"""What people see of a result: text, one line, HTML, pictures, data frames; and a batch as a sequence."""

from __future__ import annotations

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import unrelu
from tests.support import image_network, random_network
from unrelu.errors import MissingPackageError
from unrelu.problem import Problem
from unrelu.result import COLUMNS, Inversion, Status
from unrelu.runtime.streams import stream
from unrelu.runtime.words import number, share

NET = random_network((3, 8, 20), bias=True)
IMAGE = image_network()
SHOWN = ["status", *(COLUMNS.keys() - {"ended", "restarts"})]  # with a batch axis for batches alone


def found(network=NET, batch=6, error=0.05, single=False, **options):
    """A result whose codes are off by ``error``; of ``single`` of one observation."""
    z = stream("shown results").standard_normal((batch, network.latent_dim))
    y = network(z)
    problem = Problem.build(network, y[0] if single else y, **options)
    codes = (z[:1] if single else z) + error
    return Inversion.of(problem, codes, method="mine", nit=7, status=Status.CONVERGED, confidence=0.8)


def test_a_batch_prints_in_at_most_15_lines_with_its_worst_observations():
    result = found(batch=50, noise="gaussian:0.02")
    statuses = np.array(list(Status)[: len(result)], dtype=object)
    many = replace(result, batch=replace(result.batch, verdict=np.resize(statuses, 50)))
    for shown in (result, many):
        lines = str(shown).splitlines()
        assert len(lines) <= 15
        assert max(map(len, lines)) <= 100
    assert str(result).startswith("50 observations, method mine, noise gaussian:0.02: ")
    worst = np.lexsort((-result.residual(), result.p_value, result.success))[:5]
    table = str(result).split("the worst 5:\n")[1].splitlines()
    assert [line.split()[0] for line in table[1:6]] == [str(i) for i in worst]
    assert table[1].split()[3] == f"{result.residual()[worst[0]]:.3g}"


def test_one_observation_says_its_verdict_in_words():
    lines = str(found(single=True, noise="uniform:1")).splitlines()
    assert lines[0] == "One observation, method mine: successful"
    names = [line[2:].split("  ")[0] for line in lines[1:]]
    assert names == ["NOISE_LEVEL", "code", "fit", "confidence", "uniqueness", "effort"]
    assert "p = 1 under uniform:1" in lines[3]
    assert "0.8: the probability that the search missed no better code" in lines[4]
    assert "7 iterations" in lines[-1]


def test_uniqueness_is_said_of_every_rank():
    y = NET(np.ones(3))
    text = " ".join(str(unrelu.invert(NET, y, "exact")).split())
    assert "no other code near it gives the same observation (rank 3 of 3)" in text
    assert "no noise was stated, so there is no p-value confidence" in text
    narrow = unrelu.from_arrays([np.ones((1, 2))])
    assert "a set of codes around it, of 1 dimension, gives the same observation (rank 1 of 2)" in str(
        unrelu.invert(narrow, [1.0], "lm", z0=[1.0, 1.0])
    )
    assert "unknown: lm does not look for a better code" in str(unrelu.invert(NET, y + 1, "lm"))
    unlearned = " ".join(str(unrelu.invert(NET, y + 1, learn=False)).split())
    assert "; it was not learned on this generator: learn=True" in unlearned


def test_without_stated_noise_the_share_that_is_explained_is_printed():
    """Linear outputs have no range, so that y may have noise, and all that is known of it is what the code explains."""
    rng = np.random.default_rng([5, 8])
    net = unrelu.from_arrays([rng.normal(size=(40, 3))], activation="identity")
    y = net(rng.normal(size=3)).ravel() + rng.normal(size=40)
    r = unrelu.invert(net, y)
    assert r.status.name == "REFOUND"
    part = 1 - r.residual() ** 2 / (y @ y)
    text = " ".join(str(r).split())
    assert f"so there is no p-value: the code explains {share(part)} of |y|^2, and nothing is known of the rest" in text
    batch = str(unrelu.invert(net, [y, y]))
    assert "no noise stated" in batch
    assert batch.count(share(part)) == 2


def test_fun_has_one_meaning_whichever_way_equal_sizes_are_stated():
    rng = np.random.default_rng([5, 9])
    net = unrelu.from_arrays([rng.normal(size=(40, 3))], activation="identity")
    y = net(rng.normal(size=3)).ravel() + 0.1 * rng.normal(size=40)
    one, same = (unrelu.invert(net, y, "lm", noise=unrelu.Gaussian(size)) for size in (0.1, np.full(40, 0.1)))
    sizes = np.geomspace(0.09, 0.11, 40)
    other = unrelu.invert(net, y, "lm", noise=unrelu.Gaussian(sizes))
    assert one.fun == same.fun == pytest.approx(one.residual() ** 2)
    assert other.fun == pytest.approx((((y - other.reconstruction) / sizes) ** 2).sum())
    for r, chi_square in ((one, one.fun / 0.01), (same, same.fun / 0.01), (other, other.fun)):
        assert f"chi-square {number(float(chi_square))} for 37 degrees of freedom" in " ".join(str(r).split())


def test_active_bounds_are_named():
    identity = unrelu.from_arrays([np.eye(3)], activation="identity")
    one = unrelu.invert(identity, [5.0, 0.0, -5.0], "lm", bounds=(-1, 1))
    assert "z[0] at its upper bound, z[2] at its lower bound" in str(one)
    batch = unrelu.invert(identity, [[5.0, 0.0, 0.0], [0.0, 0.0, 0.5]], "lm", bounds=(-1, 1))
    assert "at a bound: 1" in str(batch)
    assert "bound" not in str(unrelu.invert(identity, [5.0, 0.0, -5.0], "lm"))


def test_an_index_gives_one_observation_with_scalars():
    result = found(noise="gaussian:0.1")
    one, alone = result[2], found(single=True)
    for name in SHOWN:
        np.testing.assert_array_equal(getattr(one, name), getattr(result, name)[2])
        assert type(getattr(one, name)) is type(getattr(alone, name))
    assert one.residual() == pytest.approx(result.residual()[2])
    assert (result[-1].fun, result[np.int64(2)].fun) == (result.fun[-1], result.fun[2])


@pytest.mark.parametrize(
    "index",
    [slice(1, 4), slice(None, None, -2), [3, 0], np.array([5, 5]), np.arange(6) % 2 == 0, [], np.zeros(6, bool)],
)
def test_slices_masks_and_arrays_give_results(index):
    result = found(noise="gaussian:0.1")
    part = result[index]
    expected = np.arange(6)[index]
    assert len(part) == len(expected)
    for name in SHOWN:
        np.testing.assert_array_equal(getattr(part, name), getattr(result, name)[index])
    np.testing.assert_array_equal(part.problem.y, result.problem.y[expected])
    if len(expected):
        np.testing.assert_allclose(part.residual("linf"), result.residual("linf")[index])
        np.testing.assert_array_equal(part[0].z, result.z[expected[0]])
    assert str(part)
    assert repr(part)
    assert bool(part) == bool(len(expected))


def test_one_observation_is_no_sequence():
    one = found(single=True)
    for asked, message in (
        (len, r"has no len\(\)"),
        (lambda r: r[0], r"be indexed: r\.z, r\.status"),
        (list, "no len"),
    ):
        with pytest.raises(TypeError, match=f"one observation .*{message}"):
            asked(one)
    assert bool(one)


@pytest.mark.parametrize("index", [6, -7, "z", (1, 2), None, True, [[0, 1]], 1.5, np.ones(5, dtype=bool)])
def test_what_is_no_index_is_an_index_error(index):
    with pytest.raises(IndexError):
        found()[index]


def test_parts_keep_their_own_masks_noise_and_starts():
    z = stream("shown results").standard_normal((4, 3))
    masks = stream("masks").random((4, 20)) < 0.7
    sizes = stream("sizes").uniform(0.1, 1.0, (4, 20))
    problem = Problem.build(NET, NET(z) + 0.1, operator=masks, noise=unrelu.Gaussian(sizes), z0=z)
    result = Inversion.of(problem, z, method="mine")
    for index in ([2, 0], slice(2, None), np.array([True, False, True, True])):
        np.testing.assert_allclose(result[index].residual(), result.residual()[index])
    assert result[3].residual() == pytest.approx(result.residual()[3])
    np.testing.assert_array_equal(result[[2, 0]].problem.z0, z[[2, 0]])


def test_copies_and_pickles_are_the_same_result():
    for result in (found(), found(single=True), found()[1:3], found()[2]):
        for again in (copy.copy(result), copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
            assert str(again) == str(result)
            np.testing.assert_array_equal(again.z, result.z)


def axes_of(figure):
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def test_pictures_have_three_columns_and_a_symmetric_colour_bar():
    figure = found(IMAGE, noise="gaussian:0.1").plot()
    assert [ax.get_title().splitlines()[0] for ax in axes_of(figure)[:3]] == [
        "observed", "reconstruction", "residual y \N{MINUS SIGN} G(z)",
    ]  # fmt: skip
    assert len(axes_of(figure)) == 6 * 3
    (bar,) = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    low, high = bar.get_ylim()
    assert low == -high
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_what_a_mask_hides_is_left_open():
    mask = np.ones((1, 6, 6))
    mask[0, 2:4, :3] = 0
    figure = found(IMAGE, batch=2, operator=mask).plot()
    hidden = np.array([0x9E, 0xCA, 0xE1])
    for ax in axes_of(figure)[:3:2]:
        image = np.asarray(ax.images[0].get_array())
        assert (image[2:4, :3] == hidden).all()
        assert not (image[:2] == hidden).all(axis=-1).any()
    assert "light blue was not observed" in figure.get_suptitle()


def test_curves_have_gaps_and_the_band_of_the_noise():
    sizes = np.full(20, 0.1)
    sizes[5:8] = np.inf
    seen, left = axes_of(found(batch=2, noise=unrelu.Gaussian(sizes)).plot([0]))
    observed, fitted = (line.get_ydata() for line in seen.lines[:2])
    assert np.flatnonzero(np.isnan(observed)).tolist() == [5, 6, 7]
    assert np.isfinite(fitted).all()
    assert "band: stated noise" in left.get_title()
    assert len(left.collections) == 1
    assert left.get_ylim()[0] == -left.get_ylim()[1]


def test_plotting_leaves_pyplot_alone_and_works_in_threads():
    before, result = "matplotlib.pyplot" in sys.modules, found(IMAGE)
    with ThreadPoolExecutor(3) as threads:
        assert len([*threads.map(lambda _: result.plot()._repr_png_(), range(3))]) == 3
    assert before == ("matplotlib.pyplot" in sys.modules)


def test_a_notebook_shows_thumbnails_of_at_most_eight():
    page = found(IMAGE, batch=12)._repr_html_()
    assert page.count('<img src="data:image/png;base64,') == 8 * 3
    assert "the worst 8:" in page
    assert found(single=True)._repr_html_().count("<img ") == 3


def test_a_data_frame_has_a_row_for_each_observation():
    result = found(noise="gaussian:0.1")
    frame = result.to_frame(codes=True)
    assert len(frame) == 6
    assert frame.index.name == "observation"
    assert frame["status"].tolist() == [status.name for status in result.status]
    np.testing.assert_array_equal(frame[["z0", "z1", "z2"]].to_numpy(), result.z)
    np.testing.assert_allclose(frame["residual"], result.residual())
    assert "z0" not in result.to_frame()
    assert found(single=True).to_frame().shape == (1, 15)


def test_without_pandas_a_data_frame_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match="pip install pandas"):
        found().to_frame()


@pytest.mark.parametrize(
    ("noise", "said"), [("gaussian:0.1", False), ("gaussian:25", True), ("uniform:25", False)], ids=str
)
def test_noise_that_is_stated_in_another_unit_is_noticed(noise, said):
    z = np.random.default_rng(3).standard_normal((2, 3))
    y = NET(z) + 0.1 * np.random.default_rng(4).standard_normal((2, NET.output_dim))
    result = Inversion.of(Problem.build(NET, y, noise=noise), z, method="mine")
    assert result.success.all()
    assert ["in another unit" in message for message in result.message] == [said, said]


def test_a_share_that_is_not_known_is_a_dash():
    assert "nan" not in str(found(error=np.nan))
