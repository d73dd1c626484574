"""Damaged and hostile files of every format, each read in a process that is watched.

Valid files are mutated: bytes, numbers in their fields, members of archives, values of JSON. Then come the files of
``crafted.py``. A reader has to end in an answer or in an error of unrelu's own, within 10 seconds of the processor and
500 MB of memory beyond what a header may state; it may open no file beside the one that it was given, and run nothing
in a file.

    python fuzz/files.py [--quick] [--seed N] --output FILE

What is counted: exceptions that are not unrelu's, with processes that died; peaks of resident memory; times; files
opened elsewhere, by audit events of Python and, for libraries in C, by inotify on a folder beside the file; programs,
connections and unpickled classes by audit events, and a folder that pickles would make.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import pickle
import random
import re
import resource
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Of the processor: other work on the machine does not count. What waits takes none, and is stopped after a minute.
SECONDS, HANGS = 10.0, 60.0
# Beyond the limit, as resident memory.
MEGABYTES = 500
FILES, FEW = 5000, 300
COUNTS = ("refused", "read", "foreign exceptions", "above memory", "over 10 s", "foreign reads", "code run")

# --- the process that reads -------------------------------------------------------------------------------------------

_RUNS = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
# Where the interpreter, its libraries and the system keep their own files.
_HERE = str(Path(__file__).resolve().parent.parent)
_OWN = (_HERE, sys.prefix, sys.base_prefix, "/usr", "/lib", "/etc", "/proc", "/sys", "/dev/null")
# Of inotify: opened or read; and the head of an event, whose last number is the length of the name behind it.
_OPENED, _EVENT = 0x21, struct.Struct("iIII")


class Watch:
    """What a reader opens and runs."""

    def __init__(self) -> None:
        self.allowed: str | None = None
        self.opened: list[str] = []
        self.run: list[str] = []
        sys.addaudithook(self._event)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init1(os.O_NONBLOCK)

    def _event(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if name == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith((self.allowed, *_OWN)):
                self.opened.append(path)
        elif name in _RUNS:
            self.run.append(f"{name} {arguments!r:.80}")

    def look(self, read: Callable[[Path], Any], path: Path) -> dict[str, Any]:
        """Read a file, and say how it ended."""
        outside = path.parent.parent / "outside"
        marked = self._libc.inotify_add_watch(self._inotify, os.fsencode(outside), _OPENED)
        self.opened, self.run, self.allowed = [], [], str(path.parent)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        # What asks for far more than it may is an error, and no reason for the system to end other processes. The
        # limit is of addresses, of which threads that earlier files made libraries start take 64 MiB each.
        resource.setrlimit(resource.RLIMIT_AS, (_held("VmSize") + 2**31, resource.RLIM_INFINITY))
        before, begin = _held("VmHWM"), time.process_time()
        end, error = "read", ""
        try:
            read(path)
        except Exception as caught:
            end = "refused" if type(caught).__module__ == "unrelu.errors" else "foreign exceptions"
            error = f"{type(caught).__name__}: {caught!s:.300}"
        self.allowed = None
        found = {"end": end, "error": error, "seconds": time.process_time() - begin, "peak": _held("VmHWM") - before}
        self._libc.inotify_rm_watch(self._inotify, marked)
        self.opened += [str(outside)] * self._seen()
        if (outside / "code-was-run").exists():
            self.run.append("the pickle")
        return found | {"foreign reads": self.opened, "code run": self.run}

    def _seen(self) -> bool:
        """Whether something beside the file was opened; other events are of the watch itself."""
        try:
            events = os.read(self._inotify, 2**16)
        except BlockingIOError:
            return False
        at, seen = 0, False
        while at < len(events):
            _, mask, _, length = _EVENT.unpack_from(events, at)
            seen |= bool(mask & _OPENED)
            at += _EVENT.size + length
        return seen


def control(path: Path) -> None:
    """What a reader must not do: against a fuzzer that sees nothing."""
    outside = path.parent.parent / "outside"
    descriptor = ctypes.CDLL(None).open(os.fsencode(outside / "canary"), os.O_RDONLY)
    os.read(descriptor, 1)
    os.close(descriptor)
    pickle.loads(b"\x80\x02cbuiltins\nlen\n.")


def _held(field: str) -> int:
    """Bytes of this process: VmHWM of memory, the peak; VmSize of addresses, now."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]


