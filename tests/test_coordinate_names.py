"""Names of latent coordinates, from the generator to what is printed, drawn and written."""

import numpy as np
import pytest
from scipy import special

import unrelu
from unrelu.cli.result_folders import posterior_records, records
from unrelu.errors import InputError, OptionError
from unrelu.report import write_report
from unrelu.result.fingerprint import fingerprint
from unrelu.runtime.words import rounded

RNG = np.random.default_rng([37, 1])
WEIGHTS = [RNG.normal(0, 0.6, (12, 2)), RNG.normal(0, 0.4, (9, 12))]
PLAIN = unrelu.from_arrays(WEIGHTS, activation=["relu", "identity"])
NAMED = PLAIN.named(["h", "omega_b"])
WIDE = unrelu.extend(NAMED, offset=(-1, 1))
TRUTH = np.array([0.7, -0.4])
Y = NAMED(TRUTH) + 0.01 * RNG.normal(size=9)


@pytest.fixture(scope="module")
def found():
    return unrelu.invert(NAMED, Y, "lm", noise="gaussian:0.01", z0=TRUTH)


@pytest.fixture(scope="module")
def wide():
    start = WIDE.join(TRUTH, offset=0.2)
    return unrelu.invert(WIDE, Y + 0.2, "lm", noise="gaussian:0.01", z0=start)


@pytest.fixture(scope="module")
def drawn():
    return unrelu.posterior(WIDE, Y + 0.2, noise="gaussian:0.5", draws=50, chains=2)


def test_names_change_no_number():
    assert np.array_equal(PLAIN(TRUTH), NAMED(TRUTH))
    assert fingerprint(PLAIN) == fingerprint(NAMED)
    assert NAMED.plain is PLAIN
    assert PLAIN.names.coordinate_names == ()
    assert PLAIN.names.name_of(1) == "z[1]"


def test_an_extended_generator_appends_its_parameters():
    assert WIDE.coordinate_names == ("h", "omega_b", "offset")
    assert unrelu.extend(PLAIN, offset=(-1, 1)).names.parameter_names == ("z0", "z1", "offset")
    with pytest.raises(OptionError, match="'offset' is that of two coordinates"):
        unrelu.extend(PLAIN.named(["h", "offset"]), offset=(-1, 1))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["h"], "must be 2 texts"),
        ("ab", "must be 2 texts"),
        (np.array("ab"), "must be 2 texts"),
        (["h", 3], "must be 2 texts"),
        (["h", "h"], "'h' is that of two coordinates"),
        (["z1", ""], "'z1' is that of two coordinates"),
        (["h", "a\nb"], "is no name"),
        (["h", "x" * 81], "is no name"),
    ],
)
def test_bad_names_are_refused(names, said):
    with pytest.raises(OptionError, match=said):
        PLAIN.named(names)


def test_a_result_has_its_code_by_name(found):
    assert found.parameters == {"h": found.z[0], "omega_b": found.z[1]}
    assert f"h = {found.z[0]:.5g}, omega_b = {found.z[1]:.5g}" in str(found)
    frame = found.to_frame(codes=True)
    assert frame[["h", "omega_b"]].to_numpy().tolist() == [found.z.tolist()]


def test_a_nuisance_parameter_is_reported_itself(wide):
    _, nuisance = WIDE.split(wide.z)
    assert wide.parameters["offset"] == pytest.approx(nuisance["offset"])
    assert wide.parameters["offset"] == pytest.approx(2 * special.ndtr(wide.z[2]) - 1)
    assert f"offset = {nuisance['offset']:.5g}" in str(wide)


def test_laplace_intervals_are_one_standard_deviation_to_either_side(found, wide):
    local = found.laplace()
    assert np.allclose([local.intervals["h"][i] for i in (0, 1)], found.z[0] + local.std[0] * np.array([-1, 1]))
    assert f"of 68.3% each: h {rounded(local.intervals['h'][0], local.std[0])} to" in str(local)
    local = wide.laplace()
    ends = wide.z[2] + local.std[2] * np.array([-1, 1])
    assert np.allclose(local.intervals["offset"], 2 * special.ndtr(ends) - 1)


def test_a_column_of_the_verdict_cannot_be_a_coordinate():
    r = unrelu.invert(PLAIN.named(["h", "rank"]), Y, "lm", z0=TRUTH)
    with pytest.raises(InputError, match="'rank' has the name of a column"):
        r.to_frame(codes=True)


def test_starts_by_name():
    r = unrelu.invert(NAMED, Y, "lm", z0={"omega_b": -0.4, "h": 0.5})
    assert np.array_equal(r.z, unrelu.invert(NAMED, Y, "lm", z0=[0.5, -0.4]).z)
    with pytest.raises(InputError, match=r"z0={'h': 0.5} has no value of omega_b; state every coordinate"):
        unrelu.invert(NAMED, Y, "lm", z0={"h": 0.5})


