"""The published checkpoints of mAR-SCF."""

import re
from typing import Any

import torch
from torch import Tensor

from nbflows import models
from nbflows.flow import Flow
from nbflows.layers import ActNorm, AffineCoupling, Conv1x1, ConvLSTMPrior, MixtureCoupling
from nbflows.nets.norm import ChannelNorm
from nbflows.upstream.state import copy, nothing_left, take


def mar_scf(state_dict: dict[str, Tensor], shape: tuple[int, int, int] = (3, 32, 32)) -> Flow:
    """Builds mAR-SCF from the authors' weights, which give all sizes but the images'.

    It keeps the authors' scaling of pixels (grey levels 1/255 apart, noise of width 1/256) to reproduce their bits/dim;
    bins without gaps would score up to 0.0056 bits/dim better.

    Args:
        state_dict: weights of the authors' ``MarScfFlow``, from a file ``marscf_<data>_<coupling>_<K>_<C>.pt``.
        shape: shape of an image.

    Raises:
        ValueError: keys are missing or unexpected, or a weight does not fit the shape.
    """
    state = dict(state_dict)
    steps = sorted(int(m[1]) for key in state if (m := re.fullmatch(r"flow\.layers\.(\d+)\.actnormlayer\.bias", key)))
    if not steps:
        raise ValueError("no flow steps in this state dict: keys 'flow.layers.N.actnormlayer...' are missing")
    flow = _build(state, steps, shape)
    # Their kinds follow from the builder, which the attributes of an nn.Module do not show.
    bijection: Any = flow.bijection
    multiscale = bijection[1]
    prefixes = iter([f"flow.layers.{number}" for number in steps])
    for level in multiscale.levels:
        layers = iter(level.layers)
        for layer in layers:
            if isinstance(layer, ActNorm):
                prefix = next(prefixes)
                _load_step(state, prefix, layer, next(layers), next(layers))
    for index, prior in enumerate(multiscale.priors):
        _load_prior(state, f"flow.c_prior.prior_list.{index}", prior)
    nothing_left(state)
    with torch.no_grad():
        # The original's pixels are centred at 0, ours start at 0: the first layer absorbs the shift.
        multiscale.levels[0][1].bias -= 0.5
    return flow


