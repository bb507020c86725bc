"""Trains a recipe: one folder with checkpoints, log, samples and the model."""

import contextlib
import json
import logging
import math
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from nbflows import data as datasets
from nbflows import extras, files, hardware, inputs, metrics, provenance, ranks
from nbflows.compose import set_memory
from nbflows.data import Batches, Data, reading
from nbflows.flow import Flow
from nbflows.joint import JointFlow
from nbflows.nets import update_norms
from nbflows.recipes import Recipe
from nbflows.storage import weights
from nbflows.training import compiling, runs
from nbflows.training.beginnings import (
    require_same_run,
    require_same_tensors,
    require_unscored,
    say_changes,
    take_weights,
)
from nbflows.training.callbacks import (
    SIGNALS,
    AtOnce,
    AveragedWeights,
    Checkpoints,
    CompileLayers,
    DrawSamples,
    DrawTranslations,
    StepsBar,
    Stop,
    StopAfter,
)
from nbflows.training.objectives import FlowModule, JointModule, TranslationModule
from nbflows.training.runs import read_log
from nbflows.training.schedule import Budget
from nbflows.translation import TranslationFlow

with extras.explained():
    import lightning as L
    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment


@dataclass(frozen=True)
class TrainingResult:
    """What ``train`` returns.

    Attributes:
        flow: with the best averaged weights, in eval mode.
        test: its bits/dim on the test data, in float32.
        accuracy: of its classes on the test data, for a ``JointFlow``; otherwise None.
        history: one dict per logged step, as in the CSV files.
        out: folder with checkpoints, log, samples and the model.
    """

    flow: Flow
    test: metrics.BitsPerDim
    accuracy: metrics.Accuracy | None
    history: list[dict[str, float]]
    out: Path


class ImageBatches(L.LightningDataModule):
    """The batches of each rank; with ``paired`` each image with its label or its source, by split.

    Training begins behind the first ``position`` batches of its stream, which has no end.
    """

    def __init__(
        self, data: Data, batch_size: int, seed: int, paired: dict[str, Tensor] | None = None, position: int = 0
    ):
        super().__init__()
        self.data, self.batch_size, self.seed, self.paired = data, batch_size, seed, paired
        self.position = position

    def _batches(self, split: str, batch_size: int, **options) -> Batches:
        paired = None if self.paired is None else self.paired[split]
        place = {
            "rank": self.trainer.global_rank,
            "world_size": self.trainer.world_size,
            "device": self.trainer.strategy.root_device,
        }
        return Batches(getattr(self.data, split), batch_size, paired=paired, **place, **options)

    def train_dataloader(self) -> "Endless":
        batches = self._batches("train", self.batch_size, shuffle=True, seed=self.seed)
        batches.position = self.position
        return Endless(batches)

    def val_dataloader(self) -> Batches:
        return self._batches("validation", max(self.batch_size, 128))


