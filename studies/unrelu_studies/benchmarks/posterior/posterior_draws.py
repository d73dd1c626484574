"""Whether posterior draws are right, how fast they come, and when they are refused: ``unrelu.posterior``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from unrelu_studies.benchmarks.benchmark import Benchmark, Command, Results, gathered
from unrelu_studies.benchmarks.posterior import (
    calibration,
    exact_comparison,
    hard_corner,
    laplace_deviations,
    sampling_speed,
)
from unrelu_studies.kit.markdown_tables import table
from unrelu_studies.kit.unit_runner import Unit

PARTS: dict[str, ModuleType] = {
    "exact": exact_comparison,
    "calibration": calibration,
    "speed": sampling_speed,
    "corner": hard_corner,
    "laplace": laplace_deviations,
}


def _units(command: Command) -> list[Unit]:
    return [unit for name in command.parts or PARTS for unit in PARTS[name].units(command)]


def _measure(command: Command, unit: Unit) -> Results:
    found: Results = PARTS[str(unit[0])].measure(command, *unit[1:])
    return found


def _collect(command: Command, parts: Sequence[Any]) -> Results:
    numbers = gathered(parts, *PARTS, "digits")
    return {**numbers, "calibration": calibration.summary(numbers["calibration"])}


def _controls(results: Results) -> str:
    """The exact cases that the controls pass, and their calibration."""
    head = ("sampler", "nets of two codes within the aims", "folded nets within the aims")
    return f"{table(head, exact_comparison.control_rows(results))}\n\n{calibration.controls_table(results)}"


def _measured(part: str, *renders: Callable[[Results], str]) -> Callable[[Results], str]:
    """Tables of a part, if it was run."""

    def render(results: Results) -> str:
        return "\n\n".join(show(results) for show in renders) if results[part] else "Not measured."

    return render


BENCHMARK = Benchmark(
    units=_units,
    measure=_measure,
    collect=_collect,
    parts=tuple(PARTS),
    workers=2,
    blocks={
        "posterior exact": _measured("exact", exact_comparison.exact_aims, exact_comparison.small_table),
        "posterior calibration": _measured("calibration", calibration.calibration_aims, calibration.calibration_table),
        "posterior controls": _measured("calibration", _controls),
        "posterior speed": _measured("speed", sampling_speed.speed_aims, sampling_speed.speed_table),
        "posterior corner": _measured("corner", hard_corner.corner_aims, hard_corner.corner_table),
        "posterior laplace": _measured("laplace", laplace_deviations.laplace_aims, laplace_deviations.laplace_table),
    },
)
