"""Lightning for a training: its trainer, the batches of each rank, and what an error or Ctrl-C says."""

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from nbflows import extras, hardware, ranks
from nbflows.data import Batches, Data
from nbflows.training import runs
from nbflows.training.callbacks import SIGNALS, AtOnce, StepsBar, Stop
from nbflows.training.steps import FlowModule

with extras.explained():
    import lightning as L
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import TensorBoardLogger


class ImageBatches(L.LightningDataModule):
    """The batches of each rank.

    Args:
        data: the data set.
        batch_size: over all ranks, for training.
        seed: seed of the order.
        paired: by split, what belongs to each image: its label or its source.
        position: training begins after this many batches of its endless stream.
    """

    def __init__(
        self, data: Data, batch_size: int, seed: int, paired: dict[str, Tensor] | None = None, position: int = 0
    ):
        super().__init__()
        self.data, self.batch_size, self.seed, self.paired = data, batch_size, seed, paired
        self.position = position

    def _batches(self, split: str, batch_size: int, shuffle: bool = False) -> Batches:
        # Lightning attaches the trainer before it asks for batches.
        trainer = cast(L.Trainer, self.trainer)
        return Batches(
            getattr(self.data, split),
            batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            paired=None if self.paired is None else self.paired[split],
            device=trainer.strategy.root_device,
        )

    def train_dataloader(self) -> "Endless":
        batches = self._batches("train", self.batch_size, shuffle=True)
        batches.position = self.position
        return Endless(batches)

    def val_dataloader(self) -> Batches:
        return self._batches("validation", max(self.batch_size, 128))


class Endless:
    """One epoch after the other: Lightning sees one long epoch, because it does not resume well between two."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        while True:
            yield from self.batches


def make_trainer(
    module: FlowModule,
    out: Path,
    callbacks: list[Callback],
    checkpoint: dict,
    precision: str,
    machines: dict,
    progress: bool,
) -> L.Trainer:
    """The trainer of a run, as ``train`` was told.

    Args:
        checkpoint: to resume from; empty for a new run.
        machines: accelerator, devices and num_nodes, as Lightning takes them.

    Raises:
        ValueError: torchrun or SLURM has started another number of processes.
    """
    accumulate = module.recipe.accumulate
    if precision == "auto":
        precision = hardware.faster_precision(machines["accelerator"], machines["devices"] * machines["num_nodes"])
    trainer = L.Trainer(
        **machines,
        precision=precision,  # pyright: ignore[reportArgumentType]
        max_epochs=-1,
        # The interval counts batches, not epochs, so that a stop in the middle of an epoch validates too.
        check_val_every_n_epoch=None,
        val_check_interval=module.steps_per_validation * accumulate,
        accumulate_grad_batches=accumulate,
        # All validation batches before the first step, if there are weights to compare with.
        num_sanity_val_steps=-1 if module.started_from and not checkpoint else 0,
        callbacks=[*callbacks, StepsBar()] if progress else callbacks,
        plugins=[AtOnce(checkpoint)],
        logger=TensorBoardLogger(out, name="tensorboard") if find_spec("tensorboard") else False,
        log_every_n_steps=module.steps_per_log,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        default_root_dir=out,
    )
    # Lightning converts the weights later, but the averaged weights are copied from them before.
    trainer.precision_plugin.convert_module(module)
    _check_launcher(trainer)
    return trainer


def fit(trainer: L.Trainer, module: FlowModule, batches: ImageBatches, out: Path, resume: bool) -> None:
    """Trains to the end of the budget, from the checkpoint of the trainer if it resumes."""
    with hardware.denormals_as_zero(), lost_ranks_explained(trainer, out), stop_explained(trainer, out):
        try:
            trainer.fit(module, batches, ckpt_path=out / runs.LAST if resume else None, weights_only=True)
        finally:
            # A training that ends within a step would leave its random numbers to whatever comes next.
            ranks.draw_alike(None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences Lightning's tips and its advice about data loaders; everything else still warns."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
            # Lightning uses functions that newer versions of torch deprecate.
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            # A dimension of size 1 may have any stride: the layouts are the same, so this costs no time.
            warnings.filterwarnings("ignore", message=r"(?s)Grad strides do not match.*grad.sizes\(\) = \[[^]]*\b1\b")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def lost_ranks_explained(trainer: L.Trainer, out: Path) -> Iterator[None]:
    """Says in the error of a rank that another one has ended, and how to go on."""
    try:
        yield
    except RuntimeError as error:
        # gloo has no exception of its own.
        if trainer.world_size == 1 or not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        raise RuntimeError(
            f"rank {trainer.global_rank} of {trainer.world_size} lost the others: one of them has ended, and may have "
            f"said why. When that is mended, {_how_to_go_on(out)} ({error})"
        ) from error


@contextlib.contextmanager
def stop_explained(trainer: L.Trainer, out: Path) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into one ``KeyboardInterrupt`` that says how to go on; restores their handlers."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    except (Stop, SystemExit) as error:
        # Before the first step Lightning handles Ctrl-C, and turns it into an exit.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if not trainer.is_global_zero:
            raise SystemExit(130) from None
        raise KeyboardInterrupt(f"stopped at step {trainer.global_step}; {_how_to_go_on(out)}") from None
    finally:
        if in_main_thread:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _how_to_go_on(out: Path) -> str:
    saved = runs.checkpoint_to_resume(out)
    return f"go on from {saved} with --resume" if saved else "start again: there is no checkpoint yet"


def _check_launcher(trainer: L.Trainer) -> None:
    # Otherwise each of several processes would train alone and write to the same folder, or wait for others.
    wanted = trainer.num_devices * trainer.num_nodes
    for launcher, kind in (("torchrun", TorchElasticEnvironment), ("SLURM", SLURMEnvironment)):
        if kind.detect():
            started = kind().world_size()
            if started != wanted:
                alone = "; to train alone in a job of SLURM, unset SLURM_NTASKS" if wanted == 1 else ""
                raise ValueError(
                    f"{launcher} has started {started} process{'es' if started > 1 else ''}, and the training needs "
                    f"{wanted}: --devices N and --num-nodes M are for N on each of M machines{alone}"
                )
            return
