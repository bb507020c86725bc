"""Runs a function in several processes that form a group, as ``torchrun`` would start them, on the CPU."""

import functools
import multiprocessing
import os
import socket
import time
import traceback
import warnings

import torch


@functools.cache
def forkserver():
    """Starts processes that have imported what a training needs."""
    context = multiprocessing.get_context("forkserver")
    # Imported once, in a process that computes nothing: a rank then starts in milliseconds.
    context.set_forkserver_preload(["lightning", "nbflows.training", "tests.ranks"])
    return context


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(function, folder, *arguments, world_size: int = 2, seconds: float = 300, **options) -> list:
    """What ``function(*arguments, **options)`` returns on each rank; the group's address is in its environment.

    Raises:
        RuntimeError: with the traceback of each rank that raised; or not all of them have ended in so many seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    call = functools.partial(function, *arguments, **options)
    processes = [
        forkserver().Process(target=_rank, args=(call, rank, world_size, port, folder), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        late = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for rank in late:
            processes[rank].kill()
    errors = [file.read_text() for file in sorted(folder.glob("error_*"))]
    if errors or late:
        raise RuntimeError("\n".join([*errors, *(f"rank {rank} was not done after {seconds} s" for rank in late)]))
    return [torch.load(folder / f"result_{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank(call, rank, world_size, port, folder):
    if world_size > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            GROUP_RANK="0",
            WORLD_SIZE=str(world_size),
            LOCAL_WORLD_SIZE=str(world_size),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID="tests",
        )
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = call()
        torch.save(result, folder / f"result_{rank}.pt")
    except BaseException:
        (folder / f"error_{rank}").write_text(f"rank {rank}: {traceback.format_exc()}")
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
