"""The page says what the run found: its numbers, its pictures, what is missing; names of files inject nothing."""

from __future__ import annotations

import json
import re
import shutil
import sys

import numpy as np
import pytest

import unrelu
from tests.report.report_runs import Page, observations, run, saved
from tests.support import random_network
from unrelu.cli import process
from unrelu.cli.result_folders import write_certificates
from unrelu.datasets.tables import NpyTable
from unrelu.errors import InputError, StorageError
from unrelu.report import write_report
from unrelu.result import Status
from unrelu.runs.journal import Record, append


def small(folder):
    """A finished run of 20 pictures of 8 x 8 pixels, some of which fit within the noise."""
    data = saved(folder, observations())
    return run(folder / "out", data, noise="gaussian:0.05", seed=7, names={"model": "a-model.onnx"})


@pytest.fixture
def plain(tmp_path):
    """A run that a test may change."""
    return small(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One that is looked at only."""
    return small(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def page(finished):
    return Page(write_report(finished.folder))


def test_it_is_written_into_the_folder_or_where_it_is_asked_for(plain, tmp_path):
    assert write_report(plain.folder) == plain.folder / "report.html"
    there = tmp_path / "there.html"
    assert write_report(str(plain.folder), str(there)) == there
    assert there.read_text(encoding="utf-8") == (plain.folder / "report.html").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.draft"))


def test_the_page_needs_no_network(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    assert not re.search(r"url\((?!#)", page.source)
    assert "@import" not in page.source


def test_it_says_what_was_run(page, finished):
    for said in (
        "a-model.onnx",
        "y.npy",
        "lm",
        "gaussian:0.05",
        "20 observations of shape 64",
        "seed 7",
        "6 observations",
    ):
        assert said in page.text
    assert finished.manifest["model"]["sha256"] in page.text
    assert f"unrelu {unrelu.__version__}" in page.text


def test_counts_are_those_of_the_run(page, finished):
    for name, count in finished.counts.items():
        assert f"{name} {Status[name].value} {count} {100 * count / 20:.1f}%".replace("100.0%", "100%") in page.text
    assert f"fits the noise {fitting(finished)} of 20" in page.text
    assert page.charts() == [20]


def fitting(run):
    """How many observations fit the noise."""
    return int((run.read("p_value") >= 0.01).sum())


def test_spreads_are_those_of_the_columns(page, finished):
    for column in ("residual_l2", "residual_l1", "residual_linf", "objective", "nit", "p_value"):
        values = finished.read(column)
        numbers = " ".join(
            f"{q:.3g}" for q in np.quantile(values, (0, 0.05, 0.5, 0.95, 1), method="closest_observation")
        )
        assert numbers in page.text[page.text.index("Numbers of every") :].split(column, 1)[1]


def test_the_noise_that_was_stated_is_marked(page):
    assert f"stated noise: {0.05 * 8:.3g}" in page.text


def test_the_gallery_has_the_worst_the_median_and_the_best(page, finished):
    order = np.argsort(finished.read("residual_l2"))
    expected = [*order[:-7:-1], *order[9:12], *order[:3]]
    shown = [int(part.split()[0]) for part in page.text.split("Observation ")[1:]]
    assert shown == [int(i) for i in expected]
    assert len(page.all("img")) == 3 * 12


def test_pictures_are_the_observation_the_reconstruction_and_their_difference(page, finished):
    y, x = observations(), finished.read("reconstructions")
    shown = [int(part.split()[0]) for part in page.text.split("Observation ")[1:]]
    low, high = y[shown].min(), y[shown].max()
    worst = shown[0]
    for label, values in (("observed", y), ("reconstruction", x)):
        grey = np.round(255 * np.clip((values[worst] - low) / (high - low), 0, 1)).reshape(8, 8)
        assert (page.picture(f"observation {worst}, {label}") == grey[..., None]).all()
    red, _, blue = np.moveaxis(page.picture(f"observation {worst}, difference").astype(int), -1, 0)
    difference = (y - x)[worst].reshape(8, 8)
    clear = np.abs(difference) > 0.2 * np.abs(difference).max()
    assert (np.sign(red - blue)[clear] == np.sign(difference)[clear]).all()


def test_few_observations_are_all_shown(tmp_path):
    run(tmp_path / "out", saved(tmp_path, observations(3)))
    page = Page(write_report(tmp_path / "out"))
    assert "All, worst first" in page.text
    assert len(page.all("img")) == 9


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_an_unfinished_run(tmp_path, chunks):
    stopped = run(tmp_path / "out", saved(tmp_path, observations()), callback=lambda moment: moment.done >= 6 * chunks)
    assert len(stopped.records) == chunks
    page = Page(write_report(stopped.folder))
    assert f"Not finished: {6 * chunks} of 20 observations" in page.text.replace("</strong>", "")
    assert "run the same again to go on" in page.text
    assert page.charts() == [6 * chunks] * (chunks > 0)
    assert ("There is nothing to show yet" in page.text) == (chunks == 0)


def test_rows_of_a_chunk_that_was_not_recorded_do_not_count(plain):
    journal = plain.folder / "chunks.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:1] + lines[2:]))
    page = Page(write_report(plain.folder))
    assert page.charts() == [14]
    assert {int(part.split()[0]) for part in page.text.split("Observation ")[1:]}.isdisjoint(range(6, 12))


def test_errors_are_grouped_and_named(tmp_path):
    y = observations()
    y[4], y[5, :3], y[11, 0] = np.nan, np.inf, np.nan
    failed = run(tmp_path / "out", saved(tmp_path, y))
    page = Page(write_report(failed.folder))
    assert sorted(failed.errors) == [4, 5, 11]
    assert "64 of 64 values are NaN or infinite 3 4, 5, 11" in page.text
    assert "3 observations could not be inverted" in page.text
    assert "3 observations without a finite value, not drawn" in page.text
    assert page.charts() == [17]


def test_only_errors(tmp_path):
    run(tmp_path / "out", saved(tmp_path, np.full((4, 64), np.nan)))
    page = Page(write_report(tmp_path / "out"))
    assert "ERROR could not be inverted: its message says why 4 100%" in page.text
    assert "Identifiability" not in page.text
    assert "Numbers" not in page.text
    assert "\u2013" not in page.text.replace("\u2013 unrelu", "")
    assert "not explained by" not in page.text
    assert page.all("img") == []


def test_many_messages_are_cut_with_a_count(plain):
    letters = [chr(ord("a") + i) for i in range(23)]
    record = json.loads((plain.folder / "chunks.jsonl").read_text().splitlines()[0])
    record["errors"] = {i: f"{i}: broken like {letter}" for i, letter in enumerate(letters)}
    del record["check"]
    with (plain.folder / "chunks.jsonl").open("ab", buffering=0) as journal:
        append(journal, Record(**record))
    page = Page(write_report(plain.folder))
    assert page.text.count("broken like") == 20
    assert "3 more errors with other messages" in page.text


def test_hidden_entries_are_shown_as_such(tmp_path):
    masks = np.random.default_rng(0).random((20, 64)) < 0.7
    run(tmp_path / "out", saved(tmp_path, observations()), masks=saved(tmp_path, masks, "masks.npy"))
    page = Page(write_report(tmp_path / "out"))
    assert "a mask for every observation" in page.text
    i = int(page.text.split("Observation ")[1].split()[0])
    for label, hidden in (("observed", ~masks[i]), ("reconstruction", np.zeros(64, bool)), ("difference", ~masks[i])):
        blue = (page.picture(f"observation {i}, {label}") == (0x9E, 0xCA, 0xE1)).all(axis=-1)
        assert (blue.ravel() == hidden).all()


def test_one_mask_for_all_has_to_be_given_again(tmp_path):
    mask = np.arange(64) % 3 > 0
    masked = run(tmp_path / "out", saved(tmp_path, observations()), operator=mask)
    without = Page(write_report(masked.folder))
    assert "pass it as operator= to write_report" in without.text
    assert not [a for a in without.all("img") if "difference" in a["alt"]]
    given = Page(write_report(masked.folder, operator=mask))
    i = int(given.text.split("Observation ")[1].split()[0])
    hidden = (given.picture(f"observation {i}, difference") == (0x9E, 0xCA, 0xE1)).all(axis=-1)
    assert (hidden.ravel() == ~mask).all()
    with pytest.raises(InputError, match="not the one that the run was made with"):
        write_report(masked.folder, operator=~mask)


@pytest.mark.parametrize("name", ["mask", "operator"])
def test_a_measurement_that_the_command_line_noted_is_read_again(tmp_path, name):
    value = np.arange(64) % 3 > 0 if name == "mask" else np.random.default_rng(0).standard_normal((10, 64))
    y = observations() if name == "mask" else observations() @ value.T
    noted = str(saved(tmp_path, value, "given.npy"))
    run(tmp_path / "out", saved(tmp_path, y), operator=value, names={name: noted})
    page = Page(write_report(tmp_path / "out"))
    assert "as operator= to write_report" not in page.text
    assert "difference" in page.text


def test_measurements_are_curves_beside_the_picture(tmp_path):
    matrix = np.random.default_rng(0).standard_normal((10, 64))
    measured = run(tmp_path / "out", saved(tmp_path, observations() @ matrix.T), operator=matrix)
    page = Page(write_report(measured.folder, operator=matrix))
    assert {a["alt"].split(", ")[1] for a in page.all("img")} == {"reconstruction"}
    assert "observed and fitted" in page.text
    assert page.curves("observed and fitted") == page.curves("difference") == 12
    assert "a matrix: 10 measurements" in page.text


def test_signals_are_curves(tmp_path):
    run(tmp_path / "out", saved(tmp_path, observations(outputs=20)), outputs=20)
    page = Page(write_report(tmp_path / "out"))
    assert page.all("img") == []
    assert page.curves("difference") == 12


def test_images_of_a_folder_are_scaled_and_named(tmp_path):
    from tests.datasets.store_kinds import images

    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8)).astype(np.uint8)
    run(tmp_path / "out", images(tmp_path, pictures), scale="-1,1")
    page = Page(write_report(tmp_path / "out"))
    assert "[-1, 1]" in page.text
    for i, name in enumerate(["000.PNG", "001.png", "002.png", "003.png", "004.png"]):
        assert f"Observation {i} {name}" in page.text
        shown = page.picture(f"observation {i}, observed")[..., 0].astype(int)
        assert np.abs(shown - pictures[i]).max() <= 3  # black and white are the extremes of what is shown


@pytest.mark.parametrize(
    ("output", "data"), [((3, 4, 5), (3, 4, 5)), ((1, 6, 6), (6, 6)), ((5, 4), (20,)), ((20,), (1, 5, 4))]
)
def test_shapes_of_pictures(tmp_path, output, data):
    from unrelu.models.activations import Activation
    from unrelu.models.affine import Reshape
    from unrelu.models.network import Network

    size = int(np.prod(output))
    layers = random_network((3, 9, size), seed=2)
    parts = [part for layer in layers.layers for part in (*layer.affine.steps, layer.activation)]
    net = Network.chain([*parts, Reshape(output), Activation("identity")], (3,))
    y = net(np.random.default_rng(0).standard_normal((4, 3))).reshape(4, *data)
    unrelu.run(net, saved(tmp_path, y), tmp_path / "out", "lm", workers=1)
    page = Page(write_report(tmp_path / "out"))
    shape = next(s for s in (output, data) if len([n for n in s if n > 1]) > 1)
    assert page.picture("observation 0, observed").shape == (*shape[-2:], 3)
    assert len(page.all("img")) == 12


def test_data_that_are_gone(plain, tmp_path):
    (tmp_path / "y.npy").rename(tmp_path / "elsewhere.npy")
    page = Page(write_report(plain.folder))
    assert "The observations cannot be shown" in page.text
    assert "does not exist" in page.text
    assert "The difference is" not in page.text
    assert {a["alt"].split(", ")[1] for a in page.all("img")} == {"reconstruction"}
    found = Page(write_report(plain.folder, data=tmp_path / "elsewhere.npy"))
    assert len(found.all("img")) == 36


def test_data_that_changed(plain, tmp_path):
    worst = int(plain.read("residual_l2").argmax())
    y = observations()
    y[worst] += 1
    saved(tmp_path, y)
    page = Page(write_report(plain.folder))
    assert "the data set was changed after this chunk was computed" in page.text
    assert f"observation {worst}, observed" not in {a["alt"] for a in page.all("img")}
    saved(tmp_path, y[:9])
    assert "now has 9 observations of shape (64,)" in Page(write_report(plain.folder)).text


def test_an_array_is_not_kept_but_can_be_given_again(tmp_path):
    run(tmp_path / "out", observations())
    assert "pass it as data= to write_report" in Page(write_report(tmp_path / "out")).text
    assert len(Page(write_report(tmp_path / "out", data=observations())).all("img")) == 36


def test_a_manifest_that_does_not_say_how_the_data_were_opened(plain):
    path = plain.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["about"]["opened"], manifest["about"]["machine"]
    path.write_text(json.dumps(manifest))
    assert len(Page(write_report(plain.folder)).all("img")) == 36


@pytest.mark.parametrize("address", ["https://example.org/y.zarr", "file:///etc", "s3://bucket/y.zarr"])
def test_an_address_is_not_opened_because_a_manifest_names_it(plain, address, monkeypatch):
    monkeypatch.setattr("unrelu.report._gallery.open_source", lambda *_: pytest.fail("opened"))
    path = plain.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["about"]["opened"]["data"] = address
    path.write_text(json.dumps(manifest))
    page = Page(write_report(plain.folder))
    assert f"pass data='{address}' to write_report" in page.text
    assert {image["alt"].split(", ")[1] for image in page.all("img")} == {"reconstruction"}


def test_not_even_names_are_shown_of_data_of_others(tmp_path):
    from PIL import Image

    saved(tmp_path, observations())
    run(tmp_path / "out", tmp_path / "y.npy")
    (tmp_path / "private").mkdir()
    for i in range(len(observations())):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / "private" / f"secret-{i}.png")
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["about"]["opened"]["data"] = str(tmp_path / "private")
    manifest["data"]["shape"] = [8, 8]
    path.write_text(json.dumps(manifest))
    page = Page(write_report(tmp_path / "out"))
    assert "the data set was changed after this chunk was computed" in page.text
    assert "secret-" not in page.text


def test_only_a_page_is_replaced(plain):
    before = (plain.folder / "codes.npy").read_bytes()
    with pytest.raises(InputError, match=r"codes.npy exists and is no page"):
        write_report(plain.folder, plain.folder / "codes.npy")
    assert (plain.folder / "codes.npy").read_bytes() == before


def test_data_are_found_from_another_directory(tmp_path, monkeypatch):
    saved(tmp_path, observations())
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "out", "y.npy")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert len(Page(write_report(tmp_path / "out")).all("img")) == 36


EVIL = "<script>alert(1)</script>&\"'"


def test_names_and_messages_are_escaped(tmp_path, monkeypatch):
    from unrelu.runs import chunk_work

    def breaks(*args, **given):
        raise RuntimeError(EVIL + "<img src=x onerror=alert(1)>")

    data = saved(tmp_path, observations(3), "<b onclick='alert(1)'>&.npy")
    monkeypatch.setattr(chunk_work, "invert", breaks)
    names = {"model": EVIL, "data": str(data)}
    run(tmp_path / "out", data, names=names)
    page = Page(write_report(tmp_path / "out"))
    assert EVIL in page.text
    assert "<b onclick='alert(1)'>&.npy" in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert not page.all("script")
    assert not page.all("b")
    assert page.all("img") == []


def test_names_of_images_are_escaped(tmp_path):
    from tests.datasets.store_kinds import images

    folder = images(tmp_path, np.zeros((1, 8, 8), np.uint8))
    (tmp_path / "images" / "000.PNG").rename(tmp_path / "images" / "<i>x: y.png")
    run(tmp_path / "out", folder, scale="0,1")
    page = Page(write_report(tmp_path / "out"))
    assert "Observation 0 <i>x: y.png" in page.text
    assert "rounding:0.00392" in page.text
    assert "as data of uint8 are rounded" in page.text
    assert not page.all("i")


def test_certificates_of_the_folder(plain, tmp_path):
    net = random_network((2, 5, 8), seed=0)
    y = net(np.random.default_rng(0).standard_normal((3, 2))) + np.array([[0.0], [0.1], [0.2]])
    proofs = unrelu.certify(net, y, box=False)
    (tmp_path / "proofs").mkdir()
    write_certificates(tmp_path / "proofs", proofs, single=False)
    shutil.copy(tmp_path / "proofs" / "certificates.jsonl", plain.folder)
    with (plain.folder / "certificates.jsonl").open("a") as lines:
        lines.write("{damaged\n")
    page = Page(write_report(plain.folder))
    assert "3 certificates of unrelu certify" in page.text
    assert f"no error below {np.median([p.lower for p in proofs]):.3g}" in page.text
    assert f"a code with {np.median([p.upper for p in proofs]):.3g}" in page.text
    assert "1 line of certificates.jsonl could not be read" in page.text
    for proof in proofs:
        assert f"{proof.status.name} {proof.status.value}" in page.text


def test_identifiability_is_that_of_the_run(page, finished):
    assert f"{finished.read('identifiable').sum()} of 20 codes" in page.text
    ranks, counts = np.unique(finished.read("rank"), return_counts=True)
    for rank, count in zip(ranks, counts, strict=True):
        assert f" {rank} " + ("full rank " if rank == 3 else "") + f"{count} " in page.text


def test_only_the_rows_that_are_shown_are_read_whole(plain, monkeypatch):
    asked = []
    read = NpyTable.read

    def watched(self, name, start=0, stop=None):
        asked.append((name, (self.size if stop is None else stop) - start))
        return read(self, name, start, stop)

    monkeypatch.setattr(NpyTable, "read", watched)
    write_report(plain.folder)
    wide = [rows for name, rows in asked if name in ("codes", "reconstructions")]
    assert len(wide) == 12
    assert max(wide) == 1


def test_what_cannot_be_written_or_read(plain, tmp_path):
    with pytest.raises(InputError, match="name a file such as"):
        write_report(plain.folder, tmp_path)
    with pytest.raises(StorageError, match="name another file"):
        write_report(plain.folder, tmp_path / "nowhere" / "report.html")
    with pytest.raises(InputError, match="holds no manifest"):
        write_report(tmp_path)


def test_the_command(plain, tmp_path, monkeypatch, capsys):
    for given, path in (([], plain.folder / "report.html"), (["-o", str(tmp_path / "r.html")], tmp_path / "r.html")):
        monkeypatch.setattr(sys, "argv", ["unrelu", "report", str(plain.folder), *given])
        with pytest.raises(SystemExit) as end:
            process.main()
        assert end.value.code == 0
        assert capsys.readouterr().out == f"{path}\n"
        assert path.is_file()
