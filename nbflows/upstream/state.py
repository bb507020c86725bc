"""Takes a state dict apart: every tensor is used once, and missing or unexpected keys are errors."""

import torch
from torch import Tensor, nn


def take(state: dict[str, Tensor], key: str, keep: bool = False) -> Tensor:
    """Returns the tensor of a key, and removes it unless ``keep``. Raises ValueError if it is missing."""
    if key not in state:
        raise ValueError(f"missing key: {key}")
    return state[key] if keep else state.pop(key)


@torch.no_grad()
def copy(module: nn.Module, where: str, **weights: Tensor) -> None:
    """Copies values into parameters and buffers by name. Raises ValueError naming ``where`` if a shape does not fit."""
    for name, weight in weights.items():
        parameter = getattr(module, name)
        if parameter.shape != weight.shape:
            raise ValueError(
                f"a weight of '{where}' has shape {tuple(weight.shape)}; the others need {tuple(parameter.shape)}"
            )
        parameter.copy_(weight)


def nothing_left(state: dict[str, Tensor]) -> None:
    """Raises ValueError naming the keys that were not used."""
    if state:
        raise ValueError(f"{len(state)} unexpected keys: {', '.join(sorted(state)[:5])}")
