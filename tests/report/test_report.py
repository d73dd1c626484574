"""The page says what the run found: its numbers, its pictures, what needs attention; names of files inject nothing."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import unrelu
from tests.report.written_pages import Page, changed, generator, observations, run
from unrelu.cli.result_folders import write_certificates
from unrelu.errors import InputError, StorageError
from unrelu.report import write_report
from unrelu.report._pictures import histogram
from unrelu.report._writing import _errors, _speed
from unrelu.result import Status
from unrelu.runs import Record, Run, chunk_work
from unrelu.runs._store import Store
from unrelu.runtime.words import duration, number

RESIDUAL = "residual y \N{MINUS SIGN} G(z)"
HIDDEN = (0x9E, 0xCA, 0xE1)
SAMPLED = {"noise": "gaussian:0.05", "posterior": 20, "chunk": 5, "masks": np.arange(5 * 64).reshape(5, 64) % 4 > 0}

NUMBERS = st.one_of(
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0]), st.floats(1e-12, 1e9), st.floats(-1e9, -1e-12), st.just(7.0)
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """20 pictures of 8 x 8 pixels, of which one cannot be read and three do not fit."""
    y = observations()
    y[4] = np.nan
    y[16:19] += 5 * np.random.default_rng(0).standard_normal((3, 64))
    names = {"model": "a-model.onnx", "command": "unrelu run g.onnx 'a b.npy' -o out"}
    return run(tmp_path_factory.mktemp("finished") / "out", y, noise="gaussian:0.05", seed=7, names=names)


@pytest.fixture(scope="module")
def page(finished):
    return Page(finished)


def test_it_is_written_into_the_folder_or_where_it_is_asked_for(finished, tmp_path):
    own, there, manifest = (path / name for path, name in (
        (finished.folder, "report.html"), (tmp_path, "there.html"), (finished.folder, "manifest.json"),
    ))  # fmt: skip
    assert (write_report(finished.folder), write_report(str(finished.folder), str(there))) == (own, there)
    assert there.read_bytes() == own.read_bytes()
    before = manifest.read_bytes()
    for path, message in ((manifest, r"manifest.json exists and is no page"), (tmp_path, "name a file such as")):
        with pytest.raises(InputError, match=message):
            write_report(finished.folder, path)
    with pytest.raises(StorageError, match="name another file"):
        write_report(finished.folder, tmp_path / "nowhere" / "report.html")
    with pytest.raises(InputError, match=r"holds no manifest"):
        write_report(tmp_path)
    assert manifest.read_bytes() == before
    assert not list(tmp_path.rglob("*.draft"))


def test_the_page_needs_no_network(page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object")
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    assert not re.search(r"url\((?!#)", page.source)
    assert "@import" not in page.source


def test_it_says_what_was_run_and_how_to_run_it_again(page, finished):
    assert page.text.count("Inverting a-model.onnx on") == 2
    about = finished.manifest["about"]
    for name, value in {**about["question"], **about["machine"]}.items():
        assert f"{name} {' '.join(value.split())}" in page.text
    assert about["command"] in page.text.split("To run it again")[1]
    assert finished.manifest["model"]["sha256"] in page.text
    assert "It was begun in Python" not in page.text


def test_counts_and_numbers_are_those_of_the_run(page, finished):
    assert finished.counts.keys() == {"ERROR", "MISFIT", "NOISE_LEVEL"}
    for name, count in finished.counts.items():
        assert f"{name} {Status[name].value} {count} {100 * count / 20:.1f}% " in page.text
    assert f"fits the stated noise {5 * finished.success}.0% {finished.success} of 20 observations" in page.text
    assert page.charts() == [19]
    assert "1 observation without a finite value, not drawn" in page.text
    for column in ("residual_l2", "residual_l1", "residual_linf", "objective", "nit", "p_value"):
        values = finished.read(column)
        known = values[np.isfinite(values) & (values >= 0)]
        levels = np.quantile(known, (0, 0.05, 0.5, 0.95, 1), method="closest_observation")
        row = page.text.split("of every observation", 1)[1].split(f" {column} ", 1)[1]
        assert " ".join(map(number, levels)) in row
    assert f"stated noise: {0.05 * 8:.3g}" in page.text
    assert f"{finished.read('identifiable').sum()} of 20 codes" in page.text
    ranks, counts = np.unique(finished.read("rank"), return_counts=True)
    assert f"rank {ranks[-1]} ({counts[-1]} codes)" in page.text
    work = sum(record.seconds for record in finished.records.values())
    assert f"{duration(work)} of work, summed over 1 worker; {duration(work)} with at least one busy" in page.text
    assert "confidence" not in page.text
    assert "seconds" not in page.text


def test_misfits_and_errors_need_attention(page, finished):
    attention = page.text.split("What needs attention")[1]
    misfits = np.flatnonzero(finished.read("p_value") < 0.01).tolist()
    assert misfits[-3:] == [16, 17, 18]
    assert f"{len(misfits)} observations with a code not explained by the stated noise, gaussian:0.05" in attention
    assert f"What failed: {len(misfits)} observations by the size of the residual." in attention
    assert (
        "Of 19 outputs of the generator with such noise, 0.19 would have a p-value below 0.01 by chance." in attention
    )
    assert f"They are {', '.join(map(str, misfits))}." in attention
    assert "Errors: 1 observation could not be inverted" in attention
    assert "64 of 64 values are NaN or infinite 1 4" in attention
    assert "Nothing:" not in attention


def test_without_stated_noise_success_is_what_counts(tmp_path):
    made = run(tmp_path / "out", observations(5), method="auto", rounds=1)
    page = Page(made)
    assert made.success == 0
    assert "0 of 5 observations" in page.text
    assert "5 other observations ended without success" in page.text
    assert "that no code has an objective more than 1% lower" in page.text
    assert "p_value" not in page.text
    assert "It was begun in Python" in page.text
    fine = Page(run(tmp_path / "fine", observations(3), noise="gaussian:0.2"))
    assert "Nothing: every observation fits the stated noise." in fine.text
    errors = Page(run(tmp_path / "errors", np.full((4, 64), np.nan)))
    assert "ERROR could not be inverted: its message says why 4 100% 0, 1, 2, 3" in errors.text
    assert not [what for what in ("Identifiability", "of every observation", "Gallery") if what in errors.text]


def test_the_gallery_has_the_worst_the_median_and_the_best(page, finished):
    scores = finished.read("residual_l2")
    order = np.argsort(-np.where(np.isnan(scores), -1, scores))[:19]
    assert page.shown == [*order[:6], *order[8:11], *order[:-4:-1]]
    assert len(page.all("img")) == 3 * 12


def test_pictures_are_the_observation_the_reconstruction_and_their_residual(page, finished):
    x = finished.read("reconstructions")
    y = x + finished.read("residuals")
    low, high = y[page.shown].min(), y[page.shown].max()
    worst = page.shown[0]
    for label, values in (("observed", y), ("reconstruction", x)):
        grey = np.round(255 * np.clip((values[worst] - low) / (high - low), 0, 1)).reshape(8, 8)
        assert (page.picture(worst, label) == grey[..., None]).all()
    red, _, blue = np.moveaxis(page.picture(worst, RESIDUAL).astype(int), -1, 0)
    residual = (y - x)[worst].reshape(8, 8)
    clear = np.abs(residual) > 0.2 * np.abs(residual).max()
    assert (np.sign(red - blue)[clear] == np.sign(residual)[clear]).all()


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_an_unfinished_run(tmp_path, chunks):
    stopped = run(tmp_path / "out", observations(), callback=lambda progress: progress.done >= 6 * chunks)
    page = Page(stopped)
    assert f"Not finished: {6 * chunks} of 20 observations" in page.text
    assert "run the same again to go on" in page.text
    assert page.charts() == [6 * chunks] * (chunks > 0)
    assert ("There is nothing to show yet" in page.text) == (chunks == 0)
    assert all(i < 6 * chunks for i in page.shown)


def test_many_messages_are_cut_with_a_count():
    errors = {i: f"{i}: broken like {chr(ord('a') + i)}" for i in range(23)} | {30: "30: broken like a"}
    rows = _errors(errors, {})
    assert rows[0] == ("broken like a", "", "", "2", "0, 30")
    assert (len(rows), rows[-1][3]) == (21, "3")


def test_hidden_entries_are_shown_as_such(tmp_path):
    masks = np.random.default_rng(0).random((20, 64)) < 0.7
    page = Page(run(tmp_path / "out", observations(), masks=masks))
    assert "a mask for every observation" in page.text
    assert "light blue was not observed" in page.text
    i = page.shown[0]
    for label, hidden in (("observed", ~masks[i]), ("reconstruction", 0 * masks[i]), (RESIDUAL, ~masks[i])):
        assert ((page.picture(i, label) == HIDDEN).all(axis=-1).ravel() == hidden).all()


def test_signals_and_measurements_are_curves(tmp_path):
    matrix = np.random.default_rng(0).standard_normal((10, 64))
    measured = Page(run(tmp_path / "measured", observations(13) @ matrix.T, operator=matrix))
    assert measured.labels() == {"reconstruction"}
    assert "A takes from an output of G" in measured.text
    signals = Page(run(tmp_path / "signals", observations(13, 20), 20))
    assert signals.labels() == set()
    for page, fit in ((measured, "A G(z)"), (signals, "G(z)")):
        assert page.curves(f"observed, and {fit}") == page.curves(RESIDUAL.replace("G(z)", fit)) == 12


def test_images_of_a_folder_are_named_and_names_are_escaped(tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate(("a.png", "<i>x: y.png")):
        Image.fromarray(np.full((8, 8), 100 * i + 50, np.uint8)).save(folder / name)
    evil = "<script>alert(1)</script>&\"'"
    page = Page(run(tmp_path / "out", folder, scale="0,1", names={"model": evil, "data": "<b>data"}))
    assert "Observation 0 <i>x: y.png" in page.text
    assert f"Inverting {evil} on <b>data" in page.text
    assert "as data of uint8 are rounded" in page.text

    def breaks(*args, **given):
        raise RuntimeError(evil + "<img src=x onerror=alert(1)>")

    monkeypatch.setattr(chunk_work, "invert", breaks)
    broken = Page(run(tmp_path / "broken", folder, scale="0,1"))
    assert f"{evil}<img src=x onerror=alert(1)>" in broken.text
    for one in (page, broken):
        assert not one.all("script") + one.all("b") + one.all("i")


def test_only_the_rows_that_are_shown_are_read_whole(finished, monkeypatch):
    asked, read = [], Store.read

    def watched(self, name, start=0, stop=None):
        asked.append((name, (self.size if stop is None else stop) - start))
        return read(self, name, start, stop)

    monkeypatch.setattr(Store, "read", watched)
    write_report(finished.folder)
    wide = [rows for name, rows in asked if name in ("codes", "reconstructions", "residuals")]
    assert len(wide) <= 4 * 12
    assert max(wide) == 1


def test_times_in_which_several_workers_were_busy_count_once(finished):
    def record(chunk, begin, end, worker):
        return Record(chunk, 5 * chunk, 5 * chunk + 5, {}, 0, 0, end - begin, worker, 1000.0 + end)

    records = [record(0, 0, 4, "a:1"), record(1, 1, 5, "b:1"), record(2, 3, 6, "a:1"), record(3, 106, 108, "a:2")]
    whole = Run(finished.folder, finished.manifest, {r.chunk: r for r in records}, finished.store)
    assert _speed(whole) == {"work": 13, "busy": 8, "rate": 20 / 8, "left": 0, "workers": 3}
    assert _speed(Run(finished.folder, finished.manifest, {0: records[0]}, finished.store))["left"] == 15 / (5 / 4)


def test_certificates_of_the_folder(tmp_path):
    net, made = generator(8), run(tmp_path / "out", observations(2, 8), 8)
    proofs = unrelu.certify(net, observations(3, 8), box=False, max_nodes=20)
    (tmp_path / "proofs").mkdir()
    write_certificates(tmp_path / "proofs", proofs, single=False)
    shutil.copy(tmp_path / "proofs" / "certificates.jsonl", made.folder)
    with (made.folder / "certificates.jsonl").open("a") as lines:
        lines.write("{damaged\n")
    page = Page(made)
    assert "3 certificates of unrelu certify" in page.text
    assert f"no error below {np.median([p.lower for p in proofs]):.3g}" in page.text
    assert f"a code with {np.median([p.upper for p in proofs]):.3g}" in page.text
    assert "1 line of certificates.jsonl could not be read" in page.text
    assert all(f"{proof.status.name} {proof.status.value}" in page.text for proof in proofs)


def test_posteriors_that_have_not_mixed_have_no_standard_deviations(tmp_path):
    made = run(tmp_path / "out", observations(5), **SAMPLED)
    for status, rows in (("MIXED", [0, 3]), ("NOT_MIXED", [1, 4]), ("TIME_LIMIT", [2])):
        changed(made, "posterior_status", rows, status)
    made = changed(made, "p_value", [0], 1e-9)
    page = Page(made)
    assert "posterior 20 draws of each chain; codes Normal(0, 1)" in page.text
    assert "posteriors mixed 40.0% 2 of 5 observations" in page.text
    assert "3 posteriors have not mixed: their draws may not represent the posterior" in page.text
    posteriors = page.text.split("How far the true code can be")[1]
    assert "NOT_MIXED the chains have not mixed: raise draws" in posteriors
    assert f"R-hat up to {made.read('rhat')[[1, 4]].max():.3f}" in posteriors
    assert "TIME_LIMIT stopped at the time limit before the chains agreed" in posteriors
    assert "; 1 with a code that is a misfit (p < 0.01) 2 40.0% 0, 3" in posteriors
    std = made.read("std")[[0, 3]]
    row = posteriors.split("std standard deviation of a coordinate")[1].split()[:5]
    assert (float(row[0]), float(row[4])) == pytest.approx((std.min(), std.max()), rel=5e-3)
    assert page.charts() == [5, 2]
    named = sorted(image["alt"] for image in page.all("img") if "standard deviation" in image["alt"])
    assert named == ["observation 0, standard deviation", "observation 3, standard deviation"]
    deviations = made.read("reconstruction_std")[[0, 3]]
    for i, one in zip((0, 3), deviations, strict=True):
        assert (
            page.picture(i, "standard deviation")[..., 0] == np.round(255 * one / deviations.max()).reshape(8, 8)
        ).all()
    nothing = Page(changed(made, "posterior_status", slice(None), "NOT_MIXED"))
    assert "posteriors mixed 0% 0 of 5" in nothing.text
    assert "nothing shows that" not in nothing.text


# --- histograms -------------------------------------------------------------------------------------------------------


def drawn(values, success=None, mark=None):
    values = np.array(values, dtype=float)
    good = np.ones(len(values), bool) if success is None else np.array(success, dtype=bool)
    return histogram("<t>", values, good, ("good", "bad"), mark)


def said(chart, what):
    """The number before some words of the caption or of the picture's name, 0 without them."""
    found = re.search(rf"([\d,]+) observations?{what}", chart["svg"][:300] + chart["caption"])
    return int(found[1].replace(",", "")) if found else 0


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(NUMBERS, st.booleans()), max_size=40), st.one_of(st.none(), st.floats(1e-9, 1e6)))
def test_a_histogram_counts_every_value_once(pairs, mark):
    values = [value for value, _ in pairs]
    chart = drawn(values, [flag for _, flag in pairs], None if mark is None else (mark, "here"))
    assert said(chart, " without a finite value") == (~np.isfinite(values)).sum()
    assert said(chart, '"') == np.isfinite(values).sum()


