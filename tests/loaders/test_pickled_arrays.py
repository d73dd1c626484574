"""Pickles of arrays: what Python's own reader gives for harmless ones, and what hostile ones are refused for."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
import torch

import unrelu
from unrelu.errors import InputError, ModelFileError
from unrelu.loaders._pickled_arrays import unpickled

DRAWN = np.random.default_rng(0).normal(size=(3, 4))
HARMLESS = {
    "matrix": DRAWN,
    "single": DRAWN.astype(np.float32).T,
    "fortran": np.asfortranarray(DRAWN),
    "big endian": DRAWN.astype(">f8"),
    "integers": np.arange(3),
    "words": np.array(["a", "bcd"]),
    "bytes": np.array([b"ab"]),
    "truth": np.array([True, False]),
    "no rows": np.zeros((0, 3)),
    "no axes": np.array(3.0),
    "scalars": [np.float32(2.5), np.int64(4), np.bool_(True)],
    "numbers": [1, 2.5, True, None, -5, 10**40, 1 << 70],
    "text": ["x", "é", "\u20ac" * 300, b"yy", b""],
    "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, {"a": [1], "b": {"c": (2, [3])}}],
    "the same twice": [DRAWN, {"a": DRAWN}, DRAWN],
}


def read(content):
    return unpickled(io.BytesIO(content), len(content))


def same(one, other):
    assert isinstance(one, type(other))
    if isinstance(one, np.ndarray):
        assert (one.dtype.newbyteorder("="), one.shape) == (other.dtype.newbyteorder("="), other.shape)
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            same(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            same(*pair)
    else:
        assert one == other


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_pickles_are_what_python_reads(name, protocol):
    content = pickle.dumps(HARMLESS[name], protocol)
    same(read(content), pickle.loads(content))
    if protocol < 2:  # text, in which names may have another length
        same(read(content.replace(b"numpy._core.", b"numpy.core.")), pickle.loads(content))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_arrays_of_objects_are_their_objects(protocol):
    held = np.empty((), dtype=object)
    held[()] = {"x": DRAWN, "names": ["p", "q"]}
    same(read(pickle.dumps(held, protocol)), held.item())
    several = np.array([DRAWN, "a", None], dtype=object)
    found = read(pickle.dumps(several, protocol))
    assert found.shape == (3,)
    same(list(found), list(several))


def of_module(monkeypatch, path, value):
    """Say that a class or function is one of a module that is not installed, so that it can be pickled."""
    module, _, name = path.rpartition(".")
    parents = module.split(".")
    for i in range(1, len(parents) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parents[:i]), ModuleType(".".join(parents[:i])))
    value.__module__, value.__qualname__ = module, name
    setattr(sys.modules[module], name, value)
    return value


def test_lists_of_tensorflow_and_ordered_dictionaries(monkeypatch):
    class ListWrapper(list):
        def __reduce_ex__(self, protocol):
            return type(self), (list(self),)

    of_module(monkeypatch, "tensorflow.python.trackable.data_structures.ListWrapper", ListWrapper)
    content = pickle.dumps([ListWrapper([DRAWN]), OrderedDict(a=1)])
    same(read(content), [[DRAWN], {"a": 1}])


def test_arrays_of_jax(monkeypatch):
    """They are pickled as a function that is given what an array of NumPy is made of, and more."""
    make = of_module(monkeypatch, "jax._src.array._reconstruct_array", lambda *_: None)
    content = pickle.dumps({"w": Reduced(make, (*DRAWN.__reduce__(), {"weak_type": False}))})
    same(read(content), {"w": DRAWN})


class Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch code-was-run",)


class Reduced:
    """Pickled as a call of a function, and maybe a state."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


class Mine(np.ndarray):
    """An array class of the author."""


RECONSTRUCT, _, STATE = np.zeros(3).__reduce__()


def array(*state):
    """An array that states this shape, type, order and these entries."""
    return Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, *state))


DOUBLE = np.dtype("f8")
FOREIGN = "pickled objects other than numbers, text, lists, dictionaries and arrays, which could run code: "


