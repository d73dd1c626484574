"""Measurements of the package against its peers: ``unrelu benchmark``.

Every number is a time or a ratio of times taken in one process on one thread, unless it says otherwise. A module here
defines a :class:`~unrelu_studies.benchmarks.benchmark.Benchmark`: its units, what one of them measures, and the tables
of the documentation that show it. To add one, write it in a file and give its name a line in :data:`BENCHMARKS`.
"""

from __future__ import annotations

# Names on the command line with their modules. Importing this table loads no heavy library.
BENCHMARKS = {
    "layers": "layer_programs.layers",
    "first_call": "processes.first_call",
    "cost": "processes.cost",
    "search": "searches.search",
    "certify": "proofs.certify",
    "startup": "processes.startup",
    "verdict": "searches.verdict",
    "hard": "searches.hard",
    "families": "searches.families",
    "large": "searches.large",
    "emulators": "measurements.emulator_fits",
    "published": "measurements.published_fits",
    "nuts": "posterior.nuts_comparison",
    "posterior": "posterior.posterior_draws",
    "prior": "searches.prior",
    "agreement": "searches.trf_restarts",
    "count_p_values": "measurements.count_p_values",
    "noise_levels": "measurements.noise_levels",
    "datasets": "processes.datasets",
    "others": "others.others",
}
# The seed of published tables. The kernels were tuned on instances of other seeds.
REPORT_SEED = 20260
