"""Observations in, results out."""

from unrelu.datasets.batches import Batch, Source
from unrelu.datasets.result_folders import (
    check_own_files,
    prepare_output,
    records,
    write_certificates,
    write_records,
    write_result,
)
from unrelu.datasets.small_files import read_measurement, read_observations
from unrelu.datasets.sources import Masks, in_memory, open_masks, open_source
from unrelu.datasets.tables import FORMATS, Column, NpyTable, Table, ZarrTable, columns_of

__all__ = [
    "FORMATS",
    "Batch",
    "Column",
    "Masks",
    "NpyTable",
    "Source",
    "Table",
    "ZarrTable",
    "check_own_files",
    "columns_of",
    "in_memory",
    "open_masks",
    "open_source",
    "prepare_output",
    "read_measurement",
    "read_observations",
    "records",
    "write_certificates",
    "write_records",
    "write_result",
]
