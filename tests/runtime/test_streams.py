"""No random number of ours is one that a user draws: the streams, who may make generators, and where searches start."""

from __future__ import annotations

import ast
import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import unrelu
from tests.support import random_network
from unrelu.methods import METHODS
from unrelu.runtime import streams
from unrelu.runtime.streams import stream, torch_stream
from unrelu.search.sample_cache import SampleCache, SearchStarts
from unrelu_studies.benchmarks.searches import search_cells
from unrelu_studies.zoo.recipes import global_torch_stream

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
    keys = [("a",), ("b",), ("a", 0), ("a", 0, 0), ("a", 1), ("a", "0"), ("a", 0.5), ("a", "0", 0), ("a0",), ("a, 0",)]
    assert len({stream(*key).random() for key in keys}) == len(keys)
    assert len({torch.rand((), dtype=torch.float64, generator=torch_stream(*key)).item() for key in keys}) == len(keys)


def test_a_key_of_zero_is_not_lost():
    """NumPy pads seeds with zeros, so that a first start [seed, 0] would be the user's default_rng(seed)."""
    assert np.random.default_rng([7, 0]).random() == np.random.default_rng(7).random()
    assert len({stream(*key).random() for key in [("a", 7), ("a", 7, 0), ("a", 7, 0, 0)]}) == 3


def test_layers_draw_from_a_stream_and_the_global_generator_is_put_back():
    torch.manual_seed(3)
    wanted = torch.randn(4)
    torch.manual_seed(3)
    with global_torch_stream("layers", 1):
        first = torch.nn.Linear(2, 3).weight
    assert torch.equal(torch.randn(4), wanted)
    with global_torch_stream("layers", 1):
        assert torch.equal(torch.nn.Linear(2, 3).weight, first)
    with global_torch_stream("layers", 2):
        assert not torch.equal(torch.nn.Linear(2, 3).weight, first)


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
    ("src/unrelu/models/torch_opaque.py", "fork_rng"),
    ("src/unrelu/loaders/_torch_graph.py", "fork_rng"),
    # Golden results are of problems as a user would draw them, and older than any change of the streams.
    ("scripts/golden.py", "default_rng"),
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


# --- what is drawn is not what users draw -----------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """Fresh copies of all generators that the package makes while a test runs, by purpose and keys."""
    numpy_streams: dict[tuple, np.random.Generator] = {}
    torch_streams: dict[tuple, torch.Generator] = {}

    def recorded(purpose, *keys):
        made = stream(purpose, *keys)
        numpy_streams[purpose, *keys] = copy.deepcopy(made)
        return made

    def torch_recorded(purpose, *keys):
        torch_streams[purpose, *keys] = torch_stream(purpose, *keys)
        return torch_stream(purpose, *keys)

    # Networks that an earlier test of this process drew are kept, and would not be drawn again.
    search_cells._random_network.cache_clear()
    monkeypatch.setattr(streams, "stream", recorded)
    for name, module in list(sys.modules.items()):
        if name.startswith(("unrelu.", "unrelu_studies.")) and module is not streams:
            for own, ours in ((stream, recorded), (torch_stream, torch_recorded)):
                if getattr(module, own.__name__, None) is own:
                    monkeypatch.setattr(module, own.__name__, ours)
    return numpy_streams, torch_streams


def first_numpy(rng: np.random.Generator) -> set[tuple]:
    """The first draws of a generator, by the ways to draw."""
    ways = ("standard_normal", "normal", "random", "uniform")
    return {tuple(getattr(copy.deepcopy(rng), way)(size=3).tolist()) for way in ways}


def first_torch(seed: int | torch.Generator) -> set[tuple]:
    """The same of PyTorch, whose randn draws 16 numbers and more by another algorithm than fewer."""
    found = set()
    for draw, dtype, count in [
        (draw, dtype, count)
        for draw in (torch.randn, torch.rand)
        for dtype in (torch.float32, torch.float64)
        for count in (3, 16)
    ]:
        rng = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed.clone_state()
        found.add(tuple(draw(count, dtype=dtype, generator=rng)[:3].tolist()))
    return found


def assert_no_users_draws(drawn) -> None:
    """Of all that was recorded, no generator begins as a user's, nor as a recorded one of another purpose or key."""
    numpy_streams, torch_streams = drawn
    users = set()
    for seed in USER_SEEDS:
        users |= first_numpy(np.random.default_rng(seed)) | first_torch(seed)
        users |= {draw for r in range(4) for draw in first_numpy(np.random.default_rng([seed, r]))}
        users.add(tuple(np.random.RandomState(seed).standard_normal(3).tolist()))
    ours = [first_numpy(rng) for rng in numpy_streams.values()] + [first_torch(rng) for rng in torch_streams.values()]
    for draws in ours:
        assert not draws & users
    assert len(set.union(*ours)) == sum(map(len, ours))


