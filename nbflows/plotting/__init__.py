"""The figures of the lessons, in one style: functions that take data, draw it and return the figure."""

from nbflows.plotting.curves import training_curve
from nbflows.plotting.dequantization import noise_histogram
from nbflows.plotting.images import image_grid, image_rows, latent_levels, reconstruction, side_by_side
from nbflows.plotting.levels import kept_pixels, level_ladder, squeeze_diagram, walk_lengths
from nbflows.plotting.page import close, save_figures, show, use_style

__all__ = [
    "close",
    "image_grid",
    "image_rows",
    "kept_pixels",
    "latent_levels",
    "level_ladder",
    "noise_histogram",
    "reconstruction",
    "save_figures",
    "show",
    "side_by_side",
    "squeeze_diagram",
    "training_curve",
    "use_style",
    "walk_lengths",
]
