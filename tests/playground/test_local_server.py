"""The server: who may ask, how much, and that visitors do not meet."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.playground.asking import question, send
from unrelu import zoo
from unrelu.errors import HostError
from unrelu.playground import PictureGenerator, serving

HEAD = "POST /invert HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@pytest.fixture(scope="module")
def server():
    generator = PictureGenerator.of("mnist-relu", zoo.load("mnist-relu"), digits=zoo.observations("mnist-relu"))
    with serving([generator]) as running:
        yield running


@pytest.fixture
def ask(server):
    def call(method, path, body=None, **headers):
        return send(server.server_port, method, path, body, **headers)

    return call


def test_pages_are_a_fixed_list(ask):
    for path in ("/", "/page.css", "/page.js", "/painting.js", "/showing.js"):
        status, text = ask("GET", path)
        assert (status, len(text) > 500) == (200, True)
    assert ask("GET", "/generators")[1][0]["name"] == "mnist-relu"
    for path in ("/local_server.py", "/../local_server.py", "/static/page.html", "//etc/passwd", "/?x", "/page.js/"):
        assert ask("GET", path) == (404, {"error": "there is no such page"})
    assert ask("POST", "/", {})[0] == 404
    assert ask("DELETE", "/")[0] == 501


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Host": ""}, {"Origin": "http://evil.example"},
     {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"}],
)  # fmt: skip
def test_other_pages_may_not_ask(ask, headers):
    """A name that was pointed at this machine (DNS rebinding), and pages of elsewhere."""
    assert ask("POST", "/picture", {"generator": "mnist-relu", "kind": "sample", "index": 0}, **headers)[0] == 403


def test_this_page_may(ask, server):
    own = f"127.0.0.1:{server.server_port}"
    assert ask("GET", "/generators", Host=own, Origin=f"http://{own}")[0] == 200
    assert ask("GET", "/generators", Host="localhost:1", Origin="http://localhost:1")[0] == 200  # forwarded by ssh


def test_a_form_of_another_page_cannot_ask(ask):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert ask("POST", "/invert", "{}", Content_Type=kind)[0] == 415


def test_empty_and_huge_requests(ask, server):
    assert ask("POST", "/invert", "") == (411, {"error": "the request is empty, or does not say how long it is"})
    status, answer = ask("POST", "/invert", b"0" * 30_000_000)
    assert status == 413
    assert answer["error"].startswith("a request of 30,000,000 bytes is too large")
    for told in ("-1", "1e3", "9" * 5000, "٣"):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as raw:
            raw.sendall(HEAD.format(told).encode())
            raw.shutdown(socket.SHUT_WR)
            assert raw.recv(12).decode().startswith(("HTTP/1.0 411", "HTTP/1.0 413"))


@pytest.mark.parametrize("body", ["{", "[]", "\x00", "[" * 50_000, '{"generator": "mnist-relu"}'])
def test_what_is_no_question_is_told_so(ask, body):
    status, answer = ask("POST", "/invert", body)
    assert status == 400
    assert answer["error"]


def test_a_question_that_breaks_is_an_answer_too(ask, server, monkeypatch, capsys):
    monkeypatch.setattr(PictureGenerator, "picture", lambda *_: 1 / 0)
    status, answer = ask("POST", "/picture", {"generator": "mnist-relu", "kind": "sample", "index": 0})
    assert (status, answer) == (500, {"error": "the playground broke down on this (ZeroDivisionError)"})
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_visitors_do_not_meet(ask, server):
    generator = server.generators["mnist-relu"]

    def visit(index):
        y = ask("POST", "/picture", {"generator": "mnist-relu", "kind": "sample", "index": index})[1]["y"]
        status, answer = ask("POST", "/invert", question(generator, y))
        return status, np.abs(np.array(answer["reconstruction"]) - y).max()

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(visit, range(18)))
    assert [status for status, _ in found] == [200] * 18
    assert max(apart for _, apart in found) < 1e-6


def test_whoever_leaves_is_not_searched_for(server, monkeypatch):
    """The search that the other end has given up is told to stop."""
    left = threading.Event()

    def search(generator, request, stopped):
        for _ in range(600):
            if stopped():
                left.set()
                break
            left.wait(0.05)
        return {}

    monkeypatch.setattr("unrelu.playground._local_server.answer", search)
    body = json.dumps(question(server.generators["mnist-relu"], np.zeros(784)))
    with socket.create_connection(("127.0.0.1", server.server_port)) as raw:
        raw.sendall((HEAD.format(len(body)) + body).encode())
        assert not left.wait(0.3)
    assert left.wait(20)


def test_a_port_that_is_taken(server):
    with pytest.raises(HostError, match=r"port \d+ of 127.0.0.1 cannot be opened: .*; pass --port 0"):
        serving(list(server.generators.values()), server.server_port).__enter__()
