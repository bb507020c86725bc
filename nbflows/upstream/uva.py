"""The published weights of the UvA Deep Learning Tutorial 11."""

from typing import cast

import torch
from torch import Tensor

from nbflows import models
from nbflows.flow import Flow
from nbflows.layers import AffineCoupling
from nbflows.layers.split import Halves, Mask
from nbflows.nets import GatedConvNet
from nbflows.upstream.state import copy, nothing_left, take


def uva(state_dict: dict[str, Tensor]) -> Flow:
    """Builds an MNIST flow of the UvA Deep Learning Tutorial 11: simple, variational or multi-scale.

    The kind and all sizes are read off the tensors.

    Args:
        state_dict: weights of the tutorial's ``ImageFlow``, including masks; "state_dict" in the published files.

    Raises:
        ValueError: keys are missing or unexpected, or a mask differs from the tutorial's.
    """
    state = dict(state_dict)
    groups = _group_by_layer(state)
    noise = [key for key in groups if key.startswith("flows.0.flows.")]
    main = [key for key in groups if key not in noise]
    if not main:
        raise ValueError("no coupling layers in this state dict: keys 'flows.N.network.nn...' are missing")
    flow = _build(state, noise, main)
    layers = [layer for layer in flow.modules() if isinstance(layer, AffineCoupling)]
    for prefix, layer in zip(noise + main, layers, strict=True):
        _load_coupling(state, prefix, layer)
    nothing_left(state)
    return flow


def _group_by_layer(state: dict[str, Tensor]) -> list[str]:
    """Returns the prefixes of the couplings, in numerical order."""
    suffix = ".network.nn.0.weight"
    prefixes = [key[: -len(suffix)] for key in state if key.endswith(suffix)]
    return sorted(prefixes, key=lambda prefix: [int(part) for part in prefix.split(".") if part.isdigit()])


def _mask(state: dict[str, Tensor], prefix: str) -> Tensor:
    return take(state, f"{prefix}.mask", keep=True)


def _hidden(state: dict[str, Tensor], prefix: str) -> int:
    return state[f"{prefix}.network.nn.0.weight"].shape[0]


def _num_blocks(state: dict[str, Tensor], prefix: str) -> int:
    return sum(key.startswith(f"{prefix}.network.nn.") and key.endswith(".net.1.weight") for key in state)


def _build(state: dict[str, Tensor], noise: list[str], main: list[str]) -> Flow:
    first = _mask(state, main[0])
    height, width = first.shape[2:]
    if (height, width) == (1, 1):
        raise ValueError(f"'{main[0]}.mask' is a channel mask: the first coupling must have a checkerboard")
    shape, sizes = (1, height, width), {"num_blocks": _num_blocks(state, main[0])}
    if noise:
        sizes |= {"num_noise_couplings": len(noise), "noise_channels": _hidden(state, noise[0])}
    by_channels: dict[int, list[str]] = {}
    for prefix in main:
        mask = _mask(state, prefix)
        by_channels.setdefault(mask.shape[1], []).append(prefix)
    if list(by_channels) == [1]:
        sizes |= {"num_couplings": len(main), "hidden_channels": _hidden(state, main[0])}
        return models.variational(shape, **sizes) if noise else models.simple(shape, **sizes)
    if list(by_channels) != [1, 4, 8] or not noise:
        raise ValueError(
            f"not one of the tutorial's models: couplings with {list(by_channels)} channels, expected 1 alone, "
            "or 1, 4 and 8 with variational dequantization"
        )
    full, half, quarter = by_channels.values()
    return models.multiscale(
        shape,
        **sizes,
        num_couplings=(len(full), len(half), len(quarter)),
        hidden_channels=(_hidden(state, full[0]), _hidden(state, half[0]), _hidden(state, quarter[0])),
    )


def _load_coupling(state: dict[str, Tensor], prefix: str, layer: AffineCoupling) -> None:
    """Copies one coupling's weights; a channel mask becomes a selection of channels."""
    mask = take(state, f"{prefix}.mask").bool()[0]
    if isinstance(layer.split, Mask):
        if not torch.equal(mask, layer.split.mask):
            raise ValueError(f"'{prefix}.mask' is not the tutorial's checkerboard")
        kept = moved = torch.arange(len(mask))
    else:
        half, keep = torch.arange(len(mask)) < len(mask) // 2, cast(Halves, layer.split).keep
        if not torch.equal(mask[:, 0, 0], half if keep == "first" else ~half):
            raise ValueError(f"'{prefix}.mask' does not keep the {keep} half of the channels")
        kept, moved = mask[:, 0, 0].nonzero()[:, 0], (~mask[:, 0, 0]).nonzero()[:, 0]
    # The network's input: the kept channels, then the image in a noise coupling.
    net = cast(GatedConvNet, layer.net)
    context = torch.arange(len(mask), len(mask) + net.context_channels)
    inputs = torch.cat([kept, context])
    # The original's last convolution returns log-scales, then shifts; ours returns shifts first.
    outputs = torch.cat([len(mask) + moved, moved])
    last = 2 * len(net.blocks) + 2
    nn = f"{prefix}.network.nn"
    copy(net.first, prefix, weight=take(state, f"{nn}.0.weight")[:, inputs], bias=take(state, f"{nn}.0.bias"))
    weight, bias = take(state, f"{nn}.{last}.weight")[outputs], take(state, f"{nn}.{last}.bias")[outputs]
    copy(net.last, prefix, weight=weight, bias=bias)
    copy(layer.bound, prefix, log_limit=take(state, f"{prefix}.scaling_factor")[moved][:, None, None])
    for i, block in enumerate(net.blocks):
        for ours, name in (("conv", f"{nn}.{2 * i + 1}.net.1"), ("value_and_gate", f"{nn}.{2 * i + 1}.net.3")):
            weight, bias = take(state, f"{name}.weight"), take(state, f"{name}.bias")
            copy(block.get_submodule(ours), prefix, weight=weight, bias=bias)
        weight, bias = (take(state, f"{nn}.{2 * i + 2}.{name}").flatten() for name in ("gamma", "beta"))
        copy(block.get_submodule("norm"), prefix, weight=weight, bias=bias)
