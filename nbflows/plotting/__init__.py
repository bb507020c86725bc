"""The figures of the lessons, in one style: functions that take data, draw it and return the figure."""

from nbflows import extras

with extras.explained():
    import matplotlib  # noqa: F401

from nbflows.plotting.autoregressive import (
    bits_along_paths,
    channel_correlations,
    jacobian_blocks,
    sampling_cost,
    sampling_order,
)
from nbflows.plotting.choosing import (
    bits_against_complexity,
    bits_of_kinds,
    code_lengths,
    model_overview,
    patch_orders,
    points_over_time,
    two_rankings,
)
from nbflows.plotting.comparisons import gains_with_errors, paired_gains
from nbflows.plotting.conditional import answers, context_derivatives, group_means, related_flows
from nbflows.plotting.couplings import coupling_diagram, coupling_masks, coupling_step, function_curves
from nbflows.plotting.curves import training_curve
from nbflows.plotting.density import bent_grids, contributions, densities_1d, densities_2d, density_maps
from nbflows.plotting.dequantization import (
    bound_over_draws,
    level_densities,
    noise_histogram,
    rounding_errors,
    shrinking_peaks,
)
from nbflows.plotting.glow import channel_matrices, channel_statistics, predicted_latents
from nbflows.plotting.images import image_grid, image_rows, latent_levels, reconstruction, side_by_side
from nbflows.plotting.levels import kept_pixels, level_ladder, squeeze_diagram, walk_lengths
from nbflows.plotting.mixture import (
    attention_maps,
    iteration_histogram,
    mixture_curves,
    position_codes,
    pushed_densities,
    search_steps,
)
from nbflows.plotting.noise import bin_posteriors, logit_densities, noise_spread
from nbflows.plotting.page import close, save_figures, show, use_style
from nbflows.plotting.residual import (
    activation_slopes,
    bias_over_terms,
    convergence,
    estimate_histograms,
    fixed_point_walks,
    kept_memory,
    norm_steps,
    partial_sums,
)
from nbflows.plotting.translation import (
    block_tables,
    conditional_flow_diagram,
    dependency_diagrams,
    dependency_matrices,
    over_temperature,
    scores_against_quality,
    uncertainty_maps,
)

__all__ = [
    "activation_slopes",
    "answers",
    "attention_maps",
    "bent_grids",
    "bias_over_terms",
    "bin_posteriors",
    "bits_against_complexity",
    "bits_along_paths",
    "bits_of_kinds",
    "block_tables",
    "bound_over_draws",
    "channel_correlations",
    "channel_matrices",
    "channel_statistics",
    "close",
    "code_lengths",
    "conditional_flow_diagram",
    "context_derivatives",
    "contributions",
    "convergence",
    "coupling_diagram",
    "coupling_masks",
    "coupling_step",
    "densities_1d",
    "densities_2d",
    "density_maps",
    "dependency_diagrams",
    "dependency_matrices",
    "estimate_histograms",
    "fixed_point_walks",
    "function_curves",
    "gains_with_errors",
    "group_means",
    "image_grid",
    "image_rows",
    "iteration_histogram",
    "jacobian_blocks",
    "kept_memory",
    "kept_pixels",
    "latent_levels",
    "level_densities",
    "level_ladder",
    "logit_densities",
    "mixture_curves",
    "model_overview",
    "noise_histogram",
    "noise_spread",
    "norm_steps",
    "over_temperature",
    "paired_gains",
    "partial_sums",
    "patch_orders",
    "points_over_time",
    "position_codes",
    "predicted_latents",
    "pushed_densities",
    "reconstruction",
    "related_flows",
    "rounding_errors",
    "sampling_cost",
    "sampling_order",
    "save_figures",
    "scores_against_quality",
    "search_steps",
    "show",
    "shrinking_peaks",
    "side_by_side",
    "squeeze_diagram",
    "training_curve",
    "two_rankings",
    "uncertainty_maps",
    "use_style",
    "walk_lengths",
]