def _build(state: dict[str, Tensor], steps: list[int], shape: tuple[int, int, int]) -> Flow:
    first = f"flow.layers.{steps[0]}"
    channels = take(state, f"{first}.actnormlayer.bias", keep=True).shape[1]
    if channels != 4 * shape[0]:
        raise ValueError(f"these weights are for images of {channels // 4} channels, the shape is {shape}")
    num_scales = sum(
        bool(re.fullmatch(r"flow\.c_prior\.prior_list\.\d+\.prior_lstm\.conv_embed\.bias", k)) for k in state
    )
    if num_scales == 0 or len(steps) % num_scales:
        raise ValueError(f"{len(steps)} flow steps do not make {num_scales} levels, one for each prior")
    lstm = "flow.c_prior.prior_list.0.prior_lstm"
    sizes: dict[str, Any] = {
        "num_scales": num_scales,
        "num_steps": len(steps) // num_scales,
        "prior_channels": take(state, f"{lstm}.conv_embed.bias", keep=True).shape[0],
        "prior_layers": sum(key.startswith(f"{lstm}.lstm.weight_ih_l") for key in state),
    }
    if f"{first}.coupling.NN_net.conv1.weight" in state:
        hidden_channels = state[f"{first}.coupling.NN_net.conv1.weight"].shape[0]
        return models.mar_scf(shape, 256, "affine", hidden_channels=hidden_channels, spacing=1 / 255, **sizes)
    net = f"{first}.coupling.nn"
    outputs = take(state, f"{net}.out_conv.conv.bias", keep=True).shape[0]
    return models.mar_scf(
        shape,
        256,
        "mixlogcdf",
        hidden_channels=take(state, f"{net}.in_conv.conv.bias", keep=True).shape[0],
        num_blocks=sum(bool(re.fullmatch(re.escape(net) + r"\.mid_convs\.\d+\.norm_1\.weight", key)) for key in state),
        num_components=(outputs // (channels // 2) - 2) // 3,
        spacing=1 / 255,
        **sizes,
    )


def _load_step(state: dict[str, Tensor], prefix: str, actnorm: ActNorm, mixing: Conv1x1, coupling: Any) -> None:
    _load_actnorm(state, f"{prefix}.actnormlayer", actnorm)
    one = f"{prefix}.invert_1x1_layer"
    copy(
        {
            mixing.lower: take(state, f"{one}.l"),
            mixing.upper: take(state, f"{one}.u"),
            mixing.log_diagonal: take(state, f"{one}.log_s"),
            mixing.sign: take(state, f"{one}.sign_s"),
            # Row i of the permutation matrix picks this row of L U.
            mixing.order: take(state, f"{one}.p").argmax(1),
        },
        one,
    )
    if isinstance(coupling, AffineCoupling):
        _load_affine(state, f"{prefix}.coupling", coupling)
    else:
        _load_mixture(state, f"{prefix}.coupling", coupling)


def _load_actnorm(state: dict[str, Tensor], prefix: str, layer: ChannelNorm) -> None:
    if not take(state, f"{prefix}.is_initialized").bool().all():
        raise ValueError(f"'{prefix}' has never seen data: this is not a trained model")
    bias, log_scale = take(state, f"{prefix}.bias").flatten(), take(state, f"{prefix}.logs").flatten()
    copy({layer.bias: bias, layer.log_scale: log_scale, layer.initialized: torch.tensor(True)}, prefix)


def _load_affine(state: dict[str, Tensor], prefix: str, coupling: AffineCoupling) -> None:
    net: Any = coupling.net
    nn = f"{prefix}.NN_net"
    for i, conv in enumerate((net.first, net.second), start=1):
        copy({conv.conv.weight: take(state, f"{nn}.conv{i}.weight")}, f"{nn}.conv{i}")
        _load_actnorm(state, f"{nn}.conv{i}.actnorm", conv.norm)
    # The original interleaves shifts (even outputs) and log-scales (odd); ours are two blocks.
    channels = len(net.last.log_scale)
    order = torch.cat([torch.arange(0, channels, 2), torch.arange(1, channels, 2)])
    copy(
        {
            net.last.conv.weight: take(state, f"{nn}.conv3.weight")[order],
            net.last.conv.bias: take(state, f"{nn}.conv3.bias")[order],
            net.last.log_scale: take(state, f"{nn}.conv3.logs").flatten()[order],
        },
        f"{nn}.conv3",
    )


def _load_mixture(state: dict[str, Tensor], prefix: str, coupling: MixtureCoupling) -> None:
    net: Any = coupling.net
    nn = f"{prefix}.nn"
    _load_normalized(state, f"{nn}.in_conv.conv", net.first)
    for i, block in enumerate(net.blocks):
        mid = f"{nn}.mid_convs.{i}"
        _load_normalized(state, f"{mid}.conv.conv.conv", block.conv)
        _load_normalized(state, f"{mid}.conv.gate.conv", block.value_and_gate)
        _load_normalized(state, f"{mid}.attn.in_proj", block.attention.key_value_query)
        _load_normalized(state, f"{mid}.attn.gate", block.attention.value_and_gate)
        for name, norm in (("norm_1", block.norm), ("norm_2", block.attention_norm)):
            copy(
                {norm.weight: take(state, f"{mid}.{name}.weight"), norm.bias: take(state, f"{mid}.{name}.bias")},
                f"{mid}.{name}",
            )
    _load_normalized(state, f"{nn}.out_conv.conv", net.last)
    # A weight-normalised scalar is its length times the sign of its direction.
    length, direction = take(state, f"{nn}.rescale.weight_g"), take(state, f"{nn}.rescale.weight_v")
    bound: Any = coupling.bound
    copy({bound.limit: length * direction.sign()}, f"{nn}.rescale")


def _load_normalized(state: dict[str, Tensor], prefix: str, layer: Any) -> None:
    """Loads a layer with weight normalisation: length g and direction v."""
    norm = layer.parametrizations.weight
    weights = {norm.original0: take(state, f"{prefix}.weight_g"), norm.original1: take(state, f"{prefix}.weight_v")}
    if layer.bias is not None:
        weights[layer.bias] = take(state, f"{prefix}.bias")
    copy(weights, prefix)


def _load_prior(state: dict[str, Tensor], prefix: str, prior: ConvLSTMPrior) -> None:
    features: Any = prior.features
    for i, name in enumerate(("0", "2")):
        for part in ("weight", "bias"):
            # The original's deepest prior also has these weights, but never uses them.
            weight = take(state, f"{prefix}.z1_cond_network.{name}.{part}")
            if features is not None:
                copy({getattr(features[2 * i], part): weight}, f"{prefix}.z1_cond_network.{name}")
    lstm = f"{prefix}.prior_lstm"
    ours: Any = prior.lstm
    weights = {
        ours.embed.weight: take(state, f"{lstm}.conv_embed.weight"),
        ours.embed.bias: take(state, f"{lstm}.conv_embed.bias"),
        ours.last.weight: take(state, f"{lstm}.conv_out1.weight"),
        ours.last.bias: take(state, f"{lstm}.conv_out1.bias"),
    }
    for i, layer in enumerate(ours.layers):
        weights |= {
            layer.input_to_hidden.weight: take(state, f"{lstm}.lstm.weight_ih_l{i}"),
            layer.hidden_to_hidden.weight: take(state, f"{lstm}.lstm.weight_hh_l{i}"),
            # The original adds two biases; ours is their sum.
            layer.input_to_hidden.bias: take(state, f"{lstm}.lstm.bias_ih_l{i}")
            + take(state, f"{lstm}.lstm.bias_hh_l{i}"),
        }
    copy(weights, lstm)
