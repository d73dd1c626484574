"""Files of others, in a folder that the user names; none of them is part of the project."""

from __future__ import annotations

from pathlib import Path

from unrelu.errors import InputError, OptionError

# The folders of the data, with where each comes from.
SOURCES = {
    "nist_strd": "NIST Statistical Reference Datasets, www.itl.nist.gov/div898/strd/nls/nls_main.shtml",
    "sbibm": "github.com/sbi-benchmark/sbibm, sbibm/tasks/lotka_volterra/files",
    "planck2018_plik_lite": "github.com/heatherprince/planck-lite-py, data/planck2018_plik_lite",
    "binspec": "github.com/kareemelbadry/binspec, neural_nets, other_data and spectra/combined in one folder",
    "fiesta": "github.com/nuclear-multimessenger-astronomy/fiestaEM, src/fiesta/surrogates/KN/Bu2025_lc/model and"
    " examples/data/AT2017gfo.dat in one folder",
}


def data_folder(data: str | None) -> Path:
    """The folder that ``--data`` names.

    Raises:
        OptionError: none was named.
        InputError: there is no such folder.
    """
    known = "; ".join(f"{name} ({source})" for name, source in SOURCES.items())
    if data is None:
        raise OptionError(f"--data FOLDER is missing: the benchmark reads data of others there, in folders {known}")
    if not Path(data).is_dir():
        raise InputError(f"{data} is no folder; --data names one that has {known}")
    return Path(data)


def data_file(data: str | None, folder: str, name: str) -> Path:
    """A file of the data.

    Raises:
        OptionError, InputError: as :func:`data_folder`, or the file is missing.
    """
    path = data_folder(data) / folder / name
    if not path.is_file():
        raise InputError(f"{path} is missing; get it from {SOURCES[folder]}")
    return path
