"""Observations in, results out."""

from unrelu.stores.files import read_measurement, read_observations
from unrelu.stores.results import prepare_output, records, write_certificates, write_records, write_result

__all__ = [
    "prepare_output",
    "read_measurement",
    "read_observations",
    "records",
    "write_certificates",
    "write_records",
    "write_result",
]
