"""The checkpoints of CAFLOW."""

import re
from typing import cast

import torch
from torch import Tensor

from nbflows import models
from nbflows.bijection import Bijection
from nbflows.compose import Sequential, WithContext
from nbflows.layers import ActNorm, AffineCoupling, CoarseToFine, Conv1x1, Squeeze
from nbflows.multiscale import Multiscale
from nbflows.nets import ConvNet
from nbflows.translation import TranslationFlow
from nbflows.upstream.state import copy, nothing_left, take

_RELATIONS = {
    r"model\.UnsharedConditionalFlow\.scale_flows\.\d+\.\d+\.layers\.": "unshared",
    r"model\.UnsharedConditionalFlow\.scale_flows\.\d+\.layers\.": "per-level",
    r"model\.SharedConditionalFlow\.": "shared",
}


def caflow(state_dict: dict[str, Tensor], shape: tuple[int, int, int] = (3, 64, 64)) -> TranslationFlow:
    """Builds CAFLOW, or its per-level baseline, from the authors' weights, which give all sizes but the images'.

    Decoded pixels near black and white may differ by one from the original's, which does not undo the shrink before
    the logit, as our ``Dequantize`` does.

    Args:
        state_dict: weights of the authors' Lightning module, with keys "model.rflow...", "model.tflow..." and
            "model.UnsharedConditionalFlow..." or "model.SharedConditionalFlow...".
        shape: shape of an image.

    Raises:
        ValueError: keys are missing or unexpected, or a weight does not fit the shape.
    """
    # The kernels of the squeeze are constants.
    state = {key: tensor for key, tensor in state_dict.items() if not key.endswith(".downsample_kernel")}
    relation = next((name for pattern, name in _RELATIONS.items() if any(re.match(pattern, k) for k in state)), None)
    if relation is None:
        raise ValueError("no conditional flows in this state dict: keys 'model.UnsharedConditionalFlow...' are missing")
    flow = _build(state, relation, shape)
    # The kinds of the parts follow from the builder, which the attributes of a module do not show.
    for name, part in (("rflow", cast(Sequential, flow.source.bijection)), ("tflow", flow.bijection)):
        prefix = f"model.{name}.uflow.scale_blocks"
        transform = getattr(part[0], "transform", None)
        if transform is not None:
            _load_layers(state, f"{prefix}.0.layers", transform)
        for scale, level in enumerate(cast(Multiscale, part[1]).levels, start=1):
            _load_layers(state, f"{prefix}.{scale}.layers", level)
    loaded = set()
    for i, prior in enumerate(cast(CoarseToFine, flow.bijection[-1]).priors):
        for depth, level in enumerate(cast(Multiscale, prior).levels):
            block = cast(WithContext, level).bijection
            # Blocks that levels share occur more than once.
            if block not in loaded:
                _load_layers(state, _block_name(relation, i, i + depth), block)
                loaded.add(block)
    nothing_left(state)
    return flow


def _block_name(relation: str, i: int, j: int) -> str:
    """Returns the authors' name for the layers of block j in the flow of level i, both counted from the finest."""
    if relation == "per-level":
        return f"model.UnsharedConditionalFlow.scale_flows.{i}.layers"
    if relation == "unshared":
        return f"model.UnsharedConditionalFlow.scale_flows.{i}.{j - i}.layers"
    part = f"g_I_cond_flows.{i}" if i == j else f"g_S_cond_flows.{j - 1}"
    return f"model.SharedConditionalFlow.{part}.layers"


def _build(state: dict[str, Tensor], relation: str, shape: tuple[int, int, int]) -> TranslationFlow:
    flows = "model.rflow.uflow.scale_blocks"
    found = (re.match(re.escape(flows) + r"\.(\d+)\.layers\.", key) for key in state)
    num_scales = max((int(match[1]) for match in found if match), default=0)
    if num_scales == 0:
        raise ValueError(f"no flow of the source in this state dict: keys '{flows}.N.layers...' are missing")
    channels = len(take(state, f"{flows}.1.layers.2.weight", keep=True)) // 4
    target_channels = len(take(state, "model.tflow.uflow.scale_blocks.1.layers.2.weight", keep=True)) // 4
    if target_channels != shape[0]:
        raise ValueError(f"these weights are for images of {target_channels} channels, the shape is {shape}")
    steps = _couplings(state, f"{flows}.1.layers")
    first, second = _block_name(relation, 0, 0), _block_name(relation, 0, 1)
    # Each step has two networks: the injector's and the coupling's.
    own = _couplings(state, first)
    sizes = {
        "num_scales": num_scales,
        "num_steps": len(steps),
        "num_transitions": (steps[0] - 3) // 2,
        "hidden_channels": _width(state, f"{flows}.1.layers.{steps[0]}"),
        "num_noise_steps": len(_couplings(state, f"{flows}.0.layers", required=False)),
        "num_relation_steps": len(own) // 2,
        "num_relation_transitions": (own[0] - 3) // 2,
        "relation_channels": _width(state, f"{first}.{own[0]}"),
    }
    if relation == "shared" and num_scales > 1:
        sizes["num_shared_steps"] = len(_couplings(state, second)) // 2
    # In the precision of the file, because the shift of an ActNorm is computed again.
    return models.caflow(shape, 256, channels, relation, **sizes).to(state[f"{flows}.1.layers.2.weight"].dtype)


def _couplings(state: dict[str, Tensor], prefix: str, required: bool = True) -> list[int]:
    """Returns the indices of the layers that have a network."""
    pattern = re.escape(prefix) + r"\.(\d+)\.subnet\.nn\.0\.weight"
    numbers = sorted(int(match[1]) for key in state if (match := re.fullmatch(pattern, key)))
    if required and not numbers:
        raise ValueError(f"missing key: {prefix}.N.subnet.nn.0.weight")
    return numbers


def _width(state: dict[str, Tensor], prefix: str) -> int:
    return len(take(state, f"{prefix}.subnet.nn.0.weight", keep=True))


def _load_layers(state: dict[str, Tensor], prefix: str, layers: Bijection) -> None:
    # The original's squeeze has the same index as ours.
    for number, layer in enumerate(cast(Sequential, layers).layers):
        if not isinstance(layer, Squeeze):
            _load_layer(state, f"{prefix}.{number}", layer)


def _load_layer(state: dict[str, Tensor], prefix: str, layer: Bijection) -> None:
    if isinstance(layer, ActNorm):
        log_scale, bias = (take(state, f"{prefix}.{name}").flatten() for name in ("scale", "bias"))
        copy(layer, prefix, log_scale=log_scale, bias=bias, initialized=torch.tensor(True))
        # The original shifts after it has scaled.
        with torch.no_grad():
            layer.bias.mul_((-layer.log_scale).exp())
    elif isinstance(layer, Conv1x1):
        copy(layer, prefix, weight=take(state, f"{prefix}.weight"))
    elif isinstance(layer, AffineCoupling):
        net = cast(ConvNet, layer.net)
        for number in (0, 2, 4):
            for part in ("weight", "bias"):
                weight = take(state, f"{prefix}.subnet.nn.{number}.{part}")
                # The original's first outputs are log-scales, ours are shifts.
                weight = torch.cat(weight.chunk(2)[::-1]) if number == 4 else weight
                copy(net.layers[number], f"{prefix}.subnet.nn.{number}", **{part: weight})
