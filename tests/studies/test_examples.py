"""The scripts in examples/ run, print what they promise, and use public names only."""

from __future__ import annotations

import ast
import importlib
import os
import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

import unrelu

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))
# Modules beside ``unrelu`` itself that an example may import from.
PUBLIC = ("unrelu.adapters", "unrelu.measurements", "unrelu.report", "unrelu.zoo")
LONGER = ("fit_21cm_history", "fit_light_curve", "fit_power_spectrum", "fit_spectrum", "sampled_too_seldom", "tutorial")
DATA = os.environ.get("UNRELU_DATA")
# Only these may be imported beside unrelu: what it depends on, two extras, cobaya, and the standard library.
OTHERS = {
    "cobaya",
    "deepinv",
    "matplotlib",
    "numpy",
    "py21cmemu",
    "scipy",
    "sklearn",
    "torch",
    *sys.stdlib_module_names,
}


def run(script, folder, monkeypatch, capsys):
    """What a script prints, run as ``python script`` would; warnings are errors, and pictures are not shown."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(script), f"{DATA}/planck2018_plik_lite"])
    monkeypatch.setattr(plt, "show", lambda: None)
    threads = torch.get_num_threads()
    try:
        with mpl.rc_context(), torch.random.fork_rng():
            runpy.run_path(str(script), run_name="__main__")
    finally:
        plt.close("all")
        torch.set_num_threads(threads)
    return capsys.readouterr().out


def numbers(pattern, output):
    """The groups of every match of a pattern, as numbers."""
    found = [tuple(map(float, groups)) for groups in (match.groups() for match in re.finditer(pattern, output))]
    assert found, f"{pattern!r} is not in\n{output}"
    return found


def denoise(output):
    noisy = numbers(r"error of the noisy picture: (\S+)", output)[0][0]
    errors = [error for (error,) in numbers(r"error of the reconstruction: (\S+)", output)]
    assert len(errors) == 2
    assert max(errors) < noisy / 3
    assert output.count("NOISE_LEVEL, success True") == 2
    assert "noise stated as 0.05: MISFIT, success False" in output


def inpaint(output):
    (seen, _), (hidden, black), (narrow, _), (guess, _) = numbers(r"pixels: (\S+) a pixel \((\S+) if", output)
    assert seen < 0.05 > narrow  # below the noise
    assert hidden < black / 4
    assert guess > 4 * hidden
    assert output.count("success True") == 2
    assert re.findall(r"identifiable (\w+)", output) == ["True", "False"]


def compressed_sensing(output):
    black = numbers(r"error of an empty picture: (\S+)", output)[0][0]
    few, some, many = (error for (error,) in numbers(r"error of the reconstruction: (\S+)", output))
    assert few > black / 4
    assert black / 10 > some > many
    assert "10 measurements: NOT_UNIQUE, success True" in output
    assert re.findall(r"identifiable (\w+)", output) == ["False", "True", "True"]


def super_resolution(output):
    assert "NOISE_LEVEL, success True" in output
    blocks = numbers(r"error of the painted blocks: (\S+)", output)[0][0]
    assert numbers(r"error of the reconstruction: (\S+)", output)[0][0] < blocks / 2


def check_uniqueness(output):
    assert "all pixels: EXACT_FIT, success True, identifiable True, freedom 0" in output
    assert "the left quarter: NOT_UNIQUE, success True, identifiable False, freedom 14" in output
    told, guessed = (error for (error,) in numbers(r"largest error of the code: (\S+)", output))
    assert told < 1e-6
    assert guessed > 0.1
    ((observed, others),) = numbers(r"changes the observed pixels by (\S+), the others by up to (\S+)", output)
    assert observed < 1e-12
    assert others > 1e3 * observed


def prove(output):
    ((lower, upper),) = numbers(r"the smallest error of all codes is between (\S+) and (\S+)", output)
    assert 0 < lower <= upper <= 0.01
    assert "proof: OPTIMAL" in output
    assert "the box holds 20 of 20 true coordinates" in output
    assert "the stored proof is verified: True, for a brighter picture: False" in output
    assert "moved by one pixel: OUT_OF_RANGE" in output
    ((bound, noise),) = numbers(r"the smallest error is at least (\S+), the noise at most (\S+)", output)
    assert bound > noise == 0.01


def data_set(output):
    assert "stopped: 4 of 11 observations, finished False" in output
    assert "opened: 11 of 11 observations, finished True, 9 successes" in output
    assert "1 ERROR, 1 MISFIT, 9 NOISE_LEVEL" in output
    assert "a report of" in output
    assert re.findall(r"^ *(\d+) success False", output, re.M) == ["9", "10"]  # the real digit and the damaged one
    assert "codes (11, 20), reconstructions (11, 784)" in output


def your_own_decoder(output):
    assert "2  Dense  40 -> 120  sigmoid" in output
    assert "from_torch: EXACT_FIT, success True, identifiable True" in output
    assert "load: EXACT_FIT, success True, identifiable True" in output
    assert numbers(r"of the code (\S+)\n", output)[0][0] < 1e-3
    assert numbers(r"difference from before: of the output (\S+),", output)[0][0] < 1e-12


def fit_spectrum(output):
    assert numbers(r"the emulator is off by (\S+) of the flux", output)[0][0] < 0.05
    assert "NOISE_LEVEL, success True" in output
    assert numbers(r"confidence (\S+)", output)[0][0] > 0.98
    assert ": mixed" in output
    found = numbers(r"(?m)^(?:temperature|velocity|width|strength) +(\S+) +(\S+) +(\S+) +(\S+)$", output)
    assert len(found) == 4
    assert all(abs(value - true) < 4 * error for value, error, _, true in found)
    assert all(0.5 < wide / error < 2 for _, error, wide, _ in found)
    wrong = numbers(r"of 40 fits of SciPy (\S+)% end", output)[0][0]
    assert wrong >= 5
    ((theirs, ours),) = numbers(r"the best at (\S+), unrelu at (\S+)", output)
    assert ours <= theirs + 0.01


def fit_light_curve(output):
    assert "as stated: MISFIT" in output
    assert "extra=(0, 1)" in output
    ((blue, of_blue, red, of_red),) = numbers(r"noise level  blue = (\S+) ± (\S+), red = (\S+) ± (\S+)\n", output)[:1]
    assert abs(blue - 0.1) < 4 * of_blue
    assert abs(red - 0.05) < 4 * of_red
    assert "mixed\n" in output
    found = numbers(r"(?m)^(?:mass|velocity|opacity|start) +(\S+) +(\S+) +(\S+)$", output)
    assert len(found) == 4
    assert all(abs(value - true) < 4 * error for value, error, true in found)
    ((ours, theirs),) = numbers(r"chi-square (\S+), the best of SciPy's (\S+)\n", output)
    assert ours <= theirs + 0.01


def fit_power_spectrum(output):
    assert "NOISE_LEVEL" in output
    found = numbers(r"  \S+ +(\S+) \+- (\S+), true (\S+)", output)
    assert len(found) == 7
    assert all(abs(value - true) < 4 * error for value, error, true in found)
    ((ours,),) = numbers(r"unrelu: chi-square and priors (\d+\.\d+)", output)
    ((theirs,),) = numbers(r"SciPy: (\d+\.\d+)", output)
    assert ours <= theirs + 0.01
    assert numbers(r"differ by at most (\S+) standard", output)[0][0] < 0.01  # the same density


def fit_21cm_history(output):
    assert "NOISE_LEVEL" in output
    ((truth, ours),) = numbers(r"of the truth: (\S+)\nof unrelu: (\S+) after", output)
    assert ours <= truth
    theirs = numbers(r"of SciPy: (\S+), (\S+), (\d+\.\d+) after", output)[0]
    assert ours <= 1.01 * min(theirs)
    assert numbers(r"differ by up to (\S+)% of the range", output)[0][0] > 20


def tutorial(output):
    assert int(numbers(r"of 12 descents (\d+) end at a code that explains y", output)[0][0]) < 12
    assert "NOISE_LEVEL" in output


def deblur(output):
    ((measured, found),) = numbers(r"PSNR of the measurements (\S+) dB, of the reconstructions (\S+)", output)
    assert found > measured + 5
    assert output.count("NOISE_LEVEL") == 4


def outliers(output):
    assert "sum of errors: NOISE_LEVEL, success True" in output
    robust, squares = (error for (error,) in numbers(r"error of the reconstruction (\S+) a pixel", output))
    assert robust < 1e-6 < squares
    ((changed, named, rightly),) = numbers(r"(\d+) pixels were changed, (\d+) are named, (\d+) of them", output)
    assert changed == named == rightly


def count_photons(output):
    assert "counts: NOISE_LEVEL, success True" in output
    counts, squares = (error for (error,) in numbers(r"error (?:as counts|by least squares): (\S+)", output))
    assert counts < squares


def phase_retrieval(output):
    assert "NOISE_LEVEL, success True" in output
    assert numbers(r"error of the reconstruction: (\S+)", output)[0][0] < 0.05


def nuisance_parameters(output):
    assert "bare: MISFIT" in output
    assert "extended: NOISE_LEVEL" in output
    ((slope, scale, shift),) = numbers(r"slope (\S+), scale (\S+), shift (\S+)", output)
    assert (abs(slope - 0.2), abs(scale - 1.3)) < (0.02, 0.02)
    assert abs(shift - 1.4) < 0.2


def compare_methods(output):
    explained = dict(re.findall(r"^(\w+) +explains +(\d+) of 12", output, re.M))
    assert len(explained) == 6
    assert int(explained["auto"]) >= 10 > int(explained["gradient_descent"])


def state_the_noise(output):
    few, most, all_of_them = (share for (share,) in numbers(r"stated \S+: (\d+)% explained", output))
    assert few < 50
    assert 90 < most <= all_of_them


def calibrate_confidence(output):
    assert numbers(r"(\S+)% of these wrongly", output)[0][0] <= 5
    assert all(a <= b for a, *_, b in [map(float, line) for line in re.findall(r"right: (\S+), .* (\S+)", output)])


def classify_codes(output):
    without, with_prior = (share for (share,) in numbers(r"prior \S+: (\d+)% right", output))
    assert with_prior > without + 10


def follow_video(output):
    explained, searched = numbers(r"(\d+) of 16 frames", output)[0][0], re.search(r"starts: \[(.*)\]", output)[1]
    assert explained >= 14
    assert {"0", "8"} <= set(searched.split(", "))
    assert len(searched.split(", ")) <= 6
    assert "frame 8: MISFIT" in output
    assert numbers(r"at most (\S+) a pixel", output)[0][0] < 0.05


def few_measurements(output):
    assert output.count("NOISE_LEVEL, the posterior MIXED") == 3
    best, mean, expected = (
        [value for (value,) in numbers(rf"distance {what}.*: (\S+)", output)]
        for what in ("of the best fit", "of the mean", "to be expected")
    )
    assert best[0] > 2 * mean[0]  # with few measurements, the best fit is far from the true code
    assert expected == sorted(expected, reverse=True)
    assert all(0.4 < error / told < 1.6 for error, told in zip(mean, expected, strict=True))
    assert min(inside for (inside,) in numbers(r"hold (\d+) of 20", output)) >= 15


def hidden_pixels(output):
    assert "6 mixed (100%)" in output
    assert numbers(r"hold (\d+)% of the \d+ hidden", output)[0][0] >= 80
    best, mean = (error for (error,) in numbers(r"error of the .*: (\S+) a hidden pixel", output))
    expected = numbers(r"error to be expected.*: (\S+)", output)[0][0]
    assert mean < best
    assert 0.5 < mean / expected < 1.5


def sampled_too_seldom(output):
    assert "MIXED" in output
    assert "not mixed" not in output
    ((drawn, exact),) = numbers(r"above half a hertz: (\S+) of the draws, (\S+) exactly", output)
    assert abs(drawn - exact) < 0.05
    assert 0.3 < exact < 0.7
    found = numbers(r"\): (\S+) \+- (\S+), exactly (\S+) \+- (\S+)", output)
    assert len(found) == 3
    for mean, deviation, exactly, spread in found:
        assert abs(mean - exactly) < 0.1 * spread
        assert abs(deviation - spread) < 0.1 * spread


def fit_planck(output):
    assert "NOISE_LEVEL" in output
    assert ": mixed" in output
    assert numbers(r"chi-square (\S+) for", output) == [(584,)]
    ((best,),) = numbers(r"  best +h = (\S+),", output)
    ((low, high),) = numbers(r"68\.3%: (\S+) to (\S+);", output)
    ((mean, deviation),) = numbers(r" h = (\S+) ± (\S+),", output)
    assert abs(best - mean) < 0.1 * deviation
    assert (high - low) / 2 == pytest.approx(deviation, rel=0.05)
    for name, published, error in (("omega_b", 0.02236, 0.00015), ("h", 0.6727, 0.006), ("n_s", 0.9649, 0.0044)):
        ((mean, deviation),) = numbers(rf" {name} = (\S+)\s±\s(\S+),", output)  # arXiv:1807.06209, table 2
        assert abs(mean - published) < error
        assert deviation == pytest.approx(error, rel=0.1)


def sample_with_cobaya(output):
    assert ": mixed" in output
    found = numbers(r"\w+: cobaya (\S+) \+- (\S+), unrelu (\S+) \+- (\S+)", output)
    assert len(found) == 7
    for mean, deviation, ours, wide in found:
        assert abs(mean - ours) < 0.3 * wide
        assert deviation == pytest.approx(wide, rel=0.25)


# What a script leaves in the folder it is run in.
LEFT = {"fit_planck": ["posterior.png", "profile.png"]}
NEEDS = {
    "fit_planck": pytest.mark.skipif(not DATA, reason="UNRELU_DATA is not set"),
    "sample_with_cobaya": (
        pytest.mark.skipif(find_spec("cobaya") is None, reason="cobaya is not installed"),
        pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of pandas, for what cobaya calls
    ),
}
PROMISES = [
    denoise, inpaint, compressed_sensing, super_resolution, check_uniqueness, prove, data_set, your_own_decoder,
    fit_spectrum, fit_light_curve, fit_power_spectrum, fit_21cm_history, tutorial, deblur, outliers, count_photons,
    phase_retrieval, nuisance_parameters, compare_methods, state_the_noise, calibrate_confidence, classify_codes,
    follow_video, few_measurements, hidden_pixels, sampled_too_seldom, fit_planck, sample_with_cobaya,
]  # fmt: skip


def test_every_script_is_checked_here():
    assert {script.stem for script in SCRIPTS} == {check.__name__ for check in PROMISES}
    assert len(SCRIPTS) >= 14


@pytest.mark.parametrize(
    "check", [pytest.param(each, id=each.__name__, marks=NEEDS.get(each.__name__, ())) for each in PROMISES]
)
def test_prints_what_it_promises(check, tmp_path, monkeypatch, capsys):
    check(run(FOLDER / f"{check.__name__}.py", tmp_path, monkeypatch, capsys))
    assert sorted(path.name for path in tmp_path.iterdir()) == LEFT.get(check.__name__, [])


def private_names(source):
    """Names of unrelu that a script imports, or takes from it by a dot, without being allowed to."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name != "unrelu" and a.name not in PUBLIC and not other(a.name)]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
            found += [name for name in names if node.level or not (public(name) or other(name))]
        elif isinstance(node, ast.Attribute):
            path = ast.unparse(node)
            if re.fullmatch(r"unrelu\.\w+(\.\w+)?", path) and not (path in PUBLIC or public(path)):
                found.append(path)
            if node.attr.startswith("_"):
                found.append(path)
    return found


