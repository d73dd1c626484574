"""Pictures of posteriors, and their conversion for ArviZ."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import unrelu
from tests.sampling.known_posteriors import known, normal_draws
from tests.sampling.test_draws import GOOD, mixture
from tests.support import image_network
from unrelu import Status
from unrelu.errors import InputError, MissingPackageError, OptionError

IMAGE = image_network()


def pictures(z: np.ndarray, **fields) -> unrelu.Posterior:
    return known(z, network=IMAGE, **fields)


def titles(figure) -> list[str]:
    return [ax.get_title().splitlines()[0] for ax in figure.axes if ax.get_title()]


def test_pictures_show_observation_mean_deviation_and_four_draws():
    mask = np.ones(IMAGE.output_shape, dtype=bool)
    mask[..., :3] = False
    p = pictures(normal_draws(2, 4, 50, 3), operator=unrelu.Mask(mask))
    figure = p.plot()
    draws = [f"draw {i}" for i in range(1, 5)]
    assert titles(figure) == ["observed", "mean", "standard deviation", *draws]
    assert len(figure.axes) == 14
    assert "2 of 2 observations, 4 chains of 50 draws; light blue was not observed" in figure.get_suptitle()
    outputs = IMAGE(p.z[1].reshape(-1, 3)).reshape(200, *IMAGE.output_shape)
    brightness = figure.axes[9].images[0].get_array()[..., 0]
    deviation = outputs.std(axis=0).reshape(brightness.shape)
    np.testing.assert_allclose(brightness / 255, deviation / max(p_deviations(p)), atol=0.01)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(p.plot(1).axes) == len(p.plot(max_observations=1).axes) == len(p[1].plot().axes) == 7


def p_deviations(p: unrelu.Posterior) -> list[float]:
    return [float(IMAGE(each.z.reshape(-1, 3)).std(axis=0).max()) for each in p]


def test_curves_have_a_band_of_the_intervals_of_the_outputs():
    figure = GOOD.plot()
    assert titles(figure) == ["observed, and mean, band: 90%", "4 draws", "standard deviation"]
    (band,) = figure.axes[0].collections
    lower, upper = GOOD.interval(0.9, of="reconstruction")
    ends = band.get_paths()[0].get_extents()
    np.testing.assert_allclose([ends.ymin, ends.ymax], [lower.min(), upper.max()])
    assert len(figure.axes[1].lines) == 4
    np.testing.assert_allclose(figure.axes[0].lines[1].get_ydata(), GOOD.reconstructions(1000).mean(axis=0))


def test_the_corner_plot_has_a_colour_for_each_mode():
    p = known(mixture(0.7), single=True)
    figure = p.plot_corner()
    assert len(figure.axes) == 9
    assert [ax.get_xlabel() for ax in figure.axes[6:9]] == ["z[0]", "z[1]", "z[2]"]
    heavy, light = ([line.get_xydata() for line in figure.axes[3].lines if line.get_marker() == "."][i] for i in (0, 1))
    assert len(heavy) > len(light)
    assert (heavy[:, 0] > 0).all()
    assert (light[:, 0] < 0).all()
    crosses = [line.get_xydata()[0].tolist() for line in figure.axes[3].lines if line.get_marker() == "x"]
    assert crosses == [[1, 1], [-1, -1]]
    dashes = [line.get_xdata()[0] for line in figure.axes[0].lines]
    np.testing.assert_allclose(dashes, [end[0] for end in p.interval(0.9)])
    assert "MIXED" in figure.get_suptitle()
    narrow = known(0.67 + 0.0054 * normal_draws(1, 4, 500, 3), single=True)
    low, high = map(float, narrow.plot_corner([0]).axes[0].get_title().split(" to "))
    assert [low, high] == pytest.approx([end[0] for end in narrow.interval(0.9)], abs=0.00006)
    assert 0.015 < high - low < 0.02
    assert [ax.get_xlabel() for ax in p.plot_corner([2, 0]).axes[2:]] == ["z[2]", "z[0]"]
    assert len(p.plot_corner([1]).axes) == 1


@pytest.mark.parametrize("coordinates", [[3], [-4], [0, 0], [0.5], [], ["0"], 1.5, "01"])
def test_coordinates_that_the_code_has_not_are_refused(coordinates):
    with pytest.raises(OptionError, match="must be different whole numbers from 0 to 2"):
        GOOD.plot_corner(coordinates)


def test_what_cannot_be_drawn_says_why():
    batch = known(normal_draws(2, 4, 50, 3))
    with pytest.raises(TypeError, match=r"p\[i\]\.plot_corner\(\)"):
        batch.plot_corner()
    with pytest.raises(InputError, match="there are no draws to plot: could not be sampled"):
        known(np.full((1, 4, 50, 3), np.nan), single=True, ended=[Status.ERROR]).plot_corner()
    with pytest.raises(OptionError, match="max_observations=0"):
        batch.plot(max_observations=0)
    with pytest.raises(IndexError, match="leave it out"):
        GOOD.plot(0)
    with pytest.raises(OptionError, match="outputs have 20 entries"):
        GOOD.plot(shape=(3, 7))


def test_arviz_takes_draws_and_statistics():
    import arviz_stats

    tree = GOOD.to_arviz()
    np.testing.assert_array_equal(tree.posterior["z"], GOOD.z)
    assert tree.posterior["z"].dims == ("chain", "draw", "z_0")
    np.testing.assert_array_equal(tree.sample_stats["log_likelihood"], GOOD.log_likelihood)
    np.testing.assert_array_equal(tree.observed_data["y"], GOOD.problem.y[0])
    np.testing.assert_allclose(arviz_stats.rhat(tree)["z"], GOOD.rhat, rtol=1e-6)
    np.testing.assert_allclose(arviz_stats.ess(tree)["z"], GOOD.ess, rtol=1e-6)
    batch = known(normal_draws(2, 4, 50, 3))
    tree = batch.to_arviz()
    assert tree.posterior["z"].dims == ("chain", "draw", "observation", "z_0")
    np.testing.assert_allclose(arviz_stats.rhat(tree)["z"], batch.rhat, rtol=1e-6)


def test_arviz_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(MissingPackageError, match="pip install arviz-base"):
        GOOD.to_arviz()
