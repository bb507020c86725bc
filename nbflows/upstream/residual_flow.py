"""The published checkpoints of Residual Flows."""

import math
import re
from typing import cast

import torch
from torch import Tensor, nn

from nbflows import models
from nbflows.flow import Flow
from nbflows.layers import ActNorm, ResidualBlock
from nbflows.nets import LipSwish, update_norms
from nbflows.nets.operator_norm import OperatorNorm
from nbflows.storage.unpickle import stored_bytes
from nbflows.upstream.state import copy, nothing_left, take

# Constants and counters, not needed here, and norms, which are computed again.
_UNUSED = re.compile(r"\.(geom_p|lamb|last_n_samples|last_firmom|last_secmom|scale|spatial_dims|u|v)$")


def residual_flow(
    checkpoint: dict,
    shape: tuple[int, int, int] | None = None,
    num_grey_levels: int = 256,
    alpha: float | None = None,
    activation: str | None = None,
    coeff: float = 0.98,
    averaged: bool = True,
) -> Flow:
    """Builds a Residual Flow from its authors' weights; sizes and the order of layers are read off the tensors.

    Args:
        checkpoint: the authors' file, read by ``read_checkpoint``, or a state dict of their ``ResidualFlow``.
        shape: shape of an image. Default: square, of the size at which the norms were computed.
        num_grey_levels: grey levels; 32 for models of 5-bit images.
        alpha: shrink before the logit, see ``Logit``. Default: the authors', 2e-6 for one channel and 0.1 for three.
        activation: activation of the networks, see ``LipschitzConvNet``. Default: from the tensors or the settings.
        coeff: bound of the norms.
        averaged: use the averaged weights of the authors' file; a state dict has only one set of weights.

    Raises:
        ValueError: keys are missing or unexpected, or a weight does not fit the shape.
    """
    state = _weights(checkpoint, averaged)
    layers = _layers(state)
    if "block" not in layers.values():
        raise ValueError("no residual blocks in this state dict: keys 'transforms.N.chain.M.nnet...' are missing")
    first = next(prefix for prefix, kind in layers.items() if kind == "block")
    if f"{first}.nnet.0.weight" not in state:
        raise ValueError(f"'{first}' begins with an activation: the first block must begin with a convolution")
    shape = _image_shape(state, first) if shape is None else shape
    flow = models.residual_flow(
        shape,
        num_grey_levels,
        **_sizes(state, layers, shape),
        alpha=(2e-6 if shape[0] == 1 else 0.1) if alpha is None else alpha,
        activation=_activation(checkpoint, state) if activation is None else activation,
        coeff=coeff,
    )
    ours = [layer for layer in flow.modules() if isinstance(layer, (ResidualBlock, ActNorm))]
    kinds = ["norm" if isinstance(layer, ActNorm) else "block" for layer in ours]
    if kinds != [kind.removeprefix("end_") for kind in layers.values()]:
        raise ValueError(f"blocks and ActNorms do not alternate in this state dict: {', '.join(layers.values())}")
    for prefix, layer in zip(layers, ours, strict=True):
        if isinstance(layer, ActNorm):
            _load_norm(state, prefix, layer)
        else:
            _load_block(state, prefix, layer)
    nothing_left({key: tensor for key, tensor in state.items() if not _UNUSED.search(key)})
    # Averaged weights have other norms than the stored ones.
    update_norms(flow)
    return flow


def _weights(checkpoint: dict, averaged: bool) -> dict[str, Tensor]:
    state = dict(checkpoint.get("state_dict", checkpoint))
    if averaged and "ema" in checkpoint:
        averages = checkpoint["ema"].state["shadow_params"]
        if not averages:
            raise ValueError("this checkpoint has no averaged weights yet: load it with averaged=False")
        stored_bytes(averages)
        state |= averages
    return state


def _layers(state: dict[str, Tensor]) -> dict[str, str]:
    """Returns the kind of each layer: "block" or "norm", or "end_block" or "end_norm" in the fully connected end."""
    kinds = {}
    for key in state:
        if match := re.match(r"(transforms\.\d+\.chain\.\d+)\.(nnet\.nnet|nnet|fc_module)?", key):
            names = {"nnet.nnet": "end_block", "nnet": "block", "fc_module": "end_norm", None: "norm"}
            # A block also has constants, outside its network.
            if match[2] or key.endswith(".initialized"):
                kinds[match[1]] = names[match[2]]
    return {prefix: kinds[prefix] for prefix in sorted(kinds, key=lambda p: [int(n) for n in re.findall(r"\d+", p)])}


