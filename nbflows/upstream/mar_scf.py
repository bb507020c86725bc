"""The published checkpoints of mAR-SCF."""

import re
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import Module

from nbflows import models
from nbflows.bijection import Bijection
from nbflows.compose import Sequential
from nbflows.flow import Flow
from nbflows.layers import ActNorm, AffineCoupling, ConvLSTMPrior, MixtureCoupling
from nbflows.multiscale import Multiscale
from nbflows.nets import ActNormConvNet, GatedAttentionNet
from nbflows.nets.norm import ActNormAffine
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
    # The kinds of the parts follow from the builder, which the attributes of a module do not show.
    multiscale = cast(Multiscale, cast(Sequential, flow.bijection)[1])
    prefixes = iter([f"flow.layers.{number}" for number in steps])
    for level in multiscale.levels:
        layers = iter(cast(Sequential, level).layers)
        for layer in layers:
            if isinstance(layer, ActNorm):
                prefix = next(prefixes)
                _load_step(state, prefix, layer, next(layers), next(layers))
    for index, prior in enumerate(multiscale.priors):
        _load_prior(state, f"flow.c_prior.prior_list.{index}", cast(ConvLSTMPrior, prior))
    nothing_left(state)
    with torch.no_grad():
        # The original's pixels are centred at 0, ours start at 0: the first layer absorbs the shift.
        cast(ActNorm, cast(Sequential, multiscale.levels[0])[1]).bias.sub_(0.5)
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
    build = partial(
        models.mar_scf,
        shape,
        256,
        num_scales=num_scales,
        num_steps=len(steps) // num_scales,
        prior_channels=take(state, f"{lstm}.conv_embed.bias", keep=True).shape[0],
        prior_layers=sum(key.startswith(f"{lstm}.lstm.weight_ih_l") for key in state),
        spacing=1 / 255,
    )
    if f"{first}.coupling.NN_net.conv1.weight" in state:
        hidden_channels = state[f"{first}.coupling.NN_net.conv1.weight"].shape[0]
        return build(coupling="affine", hidden_channels=hidden_channels)
    net = f"{first}.coupling.nn"
    outputs = take(state, f"{net}.out_conv.conv.bias", keep=True).shape[0]
    return build(
        coupling="mixlogcdf",
        hidden_channels=take(state, f"{net}.in_conv.conv.bias", keep=True).shape[0],
        num_blocks=sum(bool(re.fullmatch(re.escape(net) + r"\.mid_convs\.\d+\.norm_1\.weight", key)) for key in state),
        num_components=(outputs // (channels // 2) - 2) // 3,
    )


def _load_step(state: dict[str, Tensor], prefix: str, actnorm: ActNorm, mixing: Bijection, coupling: Bijection) -> None:
    _load_actnorm(state, f"{prefix}.actnormlayer", actnorm)
    one = f"{prefix}.invert_1x1_layer"
    copy(
        mixing,
        one,
        lower=take(state, f"{one}.l"),
        upper=take(state, f"{one}.u"),
        log_diagonal=take(state, f"{one}.log_s"),
        sign=take(state, f"{one}.sign_s"),
        # Row i of the permutation matrix picks this row of L U.
        order=take(state, f"{one}.p").argmax(1),
    )
    if isinstance(coupling, AffineCoupling):
        _load_affine(state, f"{prefix}.coupling", coupling)
    else:
        _load_mixture(state, f"{prefix}.coupling", cast(MixtureCoupling, coupling))


def _load_actnorm(state: dict[str, Tensor], prefix: str, layer: ActNormAffine) -> None:
    if not take(state, f"{prefix}.is_initialized").bool().all():
        raise ValueError(f"'{prefix}' has never seen data: this is not a trained model")
    bias, log_scale = take(state, f"{prefix}.bias").flatten(), take(state, f"{prefix}.logs").flatten()
    copy(layer, prefix, bias=bias, log_scale=log_scale, initialized=torch.tensor(True))


def _load_affine(state: dict[str, Tensor], prefix: str, coupling: AffineCoupling) -> None:
    net = cast(ActNormConvNet, coupling.net)
    nn = f"{prefix}.NN_net"
    for i, conv in enumerate((net.first, net.second), start=1):
        copy(conv.conv, f"{nn}.conv{i}", weight=take(state, f"{nn}.conv{i}.weight"))
        _load_actnorm(state, f"{nn}.conv{i}.actnorm", conv.norm)
    # The original interleaves shifts (even outputs) and log-scales (odd); ours are two blocks.
    channels = len(net.last.log_scale)
    order = torch.cat([torch.arange(0, channels, 2), torch.arange(1, channels, 2)])
    last = f"{nn}.conv3"
    copy(net.last.conv, last, weight=take(state, f"{last}.weight")[order], bias=take(state, f"{last}.bias")[order])
    copy(net.last, last, log_scale=take(state, f"{last}.logs").flatten()[order])


def _load_mixture(state: dict[str, Tensor], prefix: str, coupling: MixtureCoupling) -> None:
    net = cast(GatedAttentionNet, coupling.net)
    nn = f"{prefix}.nn"
    _load_normalized(state, f"{nn}.in_conv.conv", net.first)
    for i, block in enumerate(net.blocks):
        mid = f"{nn}.mid_convs.{i}"
        for name, ours in (
            ("conv.conv.conv", "conv"),
            ("conv.gate.conv", "value_and_gate"),
            ("attn.in_proj", "attention.key_value_query"),
            ("attn.gate", "attention.value_and_gate"),
        ):
            _load_normalized(state, f"{mid}.{name}", block.get_submodule(ours))
        for name, ours in ((f"{mid}.norm_1", "norm"), (f"{mid}.norm_2", "attention_norm")):
            weight, bias = take(state, f"{name}.weight"), take(state, f"{name}.bias")
            copy(block.get_submodule(ours), name, weight=weight, bias=bias)
    _load_normalized(state, f"{nn}.out_conv.conv", net.last)
    # A weight-normalised scalar is its length times the sign of its direction.
    length, direction = take(state, f"{nn}.rescale.weight_g"), take(state, f"{nn}.rescale.weight_v")
    copy(coupling.bound, f"{nn}.rescale", limit=length * direction.sign())


def _load_normalized(state: dict[str, Tensor], prefix: str, layer: Module) -> None:
    """Loads a layer with weight normalisation: length g and direction v."""
    length, direction = take(state, f"{prefix}.weight_g"), take(state, f"{prefix}.weight_v")
    copy(layer.get_submodule("parametrizations.weight"), prefix, original0=length, original1=direction)
    if layer.bias is not None:
        copy(layer, prefix, bias=take(state, f"{prefix}.bias"))


def _load_prior(state: dict[str, Tensor], prefix: str, prior: ConvLSTMPrior) -> None:
    for i, name in enumerate(("0", "2")):
        for part in ("weight", "bias"):
            # The original's deepest prior also has these weights, but never uses them.
            weight = take(state, f"{prefix}.z1_cond_network.{name}.{part}")
            if prior.features is not None:
                copy(prior.features.get_submodule(str(2 * i)), f"{prefix}.z1_cond_network.{name}", **{part: weight})
    lstm = f"{prefix}.prior_lstm"
    for layer, name in ((prior.lstm.embed, f"{lstm}.conv_embed"), (prior.lstm.last, f"{lstm}.conv_out1")):
        copy(layer, lstm, weight=take(state, f"{name}.weight"), bias=take(state, f"{name}.bias"))
    for i, layer in enumerate(prior.lstm.layers):
        # The original adds two biases; ours is their sum.
        bias = take(state, f"{lstm}.lstm.bias_ih_l{i}") + take(state, f"{lstm}.lstm.bias_hh_l{i}")
        weight = take(state, f"{lstm}.lstm.weight_ih_l{i}")
        copy(layer.get_submodule("input_to_hidden"), lstm, weight=weight, bias=bias)
        copy(layer.get_submodule("hidden_to_hidden"), lstm, weight=take(state, f"{lstm}.lstm.weight_hh_l{i}"))