def test_the_scale_of_a_histogram_suits_the_values():
    assert "Logarithmic" in drawn(np.logspace(-9, 0, 1000))["caption"]
    assert "Linear" in drawn(np.linspace(1, 3, 1000))["caption"]
    assert "<svg" in drawn([2, 2, 2])["svg"]


@pytest.mark.parametrize("outliers", [[9.0] * 5, [1e6, 1e7, 1e8, 1e9, 1e12], [1e-9, 1e-8, 50.0, 60.0, 70.0]])
def test_five_outliers_do_not_hide_the_others(outliers):
    values = np.append(1 + 0.05 * np.random.default_rng(0).standard_normal(1994), outliers)
    chart = drawn(values, mark=(1.1, "stated noise"))
    assert "5 observations beyond the axis" in chart["caption"]
    ticks = [float(text) for text in re.findall(r">([\d.]+)</text>", chart["svg"].split("matplotlib.axis_2")[0])]
    assert 0.5 < min(ticks) < max(ticks) < 1.5
    assert "stated noise" in chart["svg"]


def test_the_same_values_make_the_same_picture_in_the_colour_of_the_page():
    values = np.random.default_rng(0).standard_normal(50)
    assert drawn(values) == drawn(values)
    assert "currentColor" in drawn(values)["svg"]
    assert "&lt;t&gt;" in drawn(values)["svg"]
