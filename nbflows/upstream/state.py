"""Takes a state dict apart: every tensor is used once, and every surprise is named."""

import torch
from torch import Tensor, nn


def take(state: dict[str, Tensor], key: str, keep: bool = False) -> Tensor:
    """The tensor of this key; removed from ``state`` unless ``keep``. Raises ValueError naming a missing key."""
    if key not in state:
        raise ValueError(f"missing key: {key}")
    return state[key] if keep else state.pop(key)


@torch.no_grad()
def copy(weights: dict[nn.Parameter | Tensor, Tensor], where: str) -> None:
    """Copies values into parameters and buffers. Raises ValueError naming ``where`` if a shape does not fit."""
    for parameter, weight in weights.items():
        if parameter.shape != weight.shape:
            raise ValueError(f"a weight of '{where}' is {tuple(weight.shape)}, the others say {tuple(parameter.shape)}")
        parameter.copy_(weight)


def nothing_left(state: dict[str, Tensor]) -> None:
    """Raises ValueError naming the keys that nothing has used."""
    if state:
        raise ValueError(f"{len(state)} unexpected keys: {', '.join(sorted(state)[:5])}")
