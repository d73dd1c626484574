"""``unrelu play``: its page in a real browser; it listens on this machine alone, and Ctrl-C ends it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

import unrelu
from tests.ecosystem.headless import chromium
from tests.runs.small_runs import command
from unrelu.cli.process import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX processes")


@contextmanager
def playing(*arguments):
    """The process and the address of its page."""
    process = subprocess.Popen(command("play", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("open http://127.0.0.1:"), line or process.communicate()
        yield process, line.split()[1]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def address():
    with playing() as (_, found):
        yield found


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


class Visitor:
    """What one does on the page."""

    def __init__(self, page):
        self.page = page
        self.verdict = page.locator("#verdict")
        page.locator("canvas").first.wait_for()

    def says(self, *words):
        """Wait until the answer has these words."""
        found = self.verdict
        for word in words:
            found = found.filter(has_text=word)
        found.wait_for()

    def stroke(self, *points):
        box = self.page.locator("canvas").first.bounding_box()
        side = 0.8 * min(box["width"], box["height"])  # of the black square, about
        left, top = box["x"] + (box["width"] - side) / 2, box["y"] + (box["height"] - side) / 2
        at = [(left + x * side, top + y * side) for x, y in points]
        self.page.mouse.move(*at[0])
        self.page.mouse.down()
        for point in at[1:]:
            self.page.mouse.move(*point, steps=8)
        self.page.mouse.up()


@pytest.fixture
def visit(browser, address):
    """Open the page; nothing may be asked of others, and nothing may break."""
    wrong: list[str] = []
    made = []

    def open_page(width=1200):
        context = browser.new_context(viewport={"width": width, "height": 1000})
        context.set_default_timeout(90_000)
        made.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        own = (address, "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(own) else wrong.append(f"asked: {r.url}"))
        page.on("response", lambda r: None if r.status < 400 else wrong.append(f"{r.status}: {r.url}"))
        page.goto(address)
        return Visitor(page)

    yield open_page
    for context in made:
        context.close()
    assert wrong == []


@pytest.mark.parametrize("width", [1200, 420])
def test_a_picture_is_chosen_drawn_on_and_judged(visit, width):
    visitor = visit(width)
    visitor.says("Draw a picture")
    visitor.page.get_by_role("button", name="Let it draw one").click()
    visitor.says("successful", "EXACT_FIT", "rank 20 of 20")
    assert visitor.page.locator("#verdict img").count() == 3
    visitor.stroke((0.1, 0.1), (0.9, 0.9), (0.1, 0.9), (0.9, 0.1))
    visitor.says("no success", "MISFIT")
    visitor.page.get_by_text("unknown", exact=True).click()
    visitor.says("no noise was stated")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = visitor.page.locator("#verdict img").evaluate_all("all => all.map(i => i.getBoundingClientRect().width)")
    assert min(sizes) >= 70


def test_hidden_parts_are_filled_in(visit):
    visitor = visit()
    visitor.page.get_by_role("button", name="Let it draw one").click()
    visitor.says("EXACT_FIT")
    before = visitor.page.locator("#verdict img").evaluate_all("all => all.map(i => i.src)")
    visitor.page.get_by_role("button", name="Color", exact=True).click()
    visitor.page.locator("button.color").last.click()  # after white and black
    visitor.stroke((0.2, 0.25), (0.8, 0.25))  # above the palette
    visitor.page.wait_for_function("src => document.querySelector('#verdict img').src !== src", arg=before[0])
    visitor.says("EXACT_FIT")
    after = visitor.page.locator("#verdict img").evaluate_all("all => all.map(i => i.src)")
    assert after[0] != before[0]  # observed: light blue
    assert after[1] == before[1]  # reconstruction


def test_two_visitors_do_not_mix(visit):
    first, second = visit(), visit()
    first.page.get_by_role("button", name="Let it draw one").click()
    second.page.get_by_role("button", name="A real digit").click()
    first.says("EXACT_FIT")
    second.says("gaussian:0.2")
    second.page.get_by_text("unknown", exact=True).click()
    second.says("no noise was stated")
    first.says("EXACT_FIT")


def sockets(process):
    """What the process and its children have open to a network: (state, own address, other address)."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return [(c.status, tuple(c.laddr), tuple(c.raddr)) for p in family for c in p.net_connections(kind="inet")]


def asked(url, method, path, body=None, **headers):
    """The status of a request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse().status
    finally:
        connection.close()


def test_it_listens_on_this_machine_alone_and_ctrl_c_ends_it(tmp_path):
    rng = np.random.default_rng(0)
    model = tmp_path / "decoder.npz"
    np.savez(model, W0=rng.standard_normal((12, 4)), W1=rng.standard_normal((64, 12)), activation=["relu", "sigmoid"])
    with playing(str(model)) as (process, url):
        here = ("127.0.0.1", urlsplit(url).port)
        assert {own for state, own, _ in sockets(process) if state == "LISTEN"} == {here}
        assert {other[0] for _, _, other in sockets(process) if other} <= {"127.0.0.1"}
        assert asked(url, "GET", "/") == 200
        assert asked(url, "GET", "/", Host="evil.example") == 400
        assert asked(url, "GET", "/gradio_api/file=/etc/passwd") == 403
        question = json.dumps({"data": [0], "fn_index": 0, "session_hash": "a"})
        foreign = {"Origin": "http://evil.example", "Content_Type": "text/plain"}  # what a page may send without asking
        assert asked(url, "POST", "/gradio_api/queue/join", question, **foreign) == 422
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0
        assert err.splitlines()[-1] == "stopping"
        assert "Traceback" not in err
        with pytest.raises(ConnectionRefusedError):
            asked(url, "GET", "/")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("absent.npz",), "absent.npz"),
        (("{model}", "--model-option", "speed=1"), "--model-option speed is unknown"),
        (("mnist-relu", "--port", "{port}"), "cannot be opened: Address already in use; pass --port 0"),
    ],
)
def test_what_cannot_be_played_with_is_a_line(monkeypatch, capsys, arguments, why):
    monkeypatch.setattr("unrelu.runtime.interrupts.interruptible", lambda said: pytest.fail("the page is served"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"port": taken.getsockname()[1], "model": Path(unrelu.__file__).parent / "zoo/weights/mnist-relu.npz"}
        words = (argument.format(**known) for argument in arguments)
        monkeypatch.setattr(sys, "argv", ["unrelu", "play", *words])
        with pytest.raises(SystemExit) as end:
            main()
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert why in err
