"""Measurements of the package against its peers: ``unrelu benchmark``.

Every number is a time or a ratio of times taken in one process on one thread, unless it says otherwise. A module here
defines a :class:`~unrelu_studies.benchmarks.benchmark.Benchmark`: its units, what one of them measures, and the tables
of the documentation that show it. To add one, write it in a file and give its name a line in :data:`BENCHMARKS`.
"""

from __future__ import annotations

# Names on the command line with their modules. Importing this table loads no heavy library.
BENCHMARKS = {
    "layers": "layer_programs.layers",
    "layer_methods": "layer_programs.layer_methods",
    "throughput": "layer_programs.two_threads",
    "network": "layer_programs.whole_network",
    "first_call": "processes.first_call",
    "search": "searches.search",
    "certify": "proofs.certify",
    "startup": "processes.startup",
    "verdict": "searches.verdict",
    "hard": "searches.hard",
    "leaky_decoders": "searches.leaky_decoders",
    "families": "trained_decoders.families",
    "large": "large_generators.large",
    "emulators": "measurements.emulator_fits",
    "published": "measurements.published_fits",
    "nuts": "posterior.nuts_comparison",
    "recovery": "searches.recovery",
    "identifiability": "searches.told_identifiable",
    "posterior": "posterior.posterior_draws",
    "baselines": "searches.baselines",
    "prior": "searches.prior",
    "phase_retrieval": "measurements.phase_retrieval",
    "count_p_values": "measurements.count_p_values",
    "time_limit": "processes.time_limit",
    "datasets": "processes.datasets",
    "lp_forms": "layer_programs.lp_forms",
    "degenerate": "layer_programs.degenerate",
}
# The seed of published tables. The kernels were tuned on instances of other seeds.
REPORT_SEED = 20260
