"""What ``test_second_device`` asserts, computed in a process with a second device and printed as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import unrelu
from tests.studies import second_device
from unrelu.local_search.levenberg_marquardt import LevenbergMarquardtSteps
from unrelu.local_search.limited_memory import LimitedMemorySteps
from unrelu.local_search.squared_error import SquaredError
from unrelu.models import generator
from unrelu.models.generator import placed
from unrelu.problem import Problem
from unrelu.result.fingerprint import fingerprint
from unrelu.search.learned_prior import LearnedConfidence, NoiseLevel

DEVICE = second_device.NAME
START = np.random.default_rng(4).standard_normal((3, 3))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 12).double(), nn.Linear(12, 12).double()

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = nn.functional.leaky_relu(self.inner(z), 0.3)
        return h + self.outer(h) + torch.linspace(0.0, 1.0, 12, dtype=z.dtype, device=z.device)


def generators() -> dict[str, unrelu.Generator]:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    convolutional = nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 2, 2)).double()
    dense = unrelu.from_arrays([rng.standard_normal((12, 3)), rng.standard_normal((20, 12))])
    return {
        "dense": dense,
        "convolutional": unrelu.from_torch(convolutional.eval(), (3, 1, 1)),
        "branching": unrelu.from_torch(Branching().eval(), 3),
        "extended": unrelu.extend(
            unrelu.from_arrays([rng.standard_normal((8, 2)), rng.standard_normal((20, 8))]), scale=True
        ),
    }


def on_its_device() -> dict[str, float]:
    """A function that cannot be traced, whose module is on the device, and the same with the module on the CPU."""
    module, z = Branching(), np.random.default_rng(3).standard_normal((4, 3))

    def function(z: torch.Tensor) -> torch.Tensor:
        return module(z) * len(z) ** 0

    here = unrelu.from_torch(function, 3)
    outputs, jacobian = here(z), here.jacobian(z)
    module.to(DEVICE)
    there = unrelu.from_torch(function, 3, device=DEVICE)
    return {
        "outputs": float(max(np.abs(net(z) - outputs).max() for net in (there, there.to(device="cpu")))),
        "jacobian": float(np.abs(there.jacobian(z) - jacobian).max()),
    }


def inversions(nets: dict[str, unrelu.Generator]) -> dict[str, dict]:
    rng = np.random.default_rng(1)
    dense = nets["dense"]
    mask = unrelu.Mask(np.arange(20) > 3)
    rows = rng.standard_normal((12, 20))
    matrix = unrelu.Matrix(rows)
    counts = unrelu.from_arrays([rng.standard_normal((8, 3)), np.abs(rng.standard_normal((20, 8)))])
    asked = {
        "auto": (dense, "auto", {}),
        "auto, branching": (nets["branching"], "auto", {}),
        "auto, extended": (nets["extended"], "auto", {}),
        "auto, prior": (
            dense,
            "auto",
            {"bounds": (-4, 4), "prior": unrelu.Normal([0.5, 0, -1], 2.0), "noise": "gaussian:0.1"},
        ),
        "auto, mask": (dense, "auto", {"operator": mask}),
        "auto, matrix": (dense, "auto", {"operator": matrix}),
        "auto, squares": (dense, "auto", {"operator": lambda x: x[:, :15] ** 2 + x[:, :15]}),
        "auto, uniform": (dense, "auto", {"noise": "uniform:0.1"}),
        "auto, large": (nets["convolutional"].to(torch.float64), "auto", {"noise": "gaussian:0.1"}),
        "auto, counts": (counts, "auto", {"noise": unrelu.Poisson()}),
        "linf": (dense, "linf", {}),
        "lm": (dense, "lm", {"z0": START}),
        "adam": (dense, "adam", {"z0": START, "max_iterations": 20, "restarts": 1}),
        "gradient_descent": (dense, "gradient_descent", {"z0": START, "max_iterations": 20}),
    }
    found, large = {}, generator._LARGE
    for name, (net, method, options) in asked.items():
        x, operator = net(START.reshape(3, *net.latent_shape) + 0.01), options.get("operator")
        y = x @ rows.T if operator is matrix else operator(x) if callable(operator) else x
        y = np.rint(10 * y) if "counts" in name else y + ("noise" in options) * rng.uniform(-0.09, 0.09, y.shape)
        generator._LARGE = 1 if "large" in name else large  # from there on, a Jacobian counts as expensive
        here, there = (unrelu.invert(net, y, method, device=device, **options) for device in (None, DEVICE))
        found[name] = {
            "here": [s.name for s in here.status], "there": [s.name for s in there.status],
            "off": float(np.nanmax(np.abs(here.fun - there.fun) / (1 + np.abs(here.fun)))),
            "device": str(there.problem.network.device),
        }  # fmt: skip
    return found


def waits(nets: dict[str, unrelu.Generator]) -> dict[str, list[int]]:
    """How often the host waits for the results of descents, and the steps that they make."""
    net = nets["branching"].to(device=DEVICE)
    y = np.array([net(z) for z in START]) + np.random.default_rng(5).standard_normal((3, 12))
    objective = SquaredError.of(Problem.build(net, y))
    at = objective.tensor(START), objective.index(np.arange(3))
    floor = torch.zeros(3, dtype=torch.float64).to(DEVICE)
    states = {
        "Levenberg-Marquardt": LevenbergMarquardtSteps(objective, *at),
        "L-BFGS": LimitedMemorySteps(objective, *at, 1e-13, floor),
    }
    found = {}
    for name, state in states.items():
        second_device.waited_for.clear()
        state.run(12)
        found[name] = [sum(second_device.waited_for.values()), int(state.steps.max())]
    second_device.waited_for.clear()
    adam = unrelu.invert(net, y, "adam", z0=START, restarts=1, max_iterations=30)
    return found | {"adam": [sum(second_device.waited_for.values()), int(adam.nit.max())]}


def main() -> None:
    """Print everything."""
    second_device.register()
    nets, document = generators(), {"kinds": {}}
    for name, net in nets.items():
        z, there = np.random.default_rng(3).standard_normal((4, net.latent_dim)), net.to(device=DEVICE)
        document["kinds"][name] = {
            "outputs": float(np.abs(there(z) - net(z)).max()),
            "jacobian": float(np.abs(there.jacobian(z) - net.jacobian(z)).max()),
        }
    document["kinds"]["function"] = on_its_device()
    document["inversions"] = inversions(nets)
    document["waits"] = waits(nets)
    dense, code = nets["dense"], np.full(3, 0.5)
    certificate = unrelu.certify(dense.to(device=DEVICE), dense(code) + 0.01, code, noise="uniform:0.02", max_nodes=20)
    document["verified"] = certificate.verify(dense, dense(code) + 0.01)
    document["identifiable"] = unrelu.identifiability(dense.to(device=DEVICE), code).identifiable
    net = nets["branching"]
    there = placed(net, DEVICE)
    here, away = (
        unrelu.invert(
            net, net(code), "lm", z0=code, noise="gaussian:0.1", prior=unrelu.Normal(), device=device
        ).laplace()
        for device in (None, DEVICE)
    )
    document["deviations"] = float(np.abs(away.std / here.std - 1).max())
    drawn = [unrelu.posterior(net, net(code), noise="gaussian:0.5", draws=300, device=each) for each in (None, DEVICE)]
    document["posteriors"] = {
        "statuses": [p.status.name for p in drawn], "device": str(drawn[1].problem.network.device),
        "means": float(np.abs((drawn[0].mean - drawn[1].mean) / drawn[0].std).max()),
    }  # fmt: skip
    document["cached"] = placed(net, torch.device(DEVICE, 0)) is there
    document["learned together"] = there.learned is net.learned
    document["priors"] = [
        LearnedConfidence(Problem.build(each, net(code))).name(NoiseLevel(-2, 0)) for each in (net, there)
    ]
    document["fingerprints"], document["printed"] = [fingerprint(net), fingerprint(there)], str(there)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.npz"
        unrelu.invert(net, net(np.eye(3)), device=DEVICE).save(path)
        document["loaded"] = [s.name for s in unrelu.load_result(path, net).status]
    print(json.dumps(document))


if __name__ == "__main__":
    main()
