"""What a run refuses before it does any work, with the value and what to do."""

from __future__ import annotations

import json
import os
from fractions import Fraction

import numpy as np
import pytest
import torch

import unrelu
from tests.runs.small_runs import SIZE, Y, copy, small_run
from unrelu.errors import InputError, OptionError, OutputExistsError, StorageError, UnsupportedModelError


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> unrelu.Run:
    return small_run(tmp_path_factory.mktemp("finished") / "out")


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"method": "lmm"}, OptionError, "method 'lmm' is unknown"),
        ({"max_iteration": 3}, OptionError, "has no option 'max_iteration'"),
        ({"progress": True}, OptionError,
         "no option 'progress'.*; progress= goes with unrelu.invert, not with this call"),
        ({"method": lambda problem: None}, OptionError, "a run takes one by name"),
        ({"chunk": 0}, OptionError, "chunk=0 must be a whole number of at least 1"),
        ({"chunk": 2.5}, OptionError, "chunk=2.5"),
        ({"workers": True}, OptionError, "workers=True"),
        ({"executor": "tcp://host"}, OptionError, "executor is a str; pass a concurrent.futures.Executor"),
        ({"data": "s3://bucket/y.zarr"}, InputError, r"is a URL: open it in Python and pass the array"),
        ({"scale": (1, 0)}, InputError, r"scale \(1, 0\)"),
        ({"seed": -1}, OptionError, "seed=-1"),
        ({"prior": "much"}, OptionError, "prior='much'"),
        ({"noise": "gauss:1"}, InputError, "noise='gauss:1'"),
        ({"norm": "l3"}, InputError, "norm='l3'"),
        ({"scale": "1,0"}, InputError, "scale '1,0'"),
        ({"scale": "0,1", "data": np.ones((3, 20), dtype=np.int64)}, InputError, "integers of type int64 have none"),
        ({"data": "nowhere.npy"}, InputError, "nowhere.npy does not exist"),
        ({"data": Y[0]}, InputError, "reshape a single observation"),
        ({"data": Y[:, :19]}, InputError, r"observations of shape \(19,\), and the generator puts out \(20,\)"),
        ({"data": Y[:0]}, InputError, "holds no values"),
        ({"data": Y, "array": "y"}, InputError, "are for data in files"),
        ({"masks": np.ones((4, 20))}, InputError, "holds 4 masks for the 23 observations"),
        ({"masks": np.ones((SIZE, 19))}, InputError, "masks has masks of shape"),
        ({"operator": np.ones((SIZE, 20), bool)}, InputError, "pass masks="),
        ({"operator": np.ones(20), "masks": np.ones((SIZE, 20))}, InputError, "were both given"),
        ({"operator": np.ones((3, 19))}, InputError, r"operator= has shape \(3, 19\)"),
        ({"data": np.ma.masked_greater(Y, 1)}, InputError, "data has masked entries; fill them, or pass masks="),
        ({"names": {"data": object()}}, OptionError, "names=.* cannot be written to manifest.json"),
        ({"names": {"data": 5}}, OptionError,
         r"names=.* cannot be written to manifest.json: .*about.data is 5.*; pass texts"),
        ({"prior": 10**400}, InputError, "prior=inf must be finite"),
        ({"damping": 10**400}, OptionError, "option damping of method 'lm' has 401 digits"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_any_work(tmp_path, options, kind, said):
    with pytest.raises(kind, match=said):
        small_run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_axes_are_not_mixed_up(tmp_path):
    network = unrelu.zoo.load("mnist-dcgan")
    assert network.output_shape == (1, 28, 28)
    with pytest.raises(InputError, match="reshape or transpose"):
        unrelu.run(network, np.zeros((2, 14, 56)), tmp_path / "out", workers=1)


def test_folders_of_others_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.npy").write_text("precious")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputExistsError, match="exists and holds no run"):
        small_run(tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        small_run(tmp_path / "file")
    assert (tmp_path / "mine" / "mine.npy").read_text() == "precious"
    with pytest.raises(StorageError, match="cannot be written"):
        small_run(tmp_path / "file" / "below")


@pytest.mark.parametrize("name", ["chunks.jsonl", "manifest.json.draft", "results.zarr/codes/c/0/0"])
def test_nothing_is_written_through_a_link(finished, tmp_path, name):
    out, victim = copy(finished, tmp_path / "out"), tmp_path / "victim"
    place = out / name
    content = place.read_bytes() if place.exists() else b"precious"
    victim.write_bytes(content)
    place.unlink(missing_ok=True)
    place.symlink_to(victim)
    for overwrite in (False, True):
        with pytest.raises(
            InputError, match=r"is a link or no file; results are written there|is a link that leads out"
        ):
            small_run(out, overwrite=overwrite)
    assert victim.read_bytes() == content


def test_what_is_no_path_is_told(tmp_path):
    with pytest.raises(InputError, match="opened by the path of its folder, got int"):
        unrelu.open_run(5)
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        unrelu.open_run("a" * 5000)
    with pytest.raises(OptionError, match="output is a int; pass the path of a folder"):
        small_run(5)


def test_a_pipe_among_the_results_is_told(tmp_path):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "manifest.json.draft")
    with pytest.raises(InputError, match="is a link or no file; results are written there"):
        small_run(tmp_path / "out")


def test_numbers_of_numpy_and_fractions_are_numbers(finished, tmp_path):
    run = small_run(tmp_path / "out", chunk=np.int64(5), damping=Fraction(1, 1000))
    assert run.finished
    assert run.manifest["options"]["damping"] == 0.001


@pytest.mark.parametrize(
    ("start", "stop"), [(-1, 2), (5, 2), (0, SIZE + 1), (SIZE + 1, SIZE + 2), (0.5, 2), (False, 2)]
)
def test_rows_that_are_not_there_are_told(finished, start, stop):
    with pytest.raises(InputError, match=rf"there are no rows {start} to {stop}; pass whole numbers from 0 to {SIZE}"):
        finished.read("codes", start, stop)
    assert finished.read("codes", 2, 2).shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("", "cannot be read as JSON|damaged"),
        ("{}", "damaged"),
        ("[1", "cannot be read as JSON"),
        ({"format": "unrelu run 9"}, "format .*unrelu run 9"),
        ({"statuses": ["EXACT_FIT"]}, "is no status of the run"),
        ({"chunk": -1}, "a shape is"),
        ({"data": {"size": 2**47, "shape": [2**20], "dtype": "<f8", "scale": "none", "sha256": ""}},
         "a shape is|short"),
        ({"about": {"data": "y"}}, "damaged"),
    ],
)  # fmt: skip
def test_a_manifest_that_no_run_writes_is_told(finished, tmp_path, change, said):
    out = copy(finished, tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    text = change if isinstance(change, str) else json.dumps(manifest | change)
    (out / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=said):
        unrelu.open_run(out).read("codes")


def test_columns_that_are_cut_short_are_told(finished, tmp_path):
    out = copy(finished, tmp_path / "out")
    os.truncate(out / "results.zarr" / "codes" / "c" / "0" / "0", 100)
    with pytest.raises(InputError, match="is cut short; begin the run again"):
        unrelu.open_run(out).read("codes")


def test_a_method_that_cannot_invert_the_network_stops_the_run(tmp_path):
    network = unrelu.from_torch(Residual(), latent_shape=(3,))
    with pytest.raises(UnsupportedModelError):
        unrelu.run(network, np.zeros((4, 3)), tmp_path / "out", "linf", workers=1)


class Residual(torch.nn.Module):
    def forward(self, z):
        return (z + torch.relu(z)).unsqueeze(1).amax(1)


@pytest.mark.parametrize("place", ["out/results.zarr/y.npy", "out/below/y.npy"])
def test_data_in_the_folder_of_the_results_are_left_alone(finished, tmp_path, place):
    copy(finished, tmp_path / "out")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    np.save(tmp_path / place, Y)
    before = (tmp_path / place).read_bytes()
    with pytest.raises(InputError, match=r"lies in .*out, the folder of the results; name another folder"):
        small_run(tmp_path / "out", data=str(tmp_path / place), overwrite=True)
    assert (tmp_path / place).read_bytes() == before


def test_long_names_and_networks_that_are_none_are_told(tmp_path):
    with pytest.raises(InputError, match="is no folder for results: File name too long"):
        small_run(tmp_path / ("x" * 300))
    with pytest.raises(OptionError, match=r"network is a str; make one with unrelu\.load"):
        unrelu.run("net.npz", Y, tmp_path / "out")


def test_two_runs_cannot_share_a_folder(tmp_path):
    out = tmp_path / "out"
    small_run(out)
    with pytest.raises(InputError, match="is being written by another run"):
        small_run(out, callback=lambda progress: small_run(out))
    assert not unrelu.open_run(out).running


def test_what_cannot_be_sent_to_processes_is_told(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, z):
            return (z + torch.relu(z)).unsqueeze(1).amax(1)

    network = unrelu.from_torch(Odd(), latent_shape=(3,))
    with pytest.raises(OptionError, match="cannot be sent to other processes") as error:
        unrelu.run(network, np.zeros((4, 3)), tmp_path / "out", "lm", workers=2, chunk=1)
    assert "pass workers=1" in str(error.value)
    assert unrelu.run(network, np.zeros((4, 3)), tmp_path / "out", "lm", workers=1, chunk=1).finished