def other(name):
    return name.split(".")[0] in OTHERS


def public(name):
    """Whether x of ``unrelu.x`` is in ``unrelu.__all__``, or y of ``unrelu.x.y`` is of a public module or class."""
    parts = name.split(".")
    if parts[0] != "unrelu" or len(parts) not in (2, 3):
        return False
    if (module := ".".join(parts[:2])) in PUBLIC and len(parts) == 3:
        return parts[2] in importlib.import_module(module).__all__
    if parts[1] not in unrelu.__all__:
        return False
    return len(parts) == 2 or hasattr(getattr(unrelu, parts[1]), parts[2])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_uses_public_names_only(script):
    assert private_names(script.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "from unrelu.result import Status",
        "import unrelu.lp.start",
        "from unrelu import _invert",
        "import unrelu; unrelu.result.Status",
        "import unrelu; unrelu.zoo.ARCHITECTURES",
        "from unrelu.zoo import LATENT_DIM",
        "r._ended",
        "import pandas",
        "from . import helper",
    ],
)
def test_the_check_sees_private_names(line):
    """Against a check that passes because it finds nothing."""
    assert private_names(line)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_is_short_and_has_a_title(script):
    source = script.read_text(encoding="utf-8")
    assert 20 <= len(source.splitlines()) <= (140 if script.stem in LONGER else 80)
    title, line, *_ = (ast.get_docstring(ast.parse(source)) or "").splitlines()
    assert set(line) == {"="}
    assert len(line) >= len(title)


def test_a_fit_of_planck_takes_25_lines():
    source = (FOLDER / "fit_planck.py").read_text(encoding="utf-8")
    code = [line for line in source[source.index("\nimport") : source.index("profile = ")].splitlines() if line.strip()]
    assert sum(not line.startswith("#") for line in code) <= 25
