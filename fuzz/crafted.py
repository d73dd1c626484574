"""Files made to do harm, each with the words that refuse it; the tests read them one by one, the fuzzer all together.

A file is made by a function of a folder and of a canary, a file outside of that folder which nothing may read.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import onnx
import safetensors.torch
import torch
import zarr
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, PngImagePlugin

import unrelu
from unrelu.certification.certificate import Certificate
from unrelu.cli.argument_files import read_measurement, read_observations
from unrelu.datasets.opening import open_data
from unrelu.errors import InputError
from unrelu.runs.run_folder import open_run

MAX_BYTES = 2**26
# More than that, and few bytes where it is compressed.
LARGE = MAX_BYTES + 2**20

Y = np.random.default_rng(0).integers(0, 256, (6, 4, 5)).astype(np.uint8)


class Crafted(NamedTuple):
    kind: str
    message: str
    make: Callable[[Path, Path], Path]


CRAFTED: dict[str, Crafted] = {}


def crafted(kind: str, message: str, name: str = "") -> Callable[..., Any]:
    """Keep what makes a file, by its own name or the one given, with what reads it and the message that refuses it."""

    def keep(make: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        CRAFTED[name or make.__name__] = Crafted(kind, message, make)
        return make

    return keep


# --- what reads a file of a kind --------------------------------------------------------------------------------------


def read_model(path: Path) -> None:
    unrelu.load(path, activation=None if path.suffix == ".onnx" else "relu")


def read_emulator(path: Path) -> None:
    unrelu.load(path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors name the file; of pictures, and of columns that are too large, they name the picture or the column."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_data(path: Path) -> None:
    with naming(path):
        source = open_data(path)
        _, problems = source.read(0, min(source.size, 3))
        if problems:  # a fault of one observation is told with it
            raise InputError(f"{problems}")


def read_array(path: Path) -> None:
    read_observations(path)


def read_mask(path: Path) -> None:
    read_measurement(path, None)


def read_operator(path: Path) -> None:
    read_measurement(None, path)


def read_certificate(path: Path) -> None:
    Certificate.load(path)


def read_run(path: Path) -> None:
    with naming(path):
        run = open_run(path)
        run.read("codes", 0, 1)
        run.read("status")


READERS: dict[str, Callable[[Path], Any]] = {
    "model": read_model,
    "emulator": read_emulator,
    "data": read_data,
    "array": read_array,
    "mask": read_mask,
    "operator": read_operator,
    "certificate": read_certificate,
    "run": read_run,
}


class Payload:
    """Makes a folder beside the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.target = str(canary.parent / "code-was-run")

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


# --- NumPy ------------------------------------------------------------------------------------------------------------


def header(descr: str, shape: str, version: bytes = b"\x01\x00") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


