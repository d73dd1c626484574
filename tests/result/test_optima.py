"""The distinct local optima of a search: known solutions, a multi-start of SciPy, files and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

import unrelu
from tests.support import random_network
from unrelu.errors import InputError, OptionError
from unrelu.runtime.streams import stream

# G(z) = |z|, so that every observation has the two codes y and -y.
ABSOLUTE = unrelu.from_arrays([[[1.0], [-1.0]], [[1.0, 1.0]]])
BOUNDS = (-4.0, 4.0)
# (|z_0|, |z_1|): four codes of each observation.
CORNERS = unrelu.from_torch(lambda z: torch.cat([z.abs(), z.abs()[:, :1] + z.abs()[:, 1:]], 1), latent_shape=(2,))


def wave(z):
    """Several optima, none of them an exact fit."""
    return torch.cat([torch.sin(3 * z), torch.cos(z.roll(1, 1) + z), 0.3 * z], 1)


WAVE = unrelu.from_torch(wave, latent_shape=(2,)).named(["h", "tau"])
OBSERVED = stream("optima").standard_normal(6)


def test_two_codes_of_one_observation():
    for noise in ("gaussian:0.1", None):
        result = unrelu.invert(ABSOLUTE, [2.0], noise=noise, bounds=BOUNDS, restarts=10)
        optima = result.optima
        assert sorted(optima.z.ravel()) == pytest.approx([-2.0, 2.0], abs=1e-9)
        assert optima.explains.all()
        assert optima.fun.max() < 1e-20
        assert optima.reached.sum() == 10
        assert np.isfinite(optima.p_value).all() == bool(noise)
        assert (optima[0].z == result.z).all()
        text = "p = 1, at" if noise else "as well: at"
        assert f"{text} [{optima[1].z[0]:.0f}.]; see r.optima" in " ".join(str(result).split())


def misfit(z, y):
    """Residuals of G(z) = (z^2, z / 10, 1, 0)."""
    return np.array([z[0] ** 2, 0.1 * z[0], 1.0, 0.0]) - y


@pytest.mark.parametrize(("sigma", "explains"), [(0.1, True), (0.04, False)])
def test_what_noise_allows(sigma, explains):
    """The second code explains y only if its misfit is one that the noise leaves."""
    net = unrelu.from_torch(lambda z: torch.cat([z.square(), 0.1 * z, 0 * z + 1, 0 * z], 1), latent_shape=(1,))
    y = np.array([1.0, 0.1, 1.05, -0.06])
    result = unrelu.invert(net, y, noise=unrelu.Gaussian(sigma), restarts=20)
    optima = result.optima
    ends = [least_squares(misfit, start, args=(y,)) for start in (1.0, -1.0)]
    np.testing.assert_allclose(optima.z, [end.x for end in ends], atol=1e-6)
    np.testing.assert_allclose(optima.fun, [2 * end.cost for end in ends], rtol=1e-6, atol=1e-12)
    assert optima.explains.tolist() == [True, explains]
    assert ("other optima" in str(result)) == explains
    assert optima[0].p_value == pytest.approx(result.p_value)


@pytest.mark.parametrize("norm", ["l2", "huber:0.5"])
def test_a_multi_start_of_scipy_finds_the_same(norm):
    # Of 240 restarts with each of four seeds, 5 to 18 end at the rarest of the best five; 0.97^400 = 5e-6.
    optima = unrelu.invert(WAVE, OBSERVED, bounds=(-2.0, 2.0), norm=norm, restarts=400).optima
    options = {"loss": "huber", "f_scale": 0.5} if norm != "l2" else {}

    def descended(start):
        def residual(z):
            return np.concatenate([np.sin(3 * z), np.cos(z[::-1] + z), 0.3 * z]) - OBSERVED

        end = least_squares(residual, start, bounds=(-2, 2), xtol=1e-12, ftol=1e-14, gtol=1e-10, **options)
        return np.append(2 * end.cost, end.x)

    ends = np.array(sorted(map(tuple, map(descended, stream("optima", 1).uniform(-2, 2, (60, 2))))))
    best = ends[np.append(True, np.abs(np.diff(ends[:, 0])) > 1e-4)][:5]
    np.testing.assert_allclose(np.column_stack([optima.fun, optima.z])[:5], best, atol=1e-4)
    assert (np.diff(optima.fun) > 0).all()
    assert optima.reached.sum() >= 400
    for z, f in zip(optima.z, optima.fun, strict=True):  # each is a local optimum
        np.testing.assert_allclose(descended(np.clip(z, -2 + 1e-9, 2 - 1e-9)), np.append(f, z), atol=1e-3)


def test_every_solution_of_a_many_to_one_map():
    y = CORNERS(np.array([0.7, -1.2]))
    optima = unrelu.invert(CORNERS, y, bounds=(-2.0, 2.0), restarts=40).optima
    assert sorted(map(tuple, optima.z.round(9))) == [(-0.7, -1.2), (-0.7, 1.2), (0.7, -1.2), (0.7, 1.2)]
    assert optima.explains.all()
    assert optima.reached.sum() == 40
    assert [len(optima.apart(distance)) for distance in (1.39, 1.41, 2.41, [np.inf, 2.39])] == [4, 2, 1, 2]


def test_a_set_of_codes_gives_as_many_answers_as_are_asked_for():
    """Two outputs of four coordinates: nearly every restart ends at another exact fit."""
    net = random_network((4, 50, 50, 2), "tanh", bias=True, last="identity")
    y = net(np.array([0.3, -0.2, 0.5, 0.1]))
    optima = unrelu.invert(net, y, bounds=(-1.0, 1.0), restarts=60).optima
    optima = optima[optima.explains]
    assert len(optima) >= 50
    assert np.abs(net(optima.z) - y).max() < 1e-8
    assert np.abs(optima.z).max() <= 1
    kept = optima.apart(0.5).z
    between = np.abs(kept[:, None] - kept).max(axis=2) + 9 * np.eye(len(kept))
    assert len(kept) > 2
    assert between.min() >= 0.5
    for z in optima.z:
        assert np.abs(kept - z).max(axis=1).min() < 0.5


def test_a_flat_direction_has_one_optimum_unless_it_fits_exactly():
    """Nothing depends on z_1."""
    net = unrelu.from_torch(lambda z: torch.cat([z[:, :1], 0.5 * z[:, :1], 0 * z[:, 1:]], 1), latent_shape=(2,))
    apart, exact = (unrelu.invert(net, [1.0, half, 0.0], restarts=10).optima for half in (0.7, 0.5))
    assert len(apart) == 1
    assert apart.reached[0] == 10
    assert len(exact) >= 6
    assert exact.explains.all()


def test_restarts_leave_an_exact_fit_as_it_is():
    net = random_network((3, 20, 30), bias=True)
    y = net(stream("optima", 2).standard_normal((4, 3)))
    few, many = (unrelu.invert(net, y, restarts=restarts) for restarts in (0, 20))
    np.testing.assert_array_equal(few.z, many.z)
    assert [len(ends) for ends in many.restarts] == [20] * 4
    assert [one.reached.sum() for one in many.optima] == [20] * 4


def test_norms_of_linear_programs():
    optima = unrelu.invert(CORNERS, [0.7, 1.2, 1.95], bounds=(-2.0, 2.0), norm="linf", restarts=20).optima
    assert len(optima) == 4  # the error of .05 is shared by three entries
    np.testing.assert_allclose(np.abs(optima.z), [[0.7 + 0.05 / 3, 1.2 + 0.05 / 3]] * 4, atol=1e-6)
    np.testing.assert_allclose(optima.fun, 0.05 / 3, atol=1e-7)


def test_other_methods_have_their_code_alone():
    result = unrelu.invert(WAVE, OBSERVED, "lm", noise="gaussian:1")
    assert len(result.optima) == 1
    assert (result.optima.z[0] == result.z).all()
    assert result.optima.p_value[0] == pytest.approx(result.p_value)
    assert result.optima.reached.tolist() == [0]
    assert "other optima" not in str(result)


def test_batches_parts_and_files(tmp_path):
    y = WAVE(stream("optima", 3).uniform(-2, 2, (3, 2))) + stream("optima", 4).normal(0, 0.3, (3, 6))
    result = unrelu.invert(WAVE, y, noise="gaussian:0.3", bounds=([-2.0, -1.0], [2.0, 1.0]))
    assert len(result.optima) == 3
    assert result[[]].optima == ()
    result.save(tmp_path / "result.npz")
    loaded = unrelu.load_result(tmp_path / "result.npz", WAVE)
    for i, one in enumerate(result.optima):
        assert (one.fun == np.sort(one.fun)).all()
        assert (one.z == result.z[i]).all(axis=1).any()
        for other in (loaded.optima[i], loaded[i].optima, result[i].optima, result[[2, i]].optima[1]):
            for name in ("z", "fun", "p_value", "reached"):
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-7, atol=1e-9)
    assert str(loaded[0]) == str(result[0])
    alone = unrelu.load_result(tmp_path / "result.npz")
    with pytest.raises(
        InputError, match=r"loaded without its network, which this needs: unrelu.load_result\(path, net"
    ):
        alone.optima  # noqa: B018
    assert "other optima" not in str(alone[0])
    result[[]].save(tmp_path / "empty.npz")
    assert unrelu.load_result(tmp_path / "empty.npz", WAVE).optima == ()


def test_fixed_coordinates():
    optima = unrelu.invert(WAVE, OBSERVED, bounds=(-2.0, 2.0), fixed={"h": 0.5}, restarts=20).optima
    assert len(optima) > 1
    assert (optima.z[:, 0] == 0.5).all()
    assert len(optima.apart({"tau": 0.0})) == len(optima)
    assert len(optima.apart({0: 0.1})) == 1


def test_codes_of_another_shape():
    net = unrelu.from_torch(lambda z: z.flatten(1).abs(), latent_shape=(2, 1))
    optima = unrelu.invert(net, [1.0, 2.0], restarts=30).optima
    assert [part.z.shape for part in (optima, optima[:2], optima[1])] == [(4, 2, 1), (2, 2, 1), (2, 1)]
    assert len(optima.apart(np.array([[1.9], [9.0]]))) == 2


def test_printed():
    optima = unrelu.invert(WAVE, OBSERVED, bounds=(-2.0, 2.0), noise="gaussian:1", restarts=60).optima
    lines = str(optima).splitlines()
    assert lines[0] == f"{len(optima)} distinct local optima, best first"
    assert lines[1].split() == ["fun", "p-value", "explains", "y", "reached", "h", "tau"]
    assert lines[2].split()[-2:] == [f"{value:.5g}" for value in optima[0].z]
    assert lines[-1].strip() == f"and {len(optima) - 10} more"
    assert len(lines) == 13
    assert str(optima[0]).splitlines()[2].split() == lines[2].split()
    assert repr(optima) == f"<Optima: {len(optima)}, {optima.explains.sum()} of them explain y>"


@pytest.mark.parametrize(
    ("distance", "said"),
    [
        (-1.0, r"distance=-1.0 must be at least 0"),
        (np.nan, r"distance=nan must be at least 0"),
        ([1.0, 2.0, 3.0], "or one for each coordinate"),
        ("far", "distance='far' is text"),
        ({"H": 1.0}, "distance: 'H' is none of the 2 coordinates of the generator; those with names are h, tau"),
        ({"h": -1.0}, "must be at least 0"),
    ],
)
def test_bad_distances(distance, said):
    optima = unrelu.invert(WAVE, OBSERVED, "lm").optima
    with pytest.raises(InputError, match=said):
        optima.apart(distance)


def test_bad_number_of_restarts():
    with pytest.raises(OptionError, match="restarts=-1"):
        unrelu.invert(WAVE, OBSERVED, restarts=-1)


def test_results_of_one_number_and_no_optima_are_printed():
    net = unrelu.from_torch(lambda z: (z**2).sum(1), latent_shape=3)
    r = unrelu.invert(net, 2.0, noise="gaussian:0.1")
    assert "chi-square" in str(r)
    none = r.optima[:0]
    assert (len(none), len(none.apart(1.0)), "0 distinct" in str(none)) == (0, 0, True)
    assert len(r.optima[0].apart(1.0)) == 1
