"""No random number of ours is one that a user draws: streams are hashes, and nothing else makes generators."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.methods import METHODS
from unrelu.runtime.streams import stream, torch_stream
from unrelu.search.sample_cache import SampleCache, SearchStarts

ROOT = Path(__file__).parents[2]
# What users write: default_rng(s), default_rng([s, 0]), torch.manual_seed(s).
USER_SEEDS = (*range(51), 2026, 20260)


# --- the streams themselves -------------------------------------------------------------------------------------------


def test_equal_purposes_and_keys_give_equal_draws():
    assert (stream("a", 1, "b", 0.5).random(9) == stream("a", np.int64(1), "b", np.float64(0.5)).random(9)).all()
    assert torch.equal(
        torch.randn(9, generator=torch_stream("a", 1)), torch.randn(9, generator=torch_stream("a", np.int64(1)))
    )
    # Of a hash, not of Python's own, which is another in every process; these are the bits on every machine.
    assert stream("starts", 0).bit_generator.random_raw() == 7836549970834972605
    assert torch_stream("starts", 0).initial_seed() == 3918274985417486302


def test_other_purposes_and_keys_give_other_draws():
    # NumPy pads seeds with zeros, so that a first start [seed, 0] would be the user's default_rng(seed).
    assert np.random.default_rng([7, 0]).random() == np.random.default_rng(7).random()
    keys = [("a",), ("b",), ("a", 0), ("a", 0, 0), ("a", 1), ("a", "0"), ("a", 0.5), ("a", "0", 0), ("a0",), ("a, 0",)]
    assert len({stream(*key).random() for key in keys}) == len(keys)
    assert len({torch.rand((), dtype=torch.float64, generator=torch_stream(*key)).item() for key in keys}) == len(keys)


# --- nobody else makes a generator ------------------------------------------------------------------------------------

# What makes a generator or seeds one, or draws from a global one. A call `x.randn(...)` with generator= draws from it.
MAKERS = {
    "default_rng", "RandomState", "SeedSequence", "PCG64", "Philox", "MT19937", "SFC64", "manual_seed", "seed",
    "check_random_state", "Random", "fork_rng", "set_rng_state",
}  # fmt: skip
TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
LIKE = {"rand_like", "randn_like", "randint_like"}  # these take no generator
ALLOWED = {
    # The one place.
    ("src/unrelu/runtime/streams.py", "default_rng"), ("src/unrelu/runtime/streams.py", "manual_seed"),
    ("studies/unrelu_studies/zoo/recipes.py", "fork_rng"),
    ("studies/unrelu_studies/zoo/recipes.py", "set_rng_state"),
    # The first weights of layers and dropout are drawn from the global generator, which is of a stream meanwhile.
    *(("studies/unrelu_studies/kit/families/trained_families.py", call)
      for call in ("fork_rng", "set_rng_state", "randperm", "randn_like")),
    # scikit-learn's contract: `random_state` is an integer or the user's own generator, which gives the seed.
    ("src/unrelu/adapters/_sklearn_inverter.py", "check_random_state"),
    ("src/unrelu/adapters/_sklearn_inverter.py", "randint"),
    # Nothing is drawn: a user's module that draws must not advance the user's generator.
    ("src/unrelu/opaque/torch_opaque.py", "fork_rng"),
    ("src/unrelu/loaders/_torch_graph.py", "fork_rng"),
    # Golden results are of problems as a user would draw them, and older than any change of the streams.
    ("scripts/golden.py", "default_rng"),
    # PyTorch initialises layers from its own generator, which is restored; the seed is of a stream.
    ("studies/unrelu_studies/benchmarks/others/inverse_design.py", "fork_rng"),
    ("studies/unrelu_studies/benchmarks/others/inverse_design.py", "manual_seed"),
    # emcee takes no generator, only the state of an old one; the seed is of a stream.
    ("studies/unrelu_studies/benchmarks/others/kilonova.py", "RandomState"),
    ("studies/unrelu_studies/benchmarks/others/kilonova.py", "get_state"),
    # Which digits were held out of the training of the published weights: another split would show them to tests.
    ("studies/unrelu_studies/zoo/recipes.py", "default_rng"),
}  # fmt: skip


def calls(path: Path) -> set[str]:
    """Names of the functions of a file that make, seed or use a generator outside of streams."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        name = called.rsplit(".", 1)[-1]
        given = any(word.arg == "generator" for word in node.keywords)
        if name in MAKERS | LIKE or (name in TORCH_DRAWS and called.startswith("torch.") and not given):
            found.add(name)
        if called.startswith(("np.random.", "numpy.random.", "random.")):
            found.add(name)
    return found


