"""An answer is a function of its question and seed: of no earlier call, cache, order of chunks or number of workers."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import unrelu
from tests.runs.small_runs import results
from tests.support import random_network
from unrelu.runs.chunk_work import _results
from unrelu.runtime.streams import stream

K, N, B = 3, 16, 4


def rough():
    """A small generator with many optima, so that its confidences are neither 0 nor 1."""
    return random_network((K, 8, N), seed=3, bias=True)


def opaque():
    """A generator without layers."""
    torch.manual_seed(3)
    inner = torch.nn.Linear(K, N).requires_grad_(False)
    network = unrelu.from_torch(lambda z: N * torch.softmax(2 * inner(z), 1), latent_shape=(K,))
    assert not isinstance(network, unrelu.Network)
    return network


def observed(network):
    """Own outputs with noise, and the masks and matrices that measure them."""
    x = network(stream("history: truth").standard_normal((B, K)))
    return x + 0.2 * x.std() * stream("history: noise").standard_normal(x.shape)


def masks(seed, share=0.6):
    return unrelu.Mask(stream("history: masks", seed).random((B, N)) < share)


def matrix(seed):
    return stream("history: matrix", seed).standard_normal((8, N))


QUESTIONS = {
    "masks": {"operator": masks(0)},
    "other masks": {"operator": masks(1)},
    "matrix": {"operator": matrix(0), "noise": "gaussian:0.5"},
    "bounds": {"bounds": (-1.5, 1.5)},
    "short": {"rounds": 2},
}
MORE = {
    "another matrix": {"operator": matrix(1), "noise": "gaussian:0.5"},
    "more noise": {"operator": masks(0), "noise": "gaussian:0.6"},
    "whole": {},
    "too little noise": {"noise": "gaussian:0.01"},
    "weights": {"noise": unrelu.Gaussian(np.linspace(0.1, 0.5, N))},
    "function": {"operator": torch.abs},
    "other bounds": {"bounds": (-2.5, 1.0)},
    "fixed": {"fixed": {1: 0.3}, "noise": "gaussian:0.2"},
    "prior": {"prior": unrelu.Normal(0.0, 2.0), "noise": "gaussian:0.2"},
    "in linf": {"noise": "uniform:0.5"},
}


def answer(network, name):
    """All that an inversion says, as bytes."""
    y, options = observed(network), dict((QUESTIONS | MORE)[name])
    if isinstance(options.get("operator"), np.ndarray):
        y = y @ options["operator"].T
    elif options.get("operator") is torch.abs:
        y = np.abs(y)
    found = unrelu.invert(network, y, seed=1, **options)
    columns = {key: value for key, value in _results(found).items() if key != "seconds"}
    columns["message"] = "\n".join(found.message)
    optima = [[each.fun, *each.z.ravel()] for i in range(B) for each in found[i].optima]
    return {key: np.asarray(value).tobytes() for key, value in columns.items()} | {"optima": np.array(optima).tobytes()}


def draws(network):
    """All that a posterior says."""
    found = unrelu.posterior(network, observed(network)[0], noise="gaussian:0.2", draws=20, chains=4, seed=1)
    said = (found.status.name, found.log_evidence, found.overlooked, found.p_value)
    return found.z.tobytes(), repr(said)


def profiled(network):
    """All that a profile says."""
    found = unrelu.profile(network, observed(network)[0], 0, np.linspace(-1, 1, 4), noise="gaussian:0.2", seed=1)
    return found.fun.tobytes(), found.z.tobytes(), found.confidence.tobytes(), found.p_value.tobytes()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A function that chooses an empty cache, and returns the folder of its priors."""
    folders = iter(range(100))

    def chosen():
        folder = tmp_path / str(next(folders))
        monkeypatch.setenv("UNRELU_CACHE", str(folder))
        return folder / "priors"

    return chosen


@pytest.mark.parametrize(
    ("made", "questions"),
    [
        (rough, QUESTIONS),
        (opaque, {"masks", "other masks"}),
        pytest.param(rough, QUESTIONS | MORE, marks=pytest.mark.long),
        pytest.param(opaque, QUESTIONS | MORE, marks=pytest.mark.long),
    ],
    ids=["layers", "no layers", "layers, more questions", "no layers, more questions"],
)
def test_no_earlier_call_changes_an_answer(made, questions, cache):
    names = sorted(questions)
    alone = {}
    for name in names:
        cache()
        alone[name] = answer(made(), name)
    cache()
    other = (draws(made()), profiled(made()))
    confident = np.frombuffer(alone["masks"]["confidence"])
    assert ((confident > 0.05) & (confident < 0.999)).any(), "a test of confidences that say something"
    priors = cache()
    for turn in range(3):  # with an empty cache, a full one, and half of it
        network = made()
        for path in sorted(priors.iterdir())[::2] if turn == 2 else ():
            path.unlink()
        for i in stream("history: order", turn).permutation(len(names)).tolist():
            found = answer(network, names[i])
            different = [key for key, value in alone[names[i]].items() if found[key] != value]
            assert not different, (names[i], turn)
        assert (draws(network), profiled(network)) == other


class _LastFirst(ThreadPoolExecutor):
    """One thread, which takes what was handed in last."""

    def __init__(self):
        super().__init__(1)
        self._work_queue = queue.LifoQueue()


@pytest.mark.parametrize("posterior", [0, pytest.param(20, marks=pytest.mark.long)])
def test_orders_of_chunks_workers_and_earlier_calls_change_no_column(posterior, cache, tmp_path):
    network = rough()
    x = network(stream("history: truths").standard_normal((4, K)))
    y = x + 0.2 * stream("history: noises").standard_normal(x.shape)
    shown = stream("history: shown").random(y.shape) < 0.6

    def run(name, network, **options):
        stated = {"masks": shown, "noise": "gaussian:0.2" if posterior else None, "posterior": posterior, "chunk": 2}
        return results(unrelu.run(network, y, tmp_path / name, seed=3, **stated | options))

    cache()
    alone = run("one worker", rough(), workers=1)
    assert "confidence" in alone
    assert run("a full cache", rough(), workers=1) == alone
    priors = cache()
    assert run("two workers", rough(), workers=2) == alone
    for path in sorted(priors.iterdir())[1:]:
        path.unlink()
    assert run("two workers, half of a cache", rough(), workers=2) == alone
    cache()
    with _LastFirst() as executor:
        assert run("last chunk first", rough(), executor=executor, workers=5) == alone
    cache()
    for name in ("other masks", "short", "bounds"):
        answer(network, name)
    assert run("after other calls", network, workers=1) == alone


def test_a_function_that_writes_into_its_tensors_changes_nothing_that_is_read_later():
    weight = torch.full((N, K), 0.3, dtype=torch.float64)
    gate = lambda z: (u := z @ weight.T) * torch.sigmoid(u)  # noqa: E731
    before = unrelu.from_torch(gate, latent_shape=(K,))
    unrelu.from_torch(lambda z: torch.relu_(z @ weight.T) + z @ weight.T, latent_shape=(K,))
    after = unrelu.from_torch(gate, latent_shape=(K,))
    assert [[layer.activation.name for layer in each.layers] for each in (before, after)] == [["swish"]] * 2
