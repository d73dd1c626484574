"""LatentInverter keeps scikit-learn's contract, recovers codes, and fits into its searches and pipelines."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils import estimator_checks

import unrelu
from tests.support import random_network
from unrelu import LatentInverter
from unrelu.errors import InputError, OptionError

NETWORK = random_network((3, 12, 40), bias=True)
CODES = np.random.default_rng(100).standard_normal((12, 3))  # not of seed 0, which the searches start from
X = NETWORK(CODES)


def principal(table):
    """The generator z -> mean + V z of the three (or fewer) principal directions V of a table: PCA as a network."""
    pca = PCA(min(3, *table.shape), svd_solver="full").fit(table)
    return unrelu.from_arrays([pca.components_.T], [pca.mean_], activation="identity")


def gaussian(table):
    """A generator of the right width that is made without a look at the values."""
    rng = np.random.default_rng(0)
    return unrelu.from_arrays([rng.standard_normal((table.shape[1], 1))], activation="identity")


@pytest.mark.parametrize("model", [gaussian, principal])
def test_check_estimator_passes_without_exceptions(model):
    # Of tables that a generator cannot give, a search would go through all of its rounds.
    inverter = LatentInverter(model, options={"rounds": 1} if model is gaussian else None)
    results = estimator_checks.check_estimator(inverter, on_fail="raise", on_skip=None)
    assert len(results) > 40
    # Skipped unless an environment variable was set before SciPy was imported.
    assert {r["check_name"] for r in results if r["status"] != "passed"} <= {"check_array_api_input"}


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")  # the checks provoke it
@pytest.mark.parametrize(
    "check",
    [
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_dataframe_column_names_consistency",
    ],
)
def test_checks_of_names_and_tables_pass(check):
    """scikit-learn has these for its own transformers; check_estimator leaves them out."""
    getattr(estimator_checks, check)("LatentInverter", LatentInverter(principal))


def test_codes_are_recovered_and_give_the_observations_back():
    inverter = LatentInverter(NETWORK).fit(X)
    codes = inverter.transform(X)
    np.testing.assert_allclose(codes, CODES, atol=1e-6)
    np.testing.assert_allclose(inverter.inverse_transform(codes), X, atol=1e-9)
    np.testing.assert_array_equal(inverter.fit_transform(X), codes)
    assert inverter.score(X) == pytest.approx(0, abs=1e-9)
    frame = LatentInverter(NETWORK).set_output(transform="pandas").fit_transform(X)
    assert list(frame.columns) == ["latentinverter0", "latentinverter1", "latentinverter2"]
    np.testing.assert_array_equal(frame.to_numpy(), codes)


def test_one_row_is_a_table_whatever_the_shape_of_outputs():
    network = unrelu.from_torch(torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Unflatten(1, (1, 5))).double())
    row = network(np.ones(2))
    np.testing.assert_allclose(LatentInverter(network).fit_transform(row), [[1.0, 1.0]], atol=1e-6)
    noisy = X + 0.1 * np.random.default_rng(7).standard_normal(X.shape)
    inverter = LatentInverter(NETWORK, "least_squares").fit(noisy)
    alone = np.vstack([inverter.transform(row[None]) for row in noisy])
    np.testing.assert_allclose(inverter.transform(noisy), alone, atol=1e-9)


def test_a_linear_generator_gives_the_codes_of_pca():
    table = np.random.default_rng(1).standard_normal((30, 8)) @ np.diag(np.arange(1.0, 9.0))
    inverter = LatentInverter(principal).fit(table[:20])
    pca = PCA(3, svd_solver="full").fit(table[:20])
    np.testing.assert_allclose(inverter.transform(table[20:]), pca.transform(table[20:]), atol=1e-5)


def test_columns_beside_the_outputs_go_through_a_column_transformer():
    table = np.hstack([X, np.arange(12.0)[:, None]])
    columns = ColumnTransformer([("codes", LatentInverter(NETWORK), slice(0, 40)), ("rest", "passthrough", [40])])
    np.testing.assert_allclose(columns.fit_transform(table), np.hstack([CODES, table[:, 40:]]), atol=1e-6)


def test_clones_and_pickles_give_the_same_codes():
    inverter = LatentInverter(NETWORK, noise="gaussian:0.1", options={"rounds": 2}).fit(X)
    noisy = X + 0.1 * np.random.default_rng(2).standard_normal(X.shape)
    expected = inverter.transform(noisy)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(inverter)).transform(noisy), expected)
    copied = clone(inverter)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        copied.transform(noisy)
    np.testing.assert_array_equal(copied.fit(X).transform(noisy), expected)


def test_a_search_finds_the_generator_that_drew_the_data():
    others = [random_network((3, 12, 40), bias=True, seed=seed) for seed in (1, 2)]
    networks = [others[0], NETWORK, others[1]]
    noisy = X + 0.01 * np.random.default_rng(3).standard_normal(X.shape)
    search = GridSearchCV(LatentInverter(NETWORK), {"network": networks}, cv=2).fit(noisy)
    assert search.best_index_ == 1
    # The noise, less what 3 of 40 coordinates fit of it.
    assert search.best_score_ == pytest.approx(-0.01, rel=0.2)
    assert max(np.delete(search.cv_results_["mean_test_score"], 1)) < -0.1


def test_missing_entries_are_filled_in():
    holes = np.where(np.random.default_rng(4).random(X.shape) < 0.3, np.nan, X)
    inverter = LatentInverter(NETWORK, hide_nan=True).fit(holes)
    np.testing.assert_allclose(inverter.inverse_transform(inverter.transform(holes)), X, atol=1e-6)
    assert inverter.score(holes) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        LatentInverter(NETWORK).fit(holes)
    with pytest.raises(InputError, match="y has NaN or infinite entries"):
        LatentInverter(NETWORK, operator=np.eye(40), hide_nan=True).fit(holes).transform(holes)


def test_measurements_of_the_output_are_rows_too():
    mixed = np.random.default_rng(5).standard_normal((20, 40))
    inverter = LatentInverter(NETWORK, operator=mixed).fit(X @ mixed.T)
    assert inverter.n_features_in_ == 20
    np.testing.assert_allclose(inverter.transform(X @ mixed.T), CODES, atol=1e-6)
    np.testing.assert_allclose(inverter.inverse_transform(CODES), X)


def test_the_generator_is_trained_on_the_training_rows():
    seen = []

    def model(table):
        seen.append(table.copy())
        return principal(table)

    cross_val_score(LatentInverter(model), X[:4], cv=2)
    assert [table.tolist() for table in seen] == [X[2:4].tolist(), X[:2].tolist()]


def test_the_score_is_the_root_mean_square_misfit():
    noisy = X + 0.1 * np.random.default_rng(6).standard_normal(X.shape)
    for norm in ("l2", "linf"):
        inverter = LatentInverter(NETWORK, norm=norm).fit(noisy)
        rest = noisy - inverter.inverse_transform(inverter.transform(noisy))
        assert inverter.score(noisy) == pytest.approx(-np.sqrt((rest**2).mean(axis=1)).mean())


def test_the_whole_result_is_at_hand():
    model = LatentInverter(NETWORK, norm="l1", bounds=(-0.5, np.array([0.5, np.inf, 0.5]))).fit(X)
    result = model.invert(X)
    assert isinstance(result, unrelu.Inversion)
    np.testing.assert_allclose(result.fun, result.residual("l1"), atol=1e-12)
    assert (result.z >= -0.5).all()
    assert (result.z[:, [0, 2]] <= 0.5).all()
    np.testing.assert_array_equal(model.transform(X), result.z)


def test_random_states_are_those_of_scikit_learn():
    def seed(state):
        return LatentInverter(NETWORK, random_state=state).fit(X).seed_

    assert seed(7) == 7
    assert len({seed(None) for _ in range(3)}) > 1
    assert seed(np.random.RandomState(1)) == seed(np.random.RandomState(1)) != 7


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_rows_that_are_not_finished_are_told():
    inverter = LatentInverter(NETWORK, time_limit=1e-9).fit(X)
    message = r"12 of 12 rows ended early, 0 without a code \(NaN\); first row 0: stopped"
    with pytest.warns(ConvergenceWarning, match=message):
        assert np.isfinite(inverter.transform(X)).all()  # the starts
    inverter = LatentInverter(NETWORK, "lm", options={"max_iterations": 1}).fit(X)
    with pytest.warns(ConvergenceWarning, match=r"first row \d+: .*: raise max_iterations"):
        inverter.transform(X)


def test_a_method_that_finds_no_code_leaves_nan():
    def half(problem):
        z = np.where(np.arange(problem.size)[:, None] < 2, np.nan, 0.0) + np.zeros((problem.size, 3))
        return unrelu.Inversion.of(problem, z, method="half")

    inverter = LatentInverter(NETWORK, half).fit(X)
    with pytest.warns(ConvergenceWarning, match=r"2 of 12 rows ended early, 2 without a code \(NaN\); first row 0"):
        codes = inverter.transform(X)
    np.testing.assert_array_equal(np.isnan(codes).all(axis=1), np.arange(12) < 2)
    np.testing.assert_array_equal(np.isnan(inverter.inverse_transform(codes)).all(axis=1), np.arange(12) < 2)
    with pytest.warns(ConvergenceWarning, match="without a code"):
        assert np.isnan(inverter.score(X))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"network": torch.nn.Linear(3, 40)}, OptionError, "network is a Linear; make one with unrelu.load, from"),
        ({"network": "decoder.onnx"}, OptionError, "network is a str; make one with unrelu.load, from_torch"),
        ({"network": lambda table: table.shape}, OptionError, "network is a tuple; make one with"),
        ({"method": "best"}, OptionError, "method 'best' is unknown; use one of auto"),
        ({"options": {"speed": 1}}, OptionError, "method 'auto' has no option 'speed'; it takes confidence"),
        ({"noise": "cauchy:1"}, InputError, "noise='cauchy:1': use one of 'uniform:LEVEL'"),
        ({"random_state": -1}, ValueError, "[Ss]eed"),
        ({"operator": np.full((5, 40), 0.5)}, InputError, r"y has shape \(12, 40\), operator= gives \(5,\)"),
        ({"network": random_network((3, 41))}, InputError, r"y has shape \(12, 40\), the network ends in \(41,\)"),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused(arguments, error, message):
    inverter = LatentInverter(**({"network": NETWORK} | arguments))
    with pytest.raises(error, match=message):
        inverter.fit_transform(X)


def test_tables_of_other_widths_are_refused():
    inverter = LatentInverter(NETWORK).fit(X)
    with pytest.raises(ValueError, match="X has 39 features, but LatentInverter is expecting 40 features"):
        inverter.transform(X[:, :39])
    with pytest.raises(InputError, match=r"has shape \(12, 40\); this network takes codes of shape \(3,\)"):
        inverter.inverse_transform(X)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        LatentInverter(NETWORK).inverse_transform(CODES)


def test_scikit_learn_is_imported_when_it_is_asked_for_and_named_where_it_is_missing():
    code = """
import unrelu, unrelu.adapters, sys
print("sklearn" in sys.modules)
sys.modules["sklearn"] = None
try:
    unrelu.LatentInverter
except ModuleNotFoundError as error:
    print(type(error).__name__, error.name, error)
del sys.modules["sklearn"]
unrelu.LatentInverter
print("sklearn" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[::2] == ["False", "True"]
    assert said[1].startswith("MissingPackageError sklearn LatentInverter needs scikit-learn 1.6 or newer: pip install")