def _image_shape(state: dict[str, Tensor], first: str) -> tuple[int, int, int]:
    channels = take(state, f"{first}.nnet.0.weight", keep=True).shape[1]
    side = math.isqrt(take(state, f"{first}.nnet.0.v", keep=True).numel() // channels)
    return (channels, side, side) if channels in (1, 3) else (channels // 4, 2 * side, 2 * side)


def _sizes(state: dict[str, Tensor], layers: dict[str, str], shape: tuple[int, int, int]) -> dict:
    blocks = [prefix for prefix, kind in layers.items() if kind == "block"]
    end_blocks = [prefix for prefix, kind in layers.items() if kind == "end_block"]
    by_level: dict[str, list[int]] = {}
    for prefix in blocks:
        # The first convolution has index 1, but 0 in the first block, which has no activation before it.
        weight = take(state, f"{prefix}.nnet.{0 if prefix == blocks[0] else 1}.weight", keep=True)
        by_level.setdefault(prefix.split(".")[1], []).append(weight.shape[1])
    channels = [widths[0] for widths in by_level.values()]
    if channels[0] not in (shape[0], 4 * shape[0]):
        raise ValueError(f"these weights are for images of {channels[0]} channels, or a quarter; the shape is {shape}")
    sizes = {
        "num_blocks": tuple(len(widths) for widths in by_level.values()),
        "hidden_channels": state[f"{blocks[0]}.nnet.0.weight"].shape[0],
        "num_end_blocks": len(end_blocks),
        "squeeze_first": channels[0] == 4 * shape[0],
        "factor_out": len(channels) > 1 and channels[1] == 2 * channels[0],
    }
    if end_blocks:
        sizes["end_features"] = take(state, f"{end_blocks[0]}.nnet.nnet.1.weight", keep=True).shape[0]
    return sizes


def _activation(checkpoint: dict, state: dict[str, Tensor]) -> str:
    if any(key.endswith(".beta") for key in state):
        return "lipswish"
    settings = getattr(checkpoint.get("args"), "state", {})
    if "act" not in settings:
        raise ValueError("these networks have an activation without parameters: name it, for example activation='elu'")
    return settings["act"]


def _load_norm(state: dict[str, Tensor], prefix: str, layer: ActNorm) -> None:
    prefix = f"{prefix}.fc_module" if f"{prefix}.fc_module.weight" in state else prefix
    if not take(state, f"{prefix}.initialized").bool().all():
        raise ValueError(f"'{prefix}' has never seen data: this is not a trained model")
    bias, log_scale = take(state, f"{prefix}.bias"), take(state, f"{prefix}.weight")
    copy(layer, prefix, bias=bias, log_scale=log_scale, initialized=torch.tensor(True))


def _load_block(state: dict[str, Tensor], prefix: str, block: ResidualBlock) -> None:
    net = f"{prefix}.nnet.nnet" if any(key.startswith(f"{prefix}.nnet.nnet.") for key in state) else f"{prefix}.nnet"
    for i, layer in enumerate(cast(nn.Sequential, block.net.layers)):
        where = f"{net}.{i}"
        if isinstance(layer, LipSwish):
            copy(layer, where, raw=take(state, f"{where}.beta").squeeze())
        elif hasattr(layer, "parametrizations"):
            copy(layer.get_submodule("parametrizations.weight"), where, original=take(state, f"{where}.weight"))
            copy(layer, where, bias=take(state, f"{where}.bias"))
            state.pop(f"{where}.initialized", None)
            norm = cast(OperatorNorm, layer.get_submodule("parametrizations.weight.0"))
            # The state of the original's power iteration, if the images have the same size: ours continues from it.
            start = state.get(f"{where}.{'u' if norm.transposed else 'v'}")
            if start is not None and start.numel() == norm.vector.numel():
                copy(norm, where, vector=start.view_as(norm.vector))
