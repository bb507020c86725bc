"""What the ranks of a training have in common: the processes that share its batches, one on each device."""

import os

import torch
from torch import Tensor

_common = torch.Generator()
_draws_alike = False


def rank_and_world_size() -> tuple[int, int]:
    """The number of this process, and how many there are: (0, 1) for one alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this process is the first rank, or alone: known before the ranks have found each other."""
    # torchrun's, Lightning's own and SLURM's.
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def sum_over_ranks(value: Tensor) -> Tensor:
    """Adds up a tensor of all ranks, in place; each of them must call this."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


def of_all_ranks(value: object) -> list:
    """The values of all ranks, in their order; each of them must call this."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return [value]
    values = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


def draw_alike(seed: int | None) -> None:
    """From now on ``common_generator`` gives the same numbers on all ranks that call this with the same seed.

    Nothing is sent, so that a rank which draws more often than others does not wait for them. None: each for itself.
    """
    global _draws_alike
    _draws_alike = seed is not None
    if seed is not None:
        _common.manual_seed(seed)


def common_generator() -> torch.Generator:
    """Of numbers on the CPU that must not differ between ranks; torch's global one outside of ``draw_alike``."""
    return _common if _draws_alike else torch.default_generator
