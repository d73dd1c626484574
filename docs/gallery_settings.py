"""Functions for sphinx-gallery, which takes them by their names only, as it keeps its settings in a file."""

from pathlib import Path

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

ORDER = (
    "tutorial", "denoise", "inpaint", "super_resolution", "compressed_sensing", "deblur", "outliers",
    "count_photons", "phase_retrieval", "nuisance_parameters", "fit_spectrum", "fit_light_curve",
    "fit_power_spectrum", "fit_21cm_history", "fit_planck", "sample_with_cobaya",
    "your_own_decoder", "compare_methods", "state_the_noise", "check_uniqueness",
    "few_measurements", "hidden_pixels", "sampled_too_seldom", "prove", "calibrate_confidence",
    "classify_codes", "follow_video", "data_set",
)  # fmt: skip


def position(file_name):
    """The place of an example in the gallery; ValueError for one that is not in the list."""
    return ORDER.index(Path(file_name).stem)


def figures(block, block_vars, gallery_conf):
    """Pictures of figures that pyplot does not know: what a cell assigns of ``r.plot()``."""
    names = [line.split(" = ")[0] for line in block[1].splitlines() if ".plot()" in line and " = " in line]
    found = [block_vars["example_globals"].get(name) for name in names]
    paths = []
    for figure in (each for each in found if isinstance(each, Figure)):
        paths.append(next(block_vars["image_path_iterator"]))
        figure.savefig(paths[-1], dpi=100)
    return figure_rst(paths, gallery_conf["src_dir"])
