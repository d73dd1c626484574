"""``unrelu play``: its process listens on 127.0.0.1 alone, asks nothing of anyone, and Ctrl-C ends it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from tests.playground.asking import send, seven
from tests.runs.small_runs import command
from unrelu.cli.process import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX processes")


@contextmanager
def playing(*arguments):
    """The process and the port of its page."""
    process = subprocess.Popen(command("play", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("open http://127.0.0.1:"), line or process.communicate()
        yield process, urlsplit(line.split()[1]).port
    finally:
        process.kill()
        process.communicate()


def sockets(process):
    """What the process and its children have open to a network: (state, own address, other address)."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return [(c.status, tuple(c.laddr), tuple(c.raddr)) for p in family for c in p.net_connections(kind="inet")]


@pytest.fixture
def model(tmp_path):
    """Outputs of 8 x 8 pixels, in [0, 1]."""
    rng = np.random.default_rng(0)
    path = tmp_path / "decoder.npz"
    np.savez(path, W0=rng.standard_normal((12, 4)), W1=rng.standard_normal((64, 12)), activation=["relu", "sigmoid"])
    return path


def test_it_listens_on_this_machine_alone_and_ctrl_c_ends_it(model):
    with playing(str(model)) as (process, port):
        here = ("127.0.0.1", port)
        assert [(state, own) for state, own, _ in sockets(process)] == [("LISTEN", here)]
        known = send(port, "GET", "/generators")[1]
        assert [generator["name"] for generator in known][:2] == ["decoder.npz", "mnist-relu"]
        asked = {"generator": "mnist-relu", "y": seven().ravel().tolist(), "visible": [1] * 784, "noise": None}
        asked["seconds"] = 10
        status, answer = send(port, "POST", "/invert", asked)
        assert (status, len(answer["reconstruction"])) == (200, 784)
        assert {own for state, own, _ in sockets(process) if state == "LISTEN"} == {here}
        assert {other[0] for _, _, other in sockets(process) if other} <= {"127.0.0.1"}
        process.send_signal(signal.SIGINT)  # while the other generators are being prepared
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0
        assert err.splitlines()[-1] == "stopping"
        assert "Traceback" not in err
        with pytest.raises(ConnectionRefusedError):
            send(port, "GET", "/")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("absent.npz",), "absent.npz"),
        (("{model}", "--latent-shape", "x"), "--latent-shape 'x': write whole numbers"),
        (("{model}", "--scale", "1,0"), "scale '1,0' is not LOW,HIGH: pass two finite numbers"),
        (("mnist-relu", "--port", "{port}"), "cannot be opened: Address already in use; pass --port 0"),
    ],
)
def test_what_cannot_be_played_with_is_a_line(model, monkeypatch, capsys, arguments, why):
    monkeypatch.setattr("unrelu.runtime.interrupts.interruptible", lambda said: pytest.fail("the page is served"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        named = {"model": model, "port": taken.getsockname()[1]}
        words = (argument.format(**named) for argument in arguments)
        monkeypatch.setattr(sys, "argv", ["unrelu", "play", *words])
        with pytest.raises(SystemExit) as end:
            main()
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert why in err
