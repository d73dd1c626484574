"""Check a built sdist and wheel: what is in them, and that the wheel works and is typed where nothing else of ours is.

The wheel is installed into a virtual environment that finds its dependencies in the one that this runs in.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

MIB = 2**20
# Most that may be uploaded: an accident, such as results or pictures in a folder of the source, would exceed it.
LARGEST = {"sdist": 12 * MIB, "wheel": 6 * MIB}
NEEDED = {
    "sdist": (
        "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "src/unrelu/py.typed",
        "tests/conftest.py", "studies/pyproject.toml", "docs/conf.py", "examples",
        "src/unrelu/zoo/weights/mnist-relu.npz",
    ),
    "wheel": (
        "unrelu/py.typed", "unrelu/__init__.pyi", "unrelu/adapters/__init__.pyi", "unrelu/__main__.py",
        "unrelu/zoo/weights/mnist-relu.npz", "unrelu/zoo/digits.npz", "unrelu/report/templates",
    ),
}  # fmt: skip
UNWANTED = ("__pycache__", ".pyc", ".venv", "docs/_build", ".git/")

TYPED = """
import numpy as np

import unrelu

network = unrelu.zoo.load("mnist-relu")
y = network(np.zeros(20))
result = unrelu.invert(network, y, noise=unrelu.Gaussian(0.1), time_limit=10.0)
code: np.ndarray = result.z
explained: float = result.residual("l2") + float(result.p_value)
certificate = unrelu.certify(network, y, result, noise="uniform:0.1", max_nodes=1)
"""
# What a type checker has to find: it sees no types where py.typed is missing.
MISTYPED = 'import unrelu\n\nunrelu.invert(unrelu.zoo.load("mnist-relu"), [0.0], prior="much")\n'

SMOKE = (
    ("unrelu", "--version"),
    ("python", "-m", "unrelu", "inspect", "mnist-relu"),
    ("python", "-c", "import numpy, unrelu; numpy.save('y.npy', unrelu.zoo.load('mnist-relu')(numpy.ones((2, 20))))"),
    ("unrelu", "invert", "mnist-relu", "y.npy", "-o", "out"),
    ("unrelu", "run", "mnist-relu", "y.npy", "-o", "run", "--method", "lm", "--workers", "1"),
    ("unrelu", "report", "run"),
)  # fmt: skip


def checked_names(kind: str, path: Path, names: Sequence[str]) -> None:
    """Refuse a distribution that lacks what it needs, has what it should not, or is large."""
    missing = [name for name in NEEDED[kind] if not any(n == name or n.startswith(f"{name}/") for n in names)]
    odd = [name for name in names if any(part in name for part in UNWANTED)]
    size = path.stat().st_size
    if missing or odd or size > LARGEST[kind]:
        sys.exit(f"{path}: lacks {missing}, has {odd[:5]}, {size / MIB:.1f} MiB of {LARGEST[kind] / MIB:.0f}")
    print(f"{path.name}: {len(names)} files, {size / MIB:.1f} MiB")


def environment(folder: Path, wheel: Path) -> Path:
    """A virtual environment with the wheel, and the dependencies of this one; its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    site = Path(
        subprocess.run(
            [programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
    )  # fmt: skip
    # Files named .pth in that folder are not read again, so our own editable installation stays out of sight.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return programs


def typed(programs: Path, folder: Path) -> None:
    """mypy accepts a user's script, and finds the mistake in another."""
    for text, right in ((TYPED, True), (MISTYPED, False)):
        script = folder / "script.py"
        script.write_text(text, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--python-executable",
            str(programs / "python"),
            str(script),
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if (done.returncode == 0) != right:
            sys.exit(f"mypy on\n{text}\n{done.stdout}{done.stderr}")
    print("mypy: a user's script passes, and a wrong type in it is found")


def main(folder: Path) -> None:
    """Check the one sdist and the one wheel in a folder."""
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        checked_names("sdist", sdist, [name.partition("/")[2] for name in archive.getnames()])
    with zipfile.ZipFile(wheel) as archive_of_wheel:
        checked_names("wheel", wheel, archive_of_wheel.namelist())
    with tempfile.TemporaryDirectory() as place:
        programs = environment(Path(place, "venv"), wheel.resolve())
        where = subprocess.run(
            [programs / "python", "-c", "import unrelu; print(unrelu.__file__)"],
            cwd=place, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        if not where.startswith(str(Path(place).resolve())) and not where.startswith(place):
            sys.exit(f"the wheel is not what is imported, but {where}")
        for program, *arguments in SMOKE:
            print("+", program, *arguments, flush=True)
            subprocess.run([programs / program, *arguments], cwd=place, check=True, stdout=subprocess.DEVNULL)
        typed(programs, Path(place))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
