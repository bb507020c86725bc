"""Ranks, the processes that share the batches of a training, one on each device: sums, gathering, common draws."""

import os

import torch
from torch import Tensor

_common = torch.Generator()
_draws_alike = False


def rank_and_world_size() -> tuple[int, int]:
    """Returns the index of this process and the number of processes: (0, 1) for a single one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Tells whether this process is the first or the only rank, even before the ranks are connected."""
    # The variables of torchrun, Lightning and SLURM.
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sums a tensor over all ranks, in place; every rank must call this."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


def of_all_ranks(value: object) -> list:
    """Returns the values of all ranks, in order; every rank must call this."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return [value]
    values: list[object] = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


def draw_alike(seed: int | None) -> None:
    """Seeds ``common_generator``, so that all ranks with the same seed draw the same numbers from it.

    The ranks do not communicate, so a rank that draws more often does not wait for others. None: each draws its own.
    """
    global _draws_alike
    _draws_alike = seed is not None
    if seed is not None:
        _common.manual_seed(seed)


def common_generator() -> torch.Generator:
    """Returns the generator for CPU draws that must agree across ranks; outside ``draw_alike``, torch's default."""
    return _common if _draws_alike else torch.default_generator