class Endless:
    """One epoch after the other. To Lightning a training is a single epoch: it does not resume well between two."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        while True:
            yield from self.batches


def train(
    recipe: Recipe,
    data: Data | None = None,
    out: str | Path = "runs/latest",
    resume: bool = False,
    max_minutes: float | None = None,
    max_steps: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    checkpoint_seconds: float = 30,
    progress: bool = True,
    flow: Flow | None = None,
    memory: str | None = None,
    compile: bool = False,
    start_from: str | Path | None = None,
) -> TrainingResult:
    """Trains a recipe's model and keeps everything in one folder.

    ``out`` gets ``last.ckpt`` (to resume), ``best.ckpt`` (lowest validation loss), ``log/`` (CSV), ``samples/``
    (PNG), ``training_curve.png``, and the best model as ``model.safetensors`` and ``model.json``.

    Args:
        recipe: see ``nbflows.recipes``; change a setting with ``dataclasses.replace``.
        data: default: the recipe's.
        out: folder of this run.
        resume: go on from ``out``/last.ckpt, with optimiser, averaged weights, schedule and random state.
        max_minutes, max_steps: end earlier than the recipe says; in all, parts before a resume included. The learning
            rate then falls to 0 in the last quarter, see ``nbflows.training.schedule``.
        precision: of the conditioner networks, as Lightning names it: "32-true", "bf16-mixed", ...; "auto" takes the
            faster of these two, measured at the start; "32-true" on several CPUs. Coordinates and log-determinants stay
            in float32.
        device: "cpu", "cuda", "mps" or "auto".
        devices, num_nodes: how many of them.
        checkpoint_seconds: how often last.ckpt is written.
        progress: show progress bars.
        flow: a model of your own, instead of the recipe's; then only its checkpoints are saved.
        memory: what is kept for backward, see ``Sequential``: "plain" is the fastest, "invertible" takes least; None:
            as the model says, which is "plain" for those of recipes.
        compile: whether training steps run compiled layers, see ``training.compiling``; checkpoints and model are as
            without.
        start_from: a model by its name, its file or the folder of its training, whose weights training begins with;
            the optimizer is a new one.

    Ctrl-C and SIGTERM save last.ckpt after the step under way, and end in a ``KeyboardInterrupt`` that says how to go
    on.

    Raises:
        FileExistsError: ``out`` holds a run already and ``resume`` is off, or another training writes to it.
        FileNotFoundError: there is nothing to resume.
        NonFiniteError: the loss or a gradient is not finite.
        RuntimeError: ``compile`` is on, and there is no compiler.
        TypeError: ``recipe`` or ``data`` is something else.
        ValueError: the run to resume is of other data or another recipe, is done, or its checkpoint is damaged;
            ``compile`` is on, and the model has nothing to compile; the weights to start from do not fit the model or
            are of data of another form; and other settings that do not fit.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe is a Recipe, as recipes.get(name) returns one, not a {type(recipe).__name__}")
    if data is not None and not isinstance(data, Data):
        raise TypeError(f"data are a Data or ImageData, as data.load(name) returns them, not a {type(data).__name__}")
    out = Path(out)
    budgets = {"max_minutes": max_minutes, "max_steps": max_steps, "checkpoint_seconds": checkpoint_seconds}
    for name, value in {**budgets, "devices": devices, "num_nodes": num_nodes}.items():
        if value is not None:
            inputs.check(name, value)
    hardware.require(device, devices)
    if resume and start_from is not None:
        raise ValueError(f"resuming goes on with the weights of {out}: leave start_from (--start-from) away")
    with runs.lock(out):
        checkpoint = runs.begin(out, resume)
        before = checkpoint.get("run", {})
        L.seed_everything(recipe.seed, verbose=False)
        if checkpoint and not before and ranks.is_first():
            print(f"{out} is of an earlier version: whether recipe and data are those of the run is not checked")
        if data is None and before:
            data = provenance.load(before["data"], out)
        if data is None and recipe.data is None:
            raise ValueError(
                "this recipe is for images of your own: give them as data, or on the command line with --data"
            )
        data = recipe.prepare(datasets.load(recipe.data) if data is None else data)
        joint = recipe.density_weight is not None
        if joint and getattr(data, "labels", None) is None:
            raise ValueError(f"the recipe trains a classifier too, and {data.name} has no labels")
        sources = getattr(data, "sources", None)
        paired = data.labels if joint else sources
        trained_on = provenance.fingerprint(data, labelled=joint)
        if before:
            require_same_run(before, recipe, trained_on, out)
            precision = before["precision"] if precision == "auto" else precision
        batch_size = recipe.batch_size // recipe.accumulate
        steps_per_epoch = max(1, len(Batches(data.train, batch_size, shuffle=True)) // recipe.accumulate)
        budget = Budget.of(recipe, steps_per_epoch, max_steps, max_minutes)
        step, seconds = checkpoint.get("global_step", 0), checkpoint.get("seconds", 0.0)
        done = budget.done(step, seconds) >= 1
        if done:
            require_unscored(out, step, seconds, budget)
        own_model = flow is not None
        flow = flow if own_model else recipe.build(data)
        provenance.require_fit(flow, data)
        started_from = {} if start_from is None else take_weights(start_from, flow, trained_on)
        if memory is not None:
            set_memory(flow, memory)
        if compile:
            # Raises if there are none: before anything takes long.
            compiling.compilable(flow)
        if joint != isinstance(flow, JointFlow):
            raise ValueError("a recipe has a density_weight if and only if its model is a JointFlow")
        if joint and data.num_classes > flow.num_classes:
            raise ValueError(
                f"{data.name} has labels up to {data.num_classes - 1}, the model has {flow.num_classes} classes, 0 to "
                f"{flow.num_classes - 1}"
            )
        if (sources is None) == isinstance(flow, TranslationFlow):
            raise ValueError("data are pairs of source and target if and only if the model is a TranslationFlow")
        kind = JointModule if joint else FlowModule if sources is None else TranslationModule
        module = kind(flow, recipe, steps_per_epoch, budget)
        module.started_from = checkpoint.get("started_from", started_from)
        if checkpoint:
            require_same_tensors(checkpoint["current_model_state"], module.state_dict(), f"the run in {out}")
        callbacks = [
            # Before the averaged weights are swapped out again, and with the decision to stop made before it is saved.
            DrawSamples(out / "samples") if sources is None else DrawTranslations(out / "samples"),
            AveragedWeights(recipe.ema_decay),
            StopAfter(),
            Checkpoints(out, checkpoint_seconds),
            *([CompileLayers()] if compile else []),
        ]
        with quiet():
            trainer = L.Trainer(
                accelerator=device,
                devices=devices,
                num_nodes=num_nodes,
                precision=hardware.faster_precision(device, devices * num_nodes) if precision == "auto" else precision,
                max_epochs=-1,
                # In batches, not epochs: then stopping in the middle of an epoch validates too.
                check_val_every_n_epoch=None,
                val_check_interval=module.steps_per_validation * recipe.accumulate,
                accumulate_grad_batches=recipe.accumulate,
                num_sanity_val_steps=0,
                callbacks=[*callbacks, StepsBar()] if progress else callbacks,
                plugins=[AtOnce(checkpoint)],
                logger=TensorBoardLogger(out, name="tensorboard") if find_spec("tensorboard") else False,
                log_every_n_steps=min(10, steps_per_epoch),
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=progress,
                default_root_dir=out,
            )
            module.run = {"recipe": recipe.to_json(), "data": trained_on, "precision": trainer.precision}
            if before and trainer.is_global_zero:
                say_changes(before, module.run)
            # Before the averaged weights are copied from it: Lightning converts later.
            trainer.precision_plugin.convert_module(module)
            _check_launcher(trainer)
            if compile:
                compiling.require_compiler(trainer.strategy.root_device)
            # Raises if the ranks could not share a batch equally: before other processes are started.
            Batches(data.train, batch_size, shuffle=True, world_size=trainer.world_size)
            # The recipe's own data only if it was trained on them.
            name = data.origin.get("name") if data.origin else recipe.data
            details = {
                "recipe": {**asdict(recipe), "data": name if name in datasets.names() else None},
                "data": data.variant,
                "trained_on": trained_on,
                **({"started_from": module.started_from} if module.started_from else {}),
                **({} if sources is None else {"task": data.task}),
            }
            if not (own_model or resume) and trainer.is_global_zero:
                # Weights of an earlier training whose checkpoints were deleted would get this description.
                (out / "model.safetensors").unlink(missing_ok=True)
                # With it best.ckpt is a model already.
                _describe(flow, out, details)
            if not done:
                batches = ImageBatches(data, batch_size, recipe.seed, paired, position=step * recipe.accumulate)
                with hardware.denormals_as_zero(), _lost_ranks_explained(trainer, out), _stop_explained(trainer, out):
                    try:
                        trainer.fit(module, batches, ckpt_path=out / runs.LAST if resume else None, weights_only=True)
                    finally:
                        # A training that ends within a step would leave its draws to whatever comes next.
                        ranks.draw_alike(None)
                step, seconds = trainer.global_step, module.seconds
        best = runs.read_checkpoint(out / runs.BEST)
        flow = module.flow.to(trainer.strategy.root_device)
        flow.load_state_dict(runs.averaged_weights(best))
        update_norms(flow)
        loss = best["callbacks"]["Checkpoints"]["best"]
        details |= {
            "steps": step,
            "seconds": round(seconds),
            "hardware": _hardware(trainer),
            "precision": trainer.precision,
            f"validation_{module.objective}": loss if math.isfinite(loss) else None,
        }
        if trainer.is_global_zero and not own_model:
            # Before its test images are scored: that may take long, and fail.
            _save_model(flow, out, details)
        with _lost_ranks_explained(trainer, out):
            bar = progress and trainer.is_global_zero
            test_sources = None if sources is None else sources["test"]
            test = metrics.evaluate(flow, data.test, test_sources, progress=bar, shared=True)
            accuracy = metrics.accuracy(flow, data.test, data.labels["test"], shared=True) if joint else None
        if trainer.is_global_zero:
            score = {"test_bits_per_dim": test.mean, "test_standard_error": test.standard_error}
            runs.Log(out, list(score), step).write(step=step - 1, **score)
            _save_curve(read_log(out), out)
            if not own_model:
                scores = {"test_bits_per_dim": asdict(test), **({"test_accuracy": asdict(accuracy)} if joint else {})}
                weights.update_description(out, **scores)
        return TrainingResult(flow.eval(), test, accuracy, read_log(out), out)


@contextlib.contextmanager
def quiet():
    """Silences Lightning's tips and its advice about data loaders; everything else still warns."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
            # Its own use of what newer versions of torch call deprecated.
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            # A dimension of size 1 may have any stride: the layouts are the same, and so is the speed.
            warnings.filterwarnings("ignore", message=r"(?s)Grad strides do not match.*grad.sizes\(\) = \[[^]]*\b1\b")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _lost_ranks_explained(trainer, out: Path):
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
def _stop_explained(trainer, out: Path):
    """Makes one ``KeyboardInterrupt`` of Ctrl-C and SIGTERM, with how to go on; puts their handlers back."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    except (Stop, SystemExit) as error:
        # Before the first step Ctrl-C is Lightning's, which makes an exit of it.
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


def _check_launcher(trainer) -> None:
    # Otherwise each of several processes would train alone, and write to the same folder; or wait for more to come.
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


def _hardware(trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name(device)}"
    threads = trainer.world_size * torch.get_num_threads()
    return f"{threads} CPU core{'s' if threads > 1 else ''}" if device.type == "cpu" else str(device)


def _save_model(flow: Flow, out: Path, details: dict) -> None:
    if find_spec("safetensors"):
        weights.save_flow(flow, out / "model", **details)
    else:
        # load_flow then reads the weights from best.ckpt, beside this file: not those of before a resume.
        (out / "model.safetensors").unlink(missing_ok=True)
        _describe(flow, out, details)
        print("safetensors is not installed: the model stays in best.ckpt, which load_flow reads as well")


def _describe(flow: Flow, out: Path, details: dict) -> None:
    builder, arguments = flow.built_by
    files.write(out / "model.json", json.dumps({"builder": builder, "arguments": arguments, **details}).encode())


def _save_curve(history: list[dict[str, float]], out: Path) -> None:
    if not find_spec("matplotlib"):
        print("matplotlib is not installed: no training_curve.png; the figures are in log/")
        return
    from nbflows import plotting

    figure = plotting.training_curve(history)
    # As its samples: not to become data, wherever the run writes.
    figure.savefig(out / "training_curve.png", dpi=120, metadata={"Software": reading.SHEET})
    plotting.close(figure)