def npy(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def zipped(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


crafted("data", r"states the shape \(1000000000000, 784\) .* it is cut short or damaged", "npy_of_another_size")(
    lambda folder, _: written(folder / "y.npy", header("'<f8'", "(1000000000000, 784)") + bytes(800))
)
crafted("array", r"states the shape \(-1, 5\)", "npy_of_negative_size")(
    lambda folder, _: written(folder / "y.npy", header("'<f8'", "(-1, 5)") + bytes(800))
)
crafted(
    "array", r"states the shape \(True, 3\); a shape is at most 32 whole numbers", "npy_with_a_truth_value_for_a_size"
)(lambda folder, _: written(folder / "y.npy", header("'<f8'", "(True, 3)") + bytes(24)))
crafted("array", r"which no memory can hold", "npy_of_no_rows_that_are_endless")(
    lambda folder, _: written(folder / "y.npy", header("'<f8'", f"(0, {2**62})"))
)
crafted("array", "holds Python objects, which could run code", "npy_of_objects")(
    lambda folder, canary: written(folder / "y.npy", npy(np.array([Payload(canary)], dtype=object)))
)
crafted("array", "has entries of type", "npy_of_entries_without_bytes")(
    lambda folder, _: written(folder / "y.npy", header("'|V0'", f"({10**15},)"))
)


@crafted("array", r"as float64 has 512 MiB; at most 64 MiB are read: use unrelu.run, which reads in parts, or set")
def npy_that_is_large_as_float64(folder: Path, canary: Path) -> Path:
    with (folder / "y.npy").open("wb") as stream:
        stream.write(header("'|u1'", f"({MAX_BYTES},)"))
        stream.truncate(stream.tell() + MAX_BYTES)
    return folder / "y.npy"


@crafted("data", r"y\.npy is a folder, a pipe or a device; pass a regular file")
def npy_that_is_a_pipe(folder: Path, canary: Path) -> Path:
    os.mkfifo(folder / "y.npy")
    return folder / "y.npy"


@crafted("model", r"a\.onnx is a folder, a pipe or a device; pass a regular file")
def model_that_is_a_device(folder: Path, canary: Path) -> Path:
    (folder / "a.onnx").symlink_to("/dev/zero")
    return folder / "a.onnx"


crafted("model", r"would decompress to 65 MiB; at most 64 MiB are read: set .*UNRELU_MAX_FILE_BYTES=68", "npz_bomb")(
    lambda folder, _: zipped(folder / "a.npz", {"W0.npy": header("'|u1'", f"({LARGE},)") + bytes(LARGE)})
)
crafted("model", r"would decompress to 381.5 MiB; at most 64 MiB are read", "npz_of_20000_by_20000_zeros")(
    lambda folder, _: zeros(folder / "a.npz", "W0.npy", 20000)
)


def zeros(path: Path, name: str, rows: int) -> Path:
    """Fewer bytes than may be read of any other file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as stream:
        stream.write(header("'|u1'", f"({rows}, {rows})"))
        for _ in range(rows):
            stream.write(bytes(rows))
    return path


crafted("model", r"is compressed in another way than zlib's", "npz_of_bzip2")(
    lambda folder, _: zipped(folder / "a.npz", {"W0.npy": npy(np.zeros((2, 2)))}, zipfile.ZIP_BZIP2)
)


@crafted("model", r"W0 is not a readable \.npy array")
def npz_with_a_link(folder: Path, canary: Path) -> Path:
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        info = zipfile.ZipInfo("W0.npy")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, str(canary))
    return folder / "a.npz"


@crafted("array", r"is not a readable \.npz archive .*encrypted")
def npz_with_a_password(folder: Path, canary: Path) -> Path:
    content = bytearray(zipped(folder / "y.npz", {"y.npy": npy(Y)}).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return written(folder / "y.npz", bytes(content))


crafted("array", r"y is longer than its header states", "npz_with_more_than_an_array")(
    lambda folder, _: zipped(folder / "y.npz", {"y.npy": npy(Y) + b"more"})
)


@crafted("operator", r"is no sparse matrix of SciPy")
def sparse_matrix_with_wild_indices(folder: Path, canary: Path) -> Path:
    members = {"format": np.array(b"csr"), "shape": np.array([2, 3]), "data": np.ones(2)}
    members |= {"indices": np.array([0, 10**6]), "indptr": np.array([0, 1, 2])}
    return zipped(folder / "a.npz", {f"{name}.npy": npy(value) for name, value in members.items()})


# --- emulators and other pickles of arrays ----------------------------------------------------------------------------


def emulator(**changed: Any) -> dict[str, Any]:
    """An emulator 3 -> 4 -> 5 by the names of CosmoPower."""
    draw = np.random.default_rng(1)
    held = {"W_0": draw.normal(size=(3, 4)), "W_1": draw.normal(size=(4, 5)), "b_0": np.ones(4), "b_1": np.ones(5)}
    held |= {"alphas_0": draw.normal(size=4), "betas_0": draw.normal(size=4), "modes": np.arange(5)}
    held |= {"parameters_mean": np.zeros(3), "parameters_std": np.ones(3), "parameters": ["omega_b", "h", "n_s"]}
    return held | {"features_mean": np.zeros(5), "features_std": np.ones(5), **changed}


def listed_emulator() -> list[Any]:
    """The same as CosmoPower lists it, with two principal components in 7 modes."""
    held, moments = emulator(), [np.zeros(5), np.ones(5), np.zeros(7), np.ones(7)]
    layers = [[held[f"{name}_{i}"] for i in range(2)] for name in ("W", "b")]
    layers += [[held["alphas_0"]], [held["betas_0"]]]
    standard = [held["parameters_mean"], held["parameters_std"], *moments]
    return [*layers, *standard, held["parameters"], 3, np.arange(7), 7, 5, np.ones((5, 7)), [4], 2, [3, 4, 5]]


def pickle_of(folder: Path, value: Any, name: str = "a.pkl") -> Path:
    return written(folder / name, value if isinstance(value, bytes) else pickle.dumps(value, 4))


crafted("emulator", r"could run code: 'posix\.mkdir'; if you trust the file, save its arrays", "pickle_that_runs_code")(
    lambda folder, canary: pickle_of(folder, Payload(canary))
)
crafted("emulator", r"could run code: 'posix\.mkdir'", "archive_with_a_dictionary_that_runs_code")(
    lambda folder, canary: zipped(
        folder / "a.npz", {"arr_0.npy": npy(np.array(emulator(modes=Payload(canary)), dtype=object))}
    )
)
crafted("emulator", r"could run code: 'builtins\.getattr'", "pickle_that_reaches_for_an_attribute")(
    lambda folder, _: pickle_of(folder, b"cbuiltins\ngetattr\n(cnumpy\nload\nX\x08\x00\x00\x00__name__tR.")
)


@crafted("emulator", r"states the shape \(4000000000,\) of float64, 29.8 GiB, but holds 24 bytes")
def pickle_of_an_endless_array(folder: Path, canary: Path) -> Path:
    content = pickle.dumps(np.ones(3), 4)
    return pickle_of(folder, replaced(b"K\x03\x85", b"\x8a\x05" + (4 * 10**9).to_bytes(5, "little") + b"\x85")(content))


crafted("emulator", "not a pickle of arrays, or a truncated one", "pickle_of_an_endless_number")(
    lambda folder, _: pickle_of(folder, b"L" + b"9" * 10**6 + b"L\n.")
)
crafted("emulator", "the file holds a list, no emulator that is known", "pickle_of_very_many_lists")(
    lambda folder, _: pickle_of(folder, b"(" + b"]" * 400_000 + b"l.")
)


@crafted("emulator", "holds a dictionary twice")
def pickle_of_dictionaries_that_double(folder: Path, canary: Path) -> Path:
    value: Any = {"kernel": np.ones((2, 2))}
    for _ in range(60):
        value = {"a": value, "b": value}
    return pickle_of(folder, value)


crafted("emulator", r"holds an array called .*names have at most 1,000", "pickle_of_dictionaries_in_dictionaries")(
    lambda folder, _: pickle_of(folder, b"}" + b"X\x01\x00\x00\x00a}" * 50_000 + b"s" * 50_000 + b".")
)
crafted("emulator", "could run code: 'an array of objects'", "pickle_of_an_array_of_objects")(
    lambda folder, _: pickle_of(folder, emulator(W_0=np.full((3, 4), None)))
)
crafted("emulator", "the names of its parameters: names: .* is no name", "emulator_whose_names_steer_a_terminal")(
    lambda folder, _: pickle_of(folder, emulator(parameters=["a", "\x1b[2J", "b"]))
)


@crafted("emulator", "input_scale: std has 1 entries that are not positive")
def network_of_the_payne_without_a_range(folder: Path, canary: Path) -> Path:
    members = {
        "w_array_0": np.ones((4, 2)),
        "b_array_0": np.ones(4),
        "w_array_1": np.ones((5, 4)),
        "b_array_1": np.ones(5),
    }
    members |= {"x_min": np.zeros(2), "x_max": np.array([1.0, 0.0]), "activation": np.array("relu")}
    return zipped(folder / "a.npz", {f"{name}.npy": npy(value) for name, value in members.items()})


# --- PyTorch ----------------------------------------------------------------------------------------------------------


def saved(folder: Path, value: Any, zip_file: bool = True) -> Path:
    torch.save(value, folder / "a.pt", _use_new_zipfile_serialization=zip_file)
    return folder / "a.pt"


def repacked(path: Path, change: Callable[[bytes], bytes], how: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint with another pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return zipped(path, {n: change(c) if n.endswith("data.pkl") else c for n, c in members.items()}, how)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new)

    return change


crafted(
    "model",
    r"pickled objects other than .*, which could run code: 'posix\.mkdir'; save module\.state_dict",
    "checkpoint_that_runs_code",
)(lambda folder, canary: saved(folder, {"a.weight": torch.ones(2, 2), "b": Payload(canary)}))


@crafted("model", r"not a PyTorch file, or a truncated one .*record size")
def checkpoint_that_states_more_than_it_holds(folder: Path, canary: Path) -> Path:
    path = saved(folder, {"a.weight": torch.ones(50, 50)})
    return repacked(path, replaced(struct.pack("<H", 2500), struct.pack("<H", 65000)))


crafted(
    "model", r"its arrays take, as float64, 68.66 MiB; at most 64 MiB are read", "checkpoint_with_an_expanded_tensor"
)(lambda folder, _: saved(folder, {"a.weight": torch.ones(1).expand(3000, 3000)}))
crafted("model", r"cannot be read as numbers: .*meta tensor", "checkpoint_with_a_meta_tensor")(
    lambda folder, _: saved(folder, {"a.weight": torch.ones(3, 3, device="meta")})
)
crafted("model", r"cannot be read as numbers: .*quantized", "checkpoint_with_a_quantized_tensor")(
    lambda folder, _: saved(folder, {"a.weight": torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8)})
)


@crafted("model", r"would decompress to")
def checkpoint_bomb(folder: Path, canary: Path) -> Path:
    path = saved(folder, {"a.weight": torch.zeros(LARGE, dtype=torch.uint8)})
    return repacked(path, lambda content: content, zipfile.ZIP_DEFLATED)


crafted(
    "model", r"its arrays take, as float64, 131.2 MiB; at most 64 MiB are read", "checkpoint_that_is_large_as_float64"
)(lambda folder, _: saved(folder, {"a.weight": torch.zeros(4096, 4200, dtype=torch.int8)}))


def pickled(folder: Path, content: bytes) -> Path:
    return repacked(saved(folder, {"a.weight": torch.ones(2, 2)}), lambda _: b"\x80\x02" + content + b".")


crafted("model", r"asks for more memory than there is", "checkpoint_that_asks_for_memory")(
    lambda folder, _: pickled(
        folder, b"}K\x01c__builtin__\nbytearray\n\x8a\x05" + (10**11).to_bytes(5, "little") + b"\x85Rs"
    )
)
crafted(
    "model",
    r"not a PyTorch file, or a truncated one .*record size",
    "checkpoint_whose_record_is_that_of_another_tensor",
)(
    lambda folder, _: repacked(
        saved(folder, {"a.weight": torch.ones(10, 100), "b.weight": torch.ones(2, 2)}),
        replaced(b"X\x01\0\0\x000", b"X\x01\0\0\x001"),
    )
)


@crafted("model", "not a PyTorch file")
def checkpoint_whose_shape_is_a_list(folder: Path, canary: Path) -> Path:
    path = saved(folder, {"a.weight": torch.ones(3, 5)})
    return repacked(path, replaced(b"K\x03K\x05\x86", b"]\x8a\x05" + (10**10).to_bytes(5, "little") + b"\x86"))


@crafted("emulator", "not a pickle of arrays, or a truncated one .*LONG_BINPUT")
def pickle_of_an_endless_memo(folder: Path, canary: Path) -> Path:
    return pickle_of(folder, b"K\x01r" + (2**31 - 1).to_bytes(4, "little") + b".")


@crafted("emulator", "could run code: 'an array of objects'")
def pickle_whose_bytes_are_addresses_of_objects(folder: Path, canary: Path) -> Path:
    plain = pickle.dumps(np.arange(2), 2)
    return pickle_of(folder, replaced(b"i8", b"O8")(plain))


# --- safetensors ------------------------------------------------------------------------------------------------------


def tensors(path: Path, table: dict[str, Any], content: bytes = b"", length: int | None = None) -> Path:
    text = json.dumps(table).encode()
    return written(path, struct.pack("<Q", len(text) if length is None else length) + text + content)


crafted(
    "model", r"not a \.safetensors file, or a truncated one .*header too large", "safetensors_with_an_endless_header"
)(lambda folder, _: tensors(folder / "a.safetensors", {}, length=2**62))


@crafted("model", r"not a \.safetensors file, or a truncated one .*overflow")
def safetensors_that_states_more_than_it_holds(folder: Path, canary: Path) -> Path:
    entry = {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 2**64 - 1]}
    return tensors(folder / "a.safetensors", {"a.weight": entry}, bytes(16))


@crafted("model", r"holds an array called 'wwwww.*, with 2007 characters")
def safetensors_with_a_long_name(folder: Path, canary: Path) -> Path:
    safetensors.torch.save_file({"w" * 2000 + ".weight": torch.ones(2, 2)}, folder / "a.safetensors")
    return folder / "a.safetensors"


# --- ONNX -------------------------------------------------------------------------------------------------------------


def graph(folder: Path, nodes: list[Any], weights: dict[str, Any], functions: list[Any] | None = None) -> Path:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "n"])]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("f", 1)] if functions else [])]
    made = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(made, opset_imports=opsets, functions=functions or [], ir_version=8)
    return written(folder / "a.onnx", model.SerializeToString())


W = np.ones((4, 4), np.float32)


def external(folder: Path, location: str) -> Path:
    path = graph(folder, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W})
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return written(path, model.SerializeToString())


crafted(
    "model",
    r"tensor 'w' is in another file, '\.\./.*'; the only one that is read is a\.onnx\.data",
    "onnx_with_tensors_elsewhere",
)(lambda folder, canary: external(folder, os.path.relpath(canary, folder)))


@crafted("model", r"a\.onnx\.data, which is no link")
def onnx_with_a_link_beside_it(folder: Path, canary: Path) -> Path:
    (folder / "a.onnx.data").symlink_to(canary)
    return external(folder, "a.onnx.data")


@crafted("model", r"tensor 'k' is in another file")
def onnx_with_tensors_elsewhere_in_a_constant(folder: Path, canary: Path) -> Path:
    tensor = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=str(canary))
    nodes = [helper.make_node("Constant", [], ["k"], value=tensor), helper.make_node("Add", ["x", "k"], ["y"])]
    return graph(folder, nodes, {})


@crafted("model", r"has functions, which are not read")
def onnx_with_functions_that_double(folder: Path, canary: Path) -> Path:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    functions = []
    for i in range(40):
        call = {"op_type": "Relu"} if i == 0 else {"op_type": f"f{i - 1}", "domain": "f"}
        nodes = [
            helper.make_node(inputs=["a"], outputs=["b"], **call),
            helper.make_node(inputs=["b"], outputs=["c"], **call),
        ]
        functions.append(helper.make_function("f", f"f{i}", ["a"], ["c"], nodes, opsets))
    return graph(folder, [helper.make_node("f39", ["x"], ["y"], domain="f")], {}, functions)


# --- HDF5 -------------------------------------------------------------------------------------------------------------


@crafted("data", r"y is stored in other files, which are not read")
def hdf5_with_external_storage(folder: Path, canary: Path) -> Path:
    with h5py.File(folder / "y.h5", "w") as file:
        file.create_dataset("y", (4, 5), "u1", external=[(str(canary), 0, 20)])
    return folder / "y.h5"


@crafted("data", r"holds no arrays; say which")
def hdf5_with_an_external_link(folder: Path, canary: Path) -> Path:
    with h5py.File(folder / "y.h5", "w") as file:
        file["y"] = h5py.ExternalLink(str(canary), "/secret")
    return folder / "y.h5"


@crafted("data", r"is stored in other files, which are not read")
def hdf5_with_a_virtual_dataset(folder: Path, canary: Path) -> Path:
    layout = h5py.VirtualLayout((4, 5), "u1")
    layout[:] = h5py.VirtualSource(str(canary), "secret", (4, 5))
    with h5py.File(folder / "y.h5", "w") as file:
        file.create_virtual_dataset("y", layout)
    return folder / "y.h5"


@crafted("data", r"has chunks of 65 MiB; at most 64 MiB are read: write it in smaller ones")
def hdf5_with_large_chunks(folder: Path, canary: Path) -> Path:
    with h5py.File(folder / "y.h5", "w") as file:
        file.create_dataset("y", (LARGE, 1), "u1", chunks=(LARGE, 1), compression="gzip")
    return folder / "y.h5"


@crafted("data", r"one observation takes|keeps an observation in")
def hdf5_of_endless_observations(folder: Path, canary: Path) -> Path:
    with h5py.File(folder / "y.h5", "w") as file:
        file.create_dataset("y", (4, 10**12), "f8", chunks=(1, 2**20))
    return folder / "y.h5"


@crafted("data", r"is compressed by HDF5's filter 6")
def hdf5_with_another_filter(folder: Path, canary: Path) -> Path:
    with h5py.File(folder / "y.h5", "w") as file:
        file.create_dataset("y", data=Y, scaleoffset=0)
    return folder / "y.h5"


# --- Zarr -------------------------------------------------------------------------------------------------------------


def store(folder: Path, **options: Any) -> Path:
    zarr.create_array(str(folder / "y.zarr"), data=Y, chunks=Y.shape, zarr_format=3, **options)
    return folder / "y.zarr"


def restated(path: Path, **entries: Any) -> Path:
    table = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(table | entries))
    return path


@crafted("data", r"is a link or no file; only files in the store itself are read")
def zarr_with_a_chunk_elsewhere(folder: Path, canary: Path) -> Path:
    path = store(folder, compressors=None)
    (path / "c/0/0/0").unlink()
    (path / "c/0/0/0").symlink_to(canary)
    return path


@crafted("data", r"one observation takes|has chunks of")
def zarr_of_endless_observations(folder: Path, canary: Path) -> Path:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 10**6, 10**6]}}
    return restated(store(folder), shape=[6, 10**6, 10**6], chunk_grid=grid)


@crafted("data", r"observation in .*chunks")
def zarr_of_tiny_chunks(folder: Path, canary: Path) -> Path:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 1, 1]}}
    return restated(store(folder), shape=[6, 1000, 100], chunk_grid=grid)


# --- pictures ---------------------------------------------------------------------------------------------------------


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IEND", b"")


@crafted("data", r"a\.png takes .*; at most 64 MiB are read: set|exceeds limit")
def png_bomb(folder: Path, canary: Path) -> Path:
    written(folder / "a.png", png(9000, 9000, chunk(b"IDAT", zlib.compress(bytes(9001 * 9000), 9))))
    return folder


@crafted("data", r"cannot be read: ")
def png_with_a_bomb_in_its_text(folder: Path, canary: Path) -> Path:
    text = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK * 8), 9))
    written(folder / "a.png", png(5, 4, text, chunk(b"IDAT", zlib.compress(bytes(24)))))
    return folder


@crafted("data", r"is a link that leads out of")
def picture_elsewhere(folder: Path, canary: Path) -> Path:
    Image.fromarray(Y[0]).save(canary.parent / "other.png")
    (folder / "a.png").symlink_to(canary.parent / "other.png")
    return folder


crafted("model", r"^.{0,4500}$", "checkpoint_of_many_layers")(
    lambda folder, _: saved(folder, {f"layer{i}.weight": torch.ones(2, 3) for i in range(2000)})
)


# --- certificates and runs --------------------------------------------------------------------------------------------


@crafted("certificate", r"would decompress to")
def certificate_bomb(folder: Path, canary: Path) -> Path:
    kind = header("'<U20'", "()") + "unrelu certificate 1".encode("utf-32-le")
    return zipped(folder / "c.npz", {"format.npy": kind, "z.npy": header("'|u1'", f"({LARGE},)") + bytes(LARGE)})


def run_folder(folder: Path) -> Path:
    net = unrelu.from_arrays([np.eye(3), np.ones((4, 3))])
    return unrelu.run(net, net(np.ones((2, 3))), folder / "out", "lm", workers=1).folder


def manifest(folder: Path, **entries: Any) -> Path:
    path = run_folder(folder) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return path.parent


@crafted("run", r"codes/c/0/0 is a link that leads out of")
def run_with_codes_elsewhere(folder: Path, canary: Path) -> Path:
    codes = run_folder(folder) / "results.zarr/codes/c/0/0"
    codes.unlink()
    codes.symlink_to(canary)
    return folder / "out"


crafted(
    "run", r"manifest\.json is damaged, or of another version: TypeError\('statuses is 3'\)", "run_with_other_types"
)(lambda folder, _: manifest(folder, statuses=3))
crafted("run", r"counts '\w+', which is no status of the run", "run_with_statuses_that_nothing_names")(
    lambda folder, _: manifest(folder, statuses=[])
)


@crafted("run", r"take .* GiB; at most 64 MiB are read: read fewer at once, or set")
def run_of_endless_size(folder: Path, canary: Path) -> Path:
    data = {"size": 10**12, "shape": [4], "dtype": "float64", "resized": None, "scale": "none"}
    return manifest(folder, data=json.loads((run_folder(folder) / "manifest.json").read_text())["data"] | data)


def plain_pickle(canary: Path) -> bytes:
    return pickle.dumps({"a.weight": Payload(canary)}, protocol=2)


crafted("model", r"could run code: .posix.mkdir", "plain_pickle_that_runs_code")(
    lambda folder, canary: written(folder / "a.pt", plain_pickle(canary))
)
