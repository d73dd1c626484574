"""Other draws from the same seeds, in every process of the tests: UNRELU_TEST_SEED_SHIFT=n, see tests/conftest.py.

Python runs this file when it starts, as its folder is on PYTHONPATH then. The two functions that make random streams
get one more key for what the library draws: starts, samples, simulations, chains. What tests and studies draw stays,
their generators and observations; so do fingerprints, which are the same in all files.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder

STREAMS = "unrelu.runtime.streams"


def shifted(drawn):
    """``stream`` or ``torch_stream`` with one more key, where the library calls it."""

    def other(purpose, *keys):
        caller = sys._getframe(1).f_globals["__name__"]
        library = caller.startswith("unrelu.") and caller != STREAMS and purpose != "fingerprint"
        more = ("shifted", int(os.environ["UNRELU_TEST_SEED_SHIFT"])) if library else ()
        return drawn(purpose, *keys, *more)

    return other


class ShiftedStreams(MetaPathFinder):
    """Replaces both functions when their module is imported, before others import them by name."""

    def find_spec(self, name, path, target=None):
        if name != STREAMS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_replace(module):
            execute(module)
            module.torch_stream, module.stream = shifted(module.torch_stream), shifted(module.stream)

        spec.loader.exec_module = execute_and_replace
        return spec


if os.environ.get("UNRELU_TEST_SEED_SHIFT", "0") != "0":
    sys.meta_path.insert(0, ShiftedStreams())