def test_only_streams_makes_generators():
    files = [path for folder in ("src", "studies", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    found = {(path.relative_to(ROOT).as_posix(), name) for path in files for name in calls(path)}
    assert found == ALLOWED


def test_the_check_sees_generators(tmp_path):
    """Against a check that passes because it finds nothing."""
    seen = {
        "np.random.default_rng(0)": "default_rng", "default_rng(0)": "default_rng", "np.random.normal()": "normal",
        "torch.Generator().manual_seed(0)": "manual_seed", "torch.randn(3)": "randn", "random.shuffle(x)": "shuffle",
        "torch.randn_like(x)": "randn_like",
    }  # fmt: skip
    for code, name in seen.items():
        (tmp_path / "file.py").write_text(code)
        assert calls(tmp_path / "file.py") == {name}, code
    for code in ("torch.randn(3, generator=g)", "rng.normal(size=3)", "stream('a').random()"):
        (tmp_path / "file.py").write_text(code)
        assert not calls(tmp_path / "file.py")


# --- no search starts at the truth ------------------------------------------------------------------------------------

K = 8
# Closer than this to the truth, as a share of its length, is no chance: 8 coordinates agree to a few percent.
APART = 0.05


def torch_normal(seed: int, *size: int, dtype: torch.dtype = torch.float64) -> np.ndarray:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype).double().numpy()


TRUTHS = {
    "default_rng(s)": lambda s: np.random.default_rng(s).normal(size=K),
    "default_rng([s, 0])": lambda s: np.random.default_rng([s, 0]).standard_normal(K),
    "a batch": lambda s: np.random.default_rng(s).normal(size=(3, K)),
    "torch": lambda s: torch_normal(s, K),
    "torch, a batch in float32": lambda s: torch_normal(s, 3, K, dtype=torch.float32),
}


@pytest.fixture
def starts(monkeypatch):
    """The codes that methods start from, as they are asked for."""
    found: list[np.ndarray] = []
    start, codes = unrelu.Problem.start, SearchStarts.codes

    def recorded(self, number=0):
        found.append(start(self, number))
        return found[-1].copy()

    def restarts_recorded(self, observations, first, count):
        z = codes(self, observations, first, count)
        for restart in z.swapaxes(0, 1):
            found.append(np.full((self.problem.size, z.shape[2]), np.inf))
            found[-1][observations] = restart  # of those at work
        return z

    monkeypatch.setattr(unrelu.Problem, "start", recorded)
    monkeypatch.setattr(SearchStarts, "codes", restarts_recorded)
    return found


@pytest.mark.parametrize("kind", TRUTHS)
@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if not entry.layerwise])
def test_no_search_starts_at_the_truth(method, kind, starts):
    """Every method but those layer by layer, which have no start."""
    # The last layer contracts, so that `auto` has no layer-wise start, which may well be the truth.
    network = random_network((K, 24, 12) if method == "auto" else (K, 24, 48))
    wanted = 2 if method == "auto" else 1  # the mean of the posterior and a draw
    for seed in range(51):
        truth = TRUTHS[kind](seed)
        starts.clear()
        unrelu.invert(network, network(truth), method, seed=seed, callback=lambda progress: len(starts) >= wanted)
        assert starts
        for codes in starts:
            distance = np.linalg.norm(codes - np.atleast_2d(truth), axis=1)
            assert (distance > APART * np.linalg.norm(truth, axis=-1)).all(), (seed, distance)


def test_no_sample_of_a_search_is_a_users_truth():
    """`auto` starts from the nearest of its samples."""
    network = random_network((20, 30, 40))
    samples = SampleCache(network).model.z.double().numpy()
    for seed in USER_SEEDS:
        for truth in (np.random.default_rng(seed).normal(size=(5, 20)), torch_normal(seed, 5, 20),
                      torch_normal(seed, 5, 20, dtype=torch.float32)):  # fmt: skip
            distance = np.linalg.norm(samples[:, None] - truth, axis=2)
            assert distance.min() > 0.2 * np.linalg.norm(truth, axis=1).min()