@pytest.mark.parametrize("protocol", [0, 4])
@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([Runs()], FOREIGN + "'posix.system'|nt.system"),
        ({"a": Runs()}, FOREIGN),
        (os.system, FOREIGN),
        (Runs, FOREIGN + "'tests.loaders.test_pickled_arrays.Runs'"),
        ({"params": np.zeros(2).view(Mine)}, FOREIGN + "'tests.loaders.test_pickled_arrays.Mine'"),
        (complex(1, 2), FOREIGN + "'.*complex'"),
        (slice(1), FOREIGN),
        (np.zeros(2, dtype=[("a", "f4")]), "holds an array with entries of type 'V4'"),
        (np.datetime64("2020-01-01"), "holds an array with entries of type 'M8'"),
        (np.array([[None, 1]], dtype=object), FOREIGN + "'an array of objects'"),
        (array((10**9,), DOUBLE, False, bytes(8)), r"states the shape \(1000000000,\) of float64, 7.451 GiB, but"),
        (array((1, 2), DOUBLE, False, bytes(8)), r"states the shape \(1, 2\) of float64, 16 bytes, but holds 8 bytes"),
        (array((-1, -1), DOUBLE, False, bytes(8)), r"states the shape \(-1, -1\)"),
        (array((2**40, 2**40), DOUBLE, False, b""), "which no memory can hold"),
        (array((1,) * 33, DOUBLE, False, bytes(8)), "a shape is at most 32 whole numbers"),
        (array((True,), DOUBLE, False, bytes(8)), "an array without shape and type of its entries"),
        (array(3, DOUBLE, False, bytes(24)), "an array without shape and type of its entries"),
        (array((3,), "f8", False, bytes(24)), "an array without shape and type of its entries"),
        (array((3,), np.dtype("O"), False, [1, 2]), FOREIGN + "'an array of objects'"),
        (array((1,), DOUBLE, False, 3), "not a pickle of arrays"),
        (Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, 2)), "not a pickle of arrays"),
        (Reduced(np.dtype, ("f8,f8",)), "holds an array with entries of type 'f8,f8'"),
        (array((1,), np.dtype("U1"), False, b"\xff" * 4), "an array holds text with characters beyond 0x10ffff"),
        (Reduced(np.dtype, ({"names": ["a"]},)), "holds an array with entries of type {'names'"),
    ],
)  # fmt: skip
def test_everything_else_is_refused(tmp_path, monkeypatch, contents, message, protocol):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ModelFileError, InputError), match=message):
        read(pickle.dumps(contents, protocol))
    assert not (tmp_path / "code-was-run").exists()


def test_a_number_too_long_to_be_written_is_refused():
    with pytest.raises(ModelFileError, match="an unexpected LONG4"):
        read(pickle.dumps({10**5000: 1}, 4))


NAME = b"\x8c\x01a"