def read_forever() -> None:
    """Read files named on standard input, a line each, and answer with a line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from crafted import CRAFTED, READERS  # noqa: F401, PLC0415 -- takes seconds, and imports what readers need

    warnings.simplefilter("ignore")
    watch = Watch()
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        kind, path = json.loads(line)
        answers.write(json.dumps(watch.look({**READERS, "control": control}[kind], Path(path))) + "\n")
        answers.flush()


class Reader:
    """A process that reads, started again when it died or was stopped."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, kind: str, path: Path) -> dict[str, Any]:
        """How reading ended."""
        process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps([kind, str(path)]).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline() if select.select([process.stdout], [], [], HANGS)[0] else None
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        end = "over 10 s" if line is None else "foreign exceptions"
        self.close()
        error = f"the reader was stopped after {HANGS:g} s" if line is None else f"it died: {process.returncode}"
        return {"end": end, "error": error, "seconds": HANGS, "peak": 0, "foreign reads": [], "code run": []}

    def _start(self) -> subprocess.Popen[bytes]:
        from crafted import MAX_BYTES  # noqa: PLC0415

        self._process = subprocess.Popen(
            [sys.executable, __file__, "--reader"], env={**os.environ, "UNRELU_MAX_FILE_BYTES": str(MAX_BYTES)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._process.stdout
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the reader does not start; run fuzz/files.py --reader to see why")
        return self._process

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


# --- valid files ------------------------------------------------------------------------------------------------------


def seeds(folder: Path) -> dict[str, tuple[str, Path]]:
    """A small valid file of each format: what reads it, and where it is."""
    import h5py  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    import safetensors.torch  # noqa: PLC0415
    import scipy.sparse  # noqa: PLC0415
    import torch  # noqa: PLC0415
    import zarr  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    import crafted  # noqa: PLC0415 -- takes seconds
    import unrelu  # noqa: PLC0415

    y, state = crafted.Y, {"fc1.weight": torch.ones(4, 3), "fc1.bias": torch.ones(4), "fc2.weight": torch.ones(6, 4)}
    found: dict[str, tuple[str, Path]] = {}

    def add(name: str, kind: str, file: str) -> Path:
        (folder / name).mkdir()
        found[name] = (kind, folder / name / file)
        return folder / name / file

    arrays = {name.replace(".", "_"): value.numpy() for name, value in state.items()}
    np.savez_compressed(add("npz of a model", "model", "a.npz"), W0=arrays["fc1_weight"], W1=arrays["fc2_weight"])
    payne = {f"{name}_array_{i}": np.ones((4, 4)[: 1 + (name == "w")]) for i in range(2) for name in "wb"}
    np.savez(add("npz of The Payne", "model", "a.npz"), x_min=np.zeros(4), x_max=np.ones(4), **payne)
    np.savez_compressed(add("npz of an emulator", "emulator", "a.npz"), **crafted.emulator())
    np.savez(add("npz with a pickle", "emulator", "a.npz"), crafted.emulator())
    for protocol in (0, 4, 5):
        content = pickle.dumps(crafted.listed_emulator(), protocol)
        add(f"pickle of protocol {protocol}", "emulator", "a.pkl").write_bytes(content)
    torch.save(state, add("pt", "model", "a.pt"))
    safetensors.torch.save_file(state, add("safetensors", "model", "a.safetensors"))
    weights = {"w": np.ones((4, 6), np.float32), "b": np.ones(6, np.float32)}
    nodes = [crafted.helper.make_node("Gemm", ["x", "w", "b"], ["h"]), crafted.helper.make_node("Relu", ["h"], ["y"])]
    shutil.copy(crafted.graph(folder, nodes, weights), add("onnx", "model", "a.onnx"))
    np.save(add("npy", "data", "y.npy"), y)
    np.save(add("npy in Fortran order", "data", "y.npy"), np.asfortranarray(y.astype(float)))
    np.savez_compressed(add("npz", "data", "y.npz"), y=y, labels=np.arange(6))
    np.save(add("npy of a mask", "mask", "m.npy"), y > 100)
    scipy.sparse.save_npz(add("npz of a sparse operator", "operator", "a.npz"), scipy.sparse.csr_array(y[0] > 200))
    with h5py.File(add("hdf5", "data", "y.h5"), "w") as file:
        file.create_dataset("y", data=y, chunks=(2, 4, 5), compression="gzip", shuffle=True)
        file["near"] = h5py.SoftLink("/y")
    for name, options in {
        "zarr": {"chunks": (2, 4, 5)},
        "zarr of gzip": {"chunks": (2, 4, 5), "compressors": zarr.codecs.GzipCodec()},
        "zarr of blosc": {"chunks": (2, 4, 5), "compressors": zarr.codecs.BloscCodec()},
    }.items():
        zarr.create_array(str(add(name, "data", "y.zarr")), data=y, zarr_format=3, **options)  # type: ignore[arg-type]
    for ending in ("png", "jpeg"):
        Image.fromarray(y[0]).save(add(f"folder of {ending}", "data", f"a.{ending}"))
        found[f"folder of {ending}"] = ("data", folder / f"folder of {ending}")
    net = unrelu.from_arrays([np.eye(3), np.ones((4, 3))])
    certificate = unrelu.certify(net, net(np.ones(3)), np.ones(3), time_limit=5.0)
    certificate.save(add("certificate", "certificate", "c.npz"))  # type: ignore[union-attr]
    unrelu.run(net, net(np.ones((4, 3))), add("run", "run", "out"), method="lm", chunk=2, workers=1)
    return found


# --- mutations --------------------------------------------------------------------------------------------------------

_WIDE = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
_WORDS = (
    b"-1",
    b"0",
    b"99999999999999999999",
    b"1e400",
    b"NaN",
    b"null",
    b"[]",
    b"''",
    b"|O",
    b"<f4",
    b"../../x",
    b"\xff",
)
_JSON: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 1e308, 2**31, 2**62, 2**70, "", "x", "\x1b[2J", [], [[]], {}, [2**40], ["a"],
    {"name": "pickle"},
)  # fmt: skip


def mutated_bytes(draw: random.Random, content: bytes) -> bytes:
    """Some bytes, numbers or words changed, a part left out, said twice, or cut off."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        at = draw.randrange(len(changed) + 1)
        # Headers are at the ends.
        at = min(at, draw.randrange(200)) if draw.random() < 0.4 else at
        size = draw.choice((1, 2, 4, 8))
        how = draw.randrange(7)
        if how == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            number = draw.choice(_WIDE) & (2 ** (8 * size) - 1)
            changed[at : at + size] = number.to_bytes(size, draw.choice(("little", "big")))
        elif how == 2:
            changed[at : at + size] = draw.randbytes(size)
        elif how == 3:
            places = [m.span() for m in re.finditer(rb"\d+", bytes(changed[:4000]))] or [(at, at)]
            begin, end = draw.choice(places)
            changed[begin:end] = draw.choice(_WORDS)
        elif how == 4:
            del changed[at : at + draw.randrange(64)]
        elif how == 5:
            changed[at:at] = changed[at : at + draw.randrange(64)]
        elif draw.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def mutated_archive(draw: random.Random, content: bytes) -> bytes:
    """One member changed, and all written anew, so that what is inside is reached."""
    target = Path(tempfile.mkstemp(suffix=".zip")[1])
    target.write_bytes(content)
    with zipfile.ZipFile(target) as archive:
        members = {info.filename: (archive.read(info), info.compress_type) for info in archive.infolist()}
    # Of a checkpoint, the pickle says everything.
    names = [name for name in members if name.endswith("data.pkl")] * 5 + list(members)
    chosen = draw.choice(names)
    change = mutated_json if chosen.endswith(".json") else mutated_bytes
    with zipfile.ZipFile(target, "w") as archive:
        for name, (member, how) in members.items():
            archive.writestr(name, change(draw, member) if name == chosen else member, how)
    changed = target.read_bytes()
    target.unlink()
    return changed


def mutated_json(draw: random.Random, content: bytes) -> bytes:
    """A value of JSON text, or of one line, another one."""
    lines = content.decode().splitlines() or [""]
    whole = content.lstrip().startswith(b"{\n") or len(lines) == 1
    at = 0 if whole else draw.randrange(len(lines))
    table = json.loads(content if whole else lines[at])
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(value, dict | list):
                visit(value)

    visit(table)
    if not places:
        return mutated_bytes(draw, content)
    node, key = draw.choice(places)
    if isinstance(node, dict) and draw.random() < 0.15:
        del node[key]
    else:
        node[key] = draw.choice(_JSON)
    lines[at] = json.dumps(table)
    return "\n".join([lines[0]] if whole else lines).encode() + b"\n"


def mutated_png(draw: random.Random, content: bytes) -> bytes:
    """One chunk changed, its check sum right."""
    at, chunks = 8, []
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    chosen = draw.randrange(len(chunks))
    chunks[chosen] = (chunks[chosen][0], mutated_bytes(draw, chunks[chosen][1]))
    body = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return content[:8] + b"".join(body)


def mutated(draw: random.Random, path: Path) -> None:
    """Change a file, or one of a folder, at its place."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    # Metadata say everything of a store.
    file = draw.choice([f for f in files if f.name.endswith((".json", ".jsonl"))] * 3 + files)
    content = file.read_bytes()
    how = mutated_bytes
    if draw.random() < 0.6:
        if content[:4] == b"PK\x03\x04":
            how = mutated_archive
        elif file.name.endswith((".json", ".jsonl")):
            how = mutated_json
        elif content[:4] == b"\x89PNG":
            how = mutated_png
    file.write_bytes(how(draw, content))


# --- the run ----------------------------------------------------------------------------------------------------------


Case = tuple[str, str, str, Callable[[Path, Path], Path]]


def cases(draw: random.Random, count: int, base: Path) -> Iterator[Case]:
    """Format, name, what reads it, and what makes it in a folder: crafted files, then mutations, format by format."""
    import crafted  # noqa: PLC0415

    for name, (kind, _, make) in crafted.CRAFTED.items():
        yield "crafted", name, kind, make
    (base / "seeds").mkdir()
    valid = seeds(base / "seeds")
    for name, (kind, path) in valid.items():
        yield "valid", name, kind, copied(path, None)
    for i in range(count - len(crafted.CRAFTED) - len(valid)):
        name = list(valid)[i % len(valid)]
        kind, path = valid[name]
        yield name, f"{name} {i}", kind, copied(path, random.Random(draw.getrandbits(64)))


def copied(path: Path, draw: random.Random | None) -> Callable[[Path, Path], Path]:
    """What makes a copy, changed by the numbers that are drawn."""

    def make(folder: Path, canary: Path) -> Path:
        target = folder / path.name
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copy(path, target)
        if draw is not None:
            mutated(draw, target)
        return target

    return make


def fuzz(count: int, seed: int, keep: Path | None) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Read so many files.

    Returns:
        A row for each format and one for all, and what did not hold.
    """
    import crafted  # noqa: PLC0415

    rows: dict[str, dict[str, Any]] = {}
    failures: list[dict[str, str]] = []
    reader = Reader()
    check_watch(reader)
    with tempfile.TemporaryDirectory() as base:
        for i, (what, name, kind, make) in enumerate(cases(random.Random(seed), count, Path(base))):
            here = Path(base, str(i))
            (here / "named").mkdir(parents=True)
            (here / "outside").mkdir()
            (here / "outside/canary").write_bytes(bytes(range(256)) * 8)
            path = make(here / "named", here / "outside/canary")
            found = reader.read(kind, path)
            bad = judged(found, what, crafted.MAX_BYTES)
            row = rows.setdefault(what, dict.fromkeys(("tried", *COUNTS, "largest MB", "longest s"), 0))
            row["tried"] += 1
            for count_name in [found["end"]] * (found["end"] in ("read", "refused")) + bad:
                row[count_name] += 1
            row["largest MB"] = max(row["largest MB"], round(found["peak"] / 1e6))
            row["longest s"] = max(row["longest s"], round(found["seconds"], 2))
            if bad:
                failures.append({"what": what, "file": name, "failed": ", ".join(bad), "error": found["error"]})
                print(f"{name}: {', '.join(bad)}: {found['error']} {found['foreign reads']} {found['code run']}")
                if keep is not None:
                    shutil.copytree(here, keep / f"{i}", symlinks=True, dirs_exist_ok=True, ignore=_special)
            shutil.rmtree(here)
    reader.close()
    total: dict[str, Any] = {name: sum(row[name] for row in rows.values()) for name in ("tried", *COUNTS)}
    total |= {name: max(row[name] for row in rows.values()) for name in ("largest MB", "longest s")}
    return [{"what": what, **row} for what, row in (*rows.items(), ("all", total))], failures


def check_watch(reader: Reader) -> None:
    """Make sure that what is looked for would be seen."""
    with tempfile.TemporaryDirectory() as base:
        for name in ("named", "outside"):
            Path(base, name).mkdir()
            Path(base, name, "canary").write_bytes(b"canary")
        found = reader.read("control", Path(base, "named/canary"))
    if not found["foreign reads"] or not found["code run"]:
        raise RuntimeError(f"the reader is not watched; this needs Linux: {found}")


def _special(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not Path(folder, name).is_dir() and not Path(folder, name).is_file()]


def judged(found: dict[str, Any], what: str, limit: int) -> list[str]:
    """What did not hold of a file."""
    bad = [found["end"]] if found["end"] in ("foreign exceptions", "over 10 s") else []
    if found["peak"] > limit + MEGABYTES * 10**6 or "MemoryError" in found["error"]:
        bad.append("above memory")
    if found["seconds"] > SECONDS and "over 10 s" not in bad:
        bad.append("over 10 s")
    # A file that nothing is wrong with has to be read, and one made to do harm refused.
    if (what, found["end"]) in (("valid", "refused"), ("crafted", "read")):
        bad.append("foreign exceptions")
    return bad + [name for name in ("foreign reads", "code run") if found[name]]


def main() -> int:
    """The command line; 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{FEW} files in place of {FILES:,}")
    parser.add_argument("--seed", type=int, default=2026, help="of all that is drawn")
    parser.add_argument("--files", type=int, help="how many files")
    parser.add_argument("--output", type=Path, help="JSON file of the counts")
    parser.add_argument("--keep", type=Path, help="folder for the files that did not end as they should")
    parser.add_argument("--reader", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.reader:
        read_forever()
        return 0
    if asked.output is None:
        parser.error("--output is missing")
    warnings.simplefilter("ignore")
    begin = time.perf_counter()
    rows, failures = fuzz(asked.files or (FEW if asked.quick else FILES), asked.seed, asked.keep)
    seconds = round(time.perf_counter() - begin, 1)
    table = {"script": "files", "seed": asked.seed, "quick": asked.quick, "commit": commit(), "seconds": seconds}
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps({**table, "rows": rows, "failures": failures}, indent=1) + "\n")
    names = [*rows[0]]
    widths = [max(len(str(row[name])) for row in (*rows, dict(zip(names, names, strict=True)))) for name in names]
    for row in (dict(zip(names, names, strict=True)), *rows):
        print("  ".join(f"{row[name]!s:>{width}}" for name, width in zip(names, widths, strict=True)))
    return 1 if failures else 0


def commit() -> str | None:
    """Of the sources, or None outside a repository."""
    command = ["git", "-C", _HERE, "rev-parse", "--short=7", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


if __name__ == "__main__":
    sys.exit(main())