def test_bounds_by_name():
    r = unrelu.invert(NAMED, Y, "lm", noise="gaussian:0.01", z0=[0.5, -0.4], bounds={"h": (0, 0.5)})
    same = unrelu.invert(NAMED, Y, "lm", noise="gaussian:0.01", z0=[0.5, -0.4], bounds=([0, -np.inf], [0.5, np.inf]))
    assert np.array_equal(r.z, same.z)
    assert r.z[0] == 0.5
    assert "h at its upper bound" in str(r)


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"H": (0, 1)}, "'H' is none of the 3 coordinates.*did you mean 'h'"),
        ({"h": (1, 0)}, r"coordinate 0 \(h\) has the lower bound 1"),
        ({"h": 3}, "'h' has 3; pass a pair"),
        ({"offset": (0, 3)}, r"'offset' has \(0, 3\); pass a pair of numbers, \(lower, upper\) from -1 to 1"),
    ],
)
def test_bad_bounds_by_name_are_refused(bounds, said):
    with pytest.raises(InputError, match=said):
        unrelu.invert(WIDE, Y, bounds=bounds)


def test_bounds_by_name_need_names():
    with pytest.raises(InputError, match=r"they have no names: network\.named"):
        unrelu.invert(PLAIN, Y, bounds={"h": (0, 1)})


def test_saved_results_have_names(found, wide, tmp_path):
    found.save(tmp_path / "r.npz")
    assert unrelu.load_result(tmp_path / "r.npz").parameters == found.parameters
    wide.save(tmp_path / "wide.npz")
    alone = unrelu.load_result(tmp_path / "wide.npz")
    assert alone.parameters == unrelu.load_result(tmp_path / "wide.npz", WIDE).parameters == wide.parameters
    assert str(alone).split("effort")[0] == str(wide).split("effort")[0]
    alone.save(tmp_path / "again.npz")
    assert unrelu.load_result(tmp_path / "again.npz").parameters == wide.parameters


def test_nuisance_parameters_of_nuisance_parameters_are_saved(tmp_path):
    inner = unrelu.extend(PLAIN, scale=unrelu.Normal(1.0, 0.1))
    net = unrelu.extend(inner, offset=(-1, 1))
    r = unrelu.invert(net, Y, "lm")
    base, found = net.split(r.z)
    expected = {**inner.split(base)[1], **found}
    r.save(tmp_path / "r.npz")
    for parameters in (r.parameters, unrelu.load_result(tmp_path / "r.npz").parameters):
        assert {name: parameters[name] for name in expected} == pytest.approx(expected)


def test_a_posterior_has_its_draws_by_name(drawn, tmp_path):
    assert np.array_equal(drawn.parameters["h"], drawn.z[..., 0])
    assert np.allclose(drawn.parameters["offset"], 2 * special.ndtr(drawn.z[..., 2]) - 1)
    offset = drawn.parameters["offset"]
    deviation = offset.std(ddof=1)
    assert f"offset = {rounded(offset.mean(), deviation)} ± {rounded(deviation, deviation)}" in str(drawn)
    figure = drawn.plot_corner(["offset", "h"])
    assert [ax.get_xlabel() for ax in figure.axes if ax.get_xlabel()] == ["offset", "h"]
    with pytest.raises(OptionError, match="or names: h, omega_b, offset"):
        drawn.plot_corner(["H"])
    drawn.save(tmp_path / "p.npz")
    assert list(unrelu.load_posterior(tmp_path / "p.npz", WIDE).parameters) == ["h", "omega_b", "offset"]
    alone = unrelu.load_posterior(tmp_path / "p.npz")
    assert np.array_equal(alone.parameters["offset"], drawn.parameters["offset"])
    assert str(alone) == str(drawn)


def test_arviz_gets_the_draws_by_name(drawn):
    pytest.importorskip("arviz_base")
    tree = drawn.to_arviz()
    assert np.array_equal(tree["posterior"]["h"], drawn.parameters["h"])
    assert tree["posterior"]["z"].shape == drawn.z.shape


def test_records_have_parameters(found, drawn):
    (row,) = records(found)
    assert row["parameters"] == found.parameters
    (row,) = posterior_records(drawn)
    lower, upper = np.quantile(drawn.parameters["offset"], (0.05, 0.95))
    assert row["parameters"]["offset"] == pytest.approx({
        "mean": drawn.parameters["offset"].mean(), "std": drawn.parameters["offset"].std(ddof=1),
        "lower": lower, "upper": upper,
    })  # fmt: skip
    assert "parameters" not in next(iter(records(unrelu.invert(PLAIN, Y, "lm", z0=TRUTH))))


def test_a_run_writes_parameters_by_name(tmp_path):
    run = unrelu.run(WIDE, np.stack([Y, Y + 0.1]), tmp_path / "out", "lm", noise="gaussian:0.01", workers=1)
    again = unrelu.open_run(tmp_path / "out")
    assert again.names == ["h", "omega_b", "offset"]
    assert np.allclose(again.read("parameters"), WIDE.names.parameters_of(run.read("codes")))
    assert again.to_frame()["offset"].tolist() == again.read("parameters")[:, 2].tolist()
    page = write_report(tmp_path / "out", None).read_text()
    assert "h, omega_b, offset" in page
    assert f"offset = {again.read('parameters')[0, 2]:.5g}" in page


def test_another_name_is_another_run(tmp_path):
    unrelu.run(NAMED, Y[None], tmp_path / "out", "lm", workers=1)
    with pytest.raises(InputError, match=r"model\.names"):
        unrelu.run(PLAIN, Y[None], tmp_path / "out", "lm", workers=1)