DAMAGED = [
    b"", b"\x80\x04", b"not a pickle", b".", b"(.", b"(\x85.", b"K\x01K\x02s.", b"K\x01K\x02a.", b"}" + NAME + b"u.",
    b"}(" + NAME + b"u.", b"h\x05.", b"Pabc\n.", b"K\x01Q.", b"\x82\x01.", b"cnumpy\ndtype\n)\x81}b.", b"]K\x01b.",
    b"\x97.", b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.",
    # Lengths far beyond the end of the file.
    b"\x8e" + (2**60).to_bytes(8, "little") + b"a.", b"\x8b" + (2**31 - 1).to_bytes(4, "little") + b"\x01.",
    b"X" + (2**32 - 1).to_bytes(4, "little") + b"a.",
    # The unpickler makes a memo of this length.
    b"K\x01r" + (2**31 - 1).to_bytes(4, "little") + b".", b"K\x01p2147483647\n.",
]  # fmt: skip
HOSTILE = [
    *((content, "'posix.system'") for content in (
        b"(cposix\nsystem\no.", b"(iposix\nsystem\n.", b"cposix\nsystem\n)\x81.", b"cposix\nsystem\n)R.",
    )),
    # Attributes of what the file names: its defaults, its code.
    (b"c_codecs\nencode\n}b.", "'attributes of _codecs.encode'"),
    (b"c_codecs\nencode\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.", "'attributes of _codecs.encode'"),
    (b"cnumpy\ndtype\n}b.", "'attributes of numpy.dtype'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [*((c, "not a pickle of arrays") for c in DAMAGED), *((c, FOREIGN + named) for c, named in HOSTILE)],
)
def test_damaged_and_hostile_opcodes(content, message):
    with pytest.raises(ModelFileError, match=message):
        read(content)


def test_a_truncated_file_is_refused_wherever_it_ends():
    content = pickle.dumps([DRAWN, {"a": (1, "text")}], 4)
    for end in range(len(content)):
        with pytest.raises((ModelFileError, InputError)):
            read(content[:end])


def test_deep_and_shared_containers_are_read_in_linear_time():
    """A list of a list of ... and one that holds the one before twice, which has 2^50 entries in all."""
    depth = 100_000
    deep = read(b"(" * depth + b"l" * depth + b".")
    assert isinstance(deep, list)
    shared = b"]" + b"".join(b"q" + bytes([i]) + b"0]h" + bytes([i]) + b"ah" + bytes([i]) + b"a" for i in range(50))
    assert len(read(shared + b".")) == 2
    del deep


def test_an_ordered_dictionary_of_python_2():
    content = b"ccollections\nOrderedDict\n((lp0\n(lp1\nS'a'\naI1\naa(lp2\nS'b'\naI2\naatR."
    assert read(content) == {"a": 1, "b": 2}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_pytorch_is_named(tmp_path, zipped):
    torch.save({"0.weight": torch.zeros(3, 2)}, tmp_path / "net.pkl", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelFileError, match=r"net\.pkl: it is a checkpoint of PyTorch; give it a name that ends in "):
        unrelu.load(tmp_path / "net.pkl")


def test_an_array_is_made_once():
    """NumPy frees the entries of an array that gets others, whoever refers to them."""
    content = pickle.dumps(array((1,), DOUBLE, False, bytes(8)), 2)
    state = pickle.dumps((1, (1,), DOUBLE, False, bytes(8)), 2)[2:-1]
    with pytest.raises(ModelFileError, match="an array is made twice"):
        read(content[:-1] + state + b"b.")


def test_bytes_are_never_objects(tmp_path):
    """A type that holds objects and says that it holds none would have NumPy take bytes of the file for addresses."""
    state = Reduced(np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0))
    for content in (array((1,), state, False, bytes(8)), array((2,), state, False, [1])):
        with pytest.raises(ModelFileError, match=FOREIGN + "'an array of objects'"):
            read(pickle.dumps(content))


def test_a_dictionary_whose_keys_are_no_words_is_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": {(1, 2): DRAWN}}))
    with pytest.raises(ModelFileError, match="holds a dictionary with a key of type tuple; name arrays by words"):
        unrelu.load(tmp_path / "a.pkl", activation="relu")


class Settings:
    """An object of the author, as trained networks of Flax have beside their weights."""

    def __init__(self):
        self.layers = [2, 3]


def test_weights_of_flax_are_read_beside_objects_of_their_author(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = {"layers_0": {"kernel": np.eye(2), "bias": np.zeros(2)}}
    for beside in (Settings(), Runs(), Settings, [Settings()]):
        found = read(pickle.dumps({"params": params, "config": beside}))
        assert found.keys() == {"params"}
        same(found["params"], params)
    assert not (tmp_path / "code-was-run").exists()
    found = read(pickle.dumps({"params": params, "activation": ["relu"], "config": Settings(), Settings(): 1}))
    assert found.keys() == {"params", "activation"}
    for wrong in ({"params": {"a": Settings()}, "config": 1}, {"weights": params, "config": Settings()}):
        with pytest.raises(ModelFileError, match=FOREIGN + "'tests.loaders.test_pickled_arrays.Settings'"):
            read(pickle.dumps(wrong))
