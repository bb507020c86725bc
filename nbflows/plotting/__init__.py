"""The figures of the lessons, in one style: functions that take data, draw it and return the figure."""

from nbflows.plotting.couplings import coupling_diagram, coupling_masks, coupling_step, function_curves
from nbflows.plotting.curves import training_curve
from nbflows.plotting.density import bent_grids, contributions, densities_1d, densities_2d
from nbflows.plotting.dequantization import (
    bound_over_draws,
    level_densities,
    noise_histogram,
    rounding_errors,
    shrinking_peaks,
)
from nbflows.plotting.images import image_grid, image_rows, latent_levels, reconstruction, side_by_side
from nbflows.plotting.levels import kept_pixels, level_ladder, squeeze_diagram, walk_lengths
from nbflows.plotting.noise import bin_posteriors, logit_densities, noise_spread, paired_gains
from nbflows.plotting.page import close, save_figures, show, use_style

__all__ = [
    "bent_grids",
    "bin_posteriors",
    "bound_over_draws",
    "close",
    "contributions",
    "coupling_diagram",
    "coupling_masks",
    "coupling_step",
    "densities_1d",
    "densities_2d",
    "function_curves",
    "image_grid",
    "image_rows",
    "kept_pixels",
    "latent_levels",
    "level_densities",
    "level_ladder",
    "logit_densities",
    "noise_histogram",
    "noise_spread",
    "paired_gains",
    "reconstruction",
    "rounding_errors",
    "save_figures",
    "show",
    "shrinking_peaks",
    "side_by_side",
    "squeeze_diagram",
    "training_curve",
    "use_style",
    "walk_lengths",
]