def test_the_comparison_sees_a_users_generator():
    """Against a check that passes because it compares nothing."""
    mine = {("starts", 3): np.random.default_rng(3)}
    with pytest.raises(AssertionError):
        assert_no_users_draws((mine, {}))
    with pytest.raises(AssertionError):
        assert_no_users_draws(({("other", 3): stream("other", 3)}, {("samples",): torch.Generator().manual_seed(0)}))
    assert_no_users_draws(({("other", 3): stream("other", 3)}, {("samples",): torch_stream("samples")}))


def purposes(drawn) -> set[str]:
    return {key[0] for part in drawn for key in part}


def test_inversions_draw_nothing_of_a_users(drawn):
    network = random_network((3, 12, 30))
    z = np.random.default_rng(0).standard_normal((2, 3))
    y = network(z) + 1e-3
    for method in METHODS:
        for seed in (0, 1, 2026):
            unrelu.invert(network, y, method, noise="gaussian:0.1", seed=seed, callback=lambda progress: progress.nit)
    unrelu.invert(network, y, "auto", norm="l1", seed=1)
    unrelu.invert(network, y, "auto", norm="linf", seed=1)
    unrelu.invert(network, y, "adam", restarts=3, max_iterations=2)
    assert {"starts", "search", "samples", "principal directions"} <= purposes(drawn)
    assert_no_users_draws(drawn)


def test_everything_around_an_inversion_draws_nothing_of_a_users(drawn, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("deepinv")
    import deepinv

    from tests.opaque_modules import Residual
    from unrelu.adapters import GeneratorReconstructor, LatentInverter
    from unrelu_studies.paper import hardness

    network = random_network((3, 12, 30))
    z = np.random.default_rng(0).standard_normal((4, 3))
    y = network(z)
    unrelu.certify(network, y[0] + 0.01, noise="uniform:0.1", max_nodes=3)
    unrelu.identifiability(network, z[0])
    unrelu.inspect(network)
    unrelu.inspect(network, seed=5)
    opaque = unrelu.from_torch(Residual(), latent_shape=5)
    unrelu.invert(opaque, opaque(np.ones(5)), "lm")
    flips = (lambda x: x[::-1], lambda x: x[::-1])
    unrelu.invert(network, y, "lm", operator=flips)
    unrelu.invert(network, 0 * y, "lm")
    unrelu.run(network, y, tmp_path / "chain", "lm", workers=1, chunk=2)
    unrelu.run(opaque, opaque(np.ones((3, 5))), tmp_path / "opaque", "lm", workers=1, chunk=2)
    hardness.random_formula(5, 9, 0)
    LatentInverter(network, method="lm", random_state=0).fit(y).transform(y)
    physics = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(0.1))
    images = torch.from_numpy(y).float().reshape(4, 1, 5, 6)
    GeneratorReconstructor(network, method="lm", image_shape=(1, 5, 6))(images, physics)
    assert {
        "inspection", "trial codes", "trial directions", "adjoint test", "fingerprint", "chunk",
        "3SAT formula", "typical output",
    } <= purposes(drawn)  # fmt: skip
    assert_no_users_draws(drawn)


def test_the_demonstration_and_the_benchmarks_draw_nothing_of_a_users(drawn):
    from unrelu.cli import _demonstration
    from unrelu_studies.benchmarks.layer_programs import layer_instances
    from unrelu_studies.benchmarks.processes import first_call
    from unrelu_studies.benchmarks.proofs import certify

    for seed in (0, 2026):
        for section in _demonstration.sections(seed):
            assert section.seed == seed
    for seed in (0, 20260):
        for case in layer_instances.CASES:
            layer_instances.draw(case, layer_instances.PROGRAMS[2], 1, seed)
        certify.draw(certify.CELLS[0], 2, seed)
        for cell in search_cells.QUICK_CELLS:
            search_cells.draw(cell, 1, 0, seed)
    first_call.first_call("certify")
    assert {"demo, truth", "demo, noise", "layer, noise", "certify, truth", "search, weights"} <= purposes(drawn)
    assert_no_users_draws(drawn)


def test_the_experiments_draw_nothing_of_a_users(drawn, monkeypatch):
    """Their instances, seeds of starts, and baselines; what is made of them does not matter here."""
    from unrelu_studies import paper as experiments

    real = unrelu.invert

    def short(network, y, method, *, operator=None, seed=0, z0=None, **_):
        return real(network, y, "gradient_descent", operator=operator, seed=seed, z0=z0, max_iterations=1)

    for name in experiments.MODULES:
        experiment = experiments.load(name)
        ours = ("unrelu_studies.paper.", "unrelu_studies.kit.")
        for module in [module for key, module in sys.modules.items() if key.startswith(ours)]:
            if getattr(module, "invert", None) is real:
                monkeypatch.setattr(module, "invert", short)
        unit = experiment.units(True)[0]
        for seed in (0, 2026):
            experiment.measure(unit, seed, True)
    assert {f"experiments, {what}" for what in ("weights", "truth", "noise", "starts")} <= purposes(drawn)
    assert_no_users_draws(drawn)


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
