"""Trains a flow with Lightning: the loss, the schedule, averaged weights, checkpoints that survive a kill."""

import contextlib
import json
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows import (
    compiling,
    extras,
    hardware,
    inputs,
    metrics,
    pretrained,
    provenance,
    ranks,
    reading,
    recipes,
    runs,
    weights,
)
from nbflows import data as datasets
from nbflows.bijection import set_memory
from nbflows.callbacks import (
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
from nbflows.data import Batches, Data
from nbflows.flow import Flow
from nbflows.joint import JointFlow
from nbflows.nets import update_norms
from nbflows.pictures import num_levels_of
from nbflows.recipes import Recipe
from nbflows.runs import read_log
from nbflows.schedule import Budget, learning_rate_factor
from nbflows.translation import TranslationFlow

with extras.explained():
    import lightning as L
    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
    from lightning.pytorch.utilities.rank_zero import rank_zero_only  # noqa: F401


class NonFiniteError(RuntimeError):
    """The loss or a gradient is no longer a number; the message says where it happened first."""


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


class FlowModule(L.LightningModule):
    """Maximum likelihood training of a flow: minimises mean bits/dim.

    Where the flow has Lipschitz constants to keep, they are refreshed after every step.

    Args:
        flow: the model.
        recipe: learning rate, schedule and clipping.
        steps_per_epoch: after which the recipe's learning rate decays.
        budget: which ends the training, and to which the learning rate falls; None: the recipe's length.
    """

    objective = "bits_per_dim"
    measured = ("bits_per_dim",)

    def __init__(self, flow: Flow, recipe: Recipe, steps_per_epoch: int, budget: Budget | None = None):
        super().__init__()
        self.flow = flow
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        self.steps_per_validation = recipe.validate_every * steps_per_epoch
        self.budget = Budget.of(recipe, steps_per_epoch, None, None) if budget is None else budget
        # The first rank's clock: all ranks have the same learning rate, and end together.
        self.shared_seconds = 0.0
        # What a resumed training has to have in common with this one, and what model.json says of its weights.
        self.run: dict = {}
        self.started_from: dict = {}
        self._validated = {name: [] for name in self.measured}
        self._random_states_to_restore = []
        self._seconds_before, self._started_at = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent on this training so far, earlier parts of a resumed one included."""
        return self._seconds_before + time.monotonic() - self._started_at

    def training_step(self, batch: Tensor | list[Tensor], batch_index: int) -> Tensor:
        batch = self.augment(*batch) if isinstance(batch, (list, tuple)) else self.augment(batch)
        random_state = _random_state()
        measured = self.measure(*batch)
        loss = measured[self.objective].mean()
        if not loss.isfinite():
            _set_random_state(random_state)
            self._draw_alike(batch_index)
            raise NonFiniteError(
                f"the loss is {loss.item()} at {self._where(batch_index)}. First in forward order: "
                f"{first_non_finite(self.flow, *self.flow_inputs(*batch))}. {self._way_out()}"
            )
        for name, values in measured.items():
            self.log(name, values.mean(), prog_bar=True)
        return loss

    def on_train_batch_start(self, batch: Tensor | list[Tensor], batch_index: int) -> None:
        self._draw_alike(batch_index)

    def on_train_batch_end(self, outputs, batch: Tensor | list[Tensor], batch_index: int) -> None:
        ranks.draw_alike(None)

    def _draw_alike(self, batch_index: int) -> None:
        # A function of the step alone: the same on all ranks, and after a resume.
        part = batch_index % self.recipe.accumulate
        ranks.draw_alike(self.recipe.seed + 1_000_003 * (self.trainer.global_step * self.recipe.accumulate + part))

    def augment(self, images: Tensor, *paired: Tensor) -> tuple[Tensor, ...]:
        """A batch as the recipe's augmentation changes it."""
        return (getattr(datasets, self.recipe.augment)(images) if self.recipe.augment else images, *paired)

    def flow_inputs(self, images: Tensor, *paired: Tensor) -> tuple[Tensor, ...]:
        """What of a batch the flow's ``log_prob`` takes."""
        return (images,)

    def measure(self, images: Tensor) -> dict[str, Tensor]:
        """What is minimised and logged: by name, one value per example."""
        return {"bits_per_dim": self.flow.bits_per_dim(images, chunk_size=len(images))}

    def optimizer_step(self, *args, **kwargs) -> None:
        super().optimizer_step(*args, **kwargs)
        update_norms(self.flow)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        parameters = [p for p in self.flow.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        # Before clipping: it would spread a norm that is not finite over all gradients.
        if not norm.isfinite():
            bad = [
                name for name, p in self.flow.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
            ]
            # The squares of gradients that are finite may overflow.
            where = f"gradients of {', '.join(bad[:5])}" if bad else "each gradient is finite, and they are too large"
            raise NonFiniteError(
                f"the gradient's norm is {norm.item()} at {self._where(self.trainer.fit_loop.batch_idx)}, the loss is "
                f"still finite; {where}. {self._way_out()}"
            )
        nn.utils.clip_grads_with_norm_(parameters, self.recipe.clip_norm, norm)
        self.log("gradient_norm", norm)

    def validation_step(self, batch: Tensor | list[Tensor], batch_index: int) -> None:
        batch = batch if isinstance(batch, (list, tuple)) else [batch]
        # The last images may be fewer than the ranks.
        if len(batch[0]) == 0:
            return
        # The same noise at every validation, so that epochs compare; training's own stream of noise goes on untouched.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(batch_index * self.trainer.world_size + self.trainer.global_rank)
            measured = self.measure(*batch)
        for name, values in measured.items():
            self._validated[name].append(values.cpu())

    def on_validation_epoch_end(self) -> None:
        # Every image once, whichever rank had it.
        shares = ranks.of_all_ranks(self._validated)
        for name, own in self._validated.items():
            summary = metrics.summarize(torch.cat([values for share in shares for values in share[name]]), num_draws=1)
            self.log(f"validation_{name}", summary.mean, prog_bar=True)
            if name == "bits_per_dim":
                self.log("validation_standard_error", summary.standard_error, prog_bar=True)
            own.clear()

    def configure_optimizers(self):
        settings = {"lr": self.recipe.learning_rate, "betas": self.recipe.betas}
        if self.recipe.optimizer == "AdamW":
            settings["weight_decay"] = self.recipe.weight_decay
        if self.recipe.optimizer != "Adamax":
            # One kernel over all parameters, on the CPU too; Adamax has none.
            settings["fused"] = True
        optimizer = getattr(torch.optim, self.recipe.optimizer)(self.flow.parameters(), **settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _learning_rate_factor(self, step: int) -> float:
        return learning_rate_factor(self.recipe, self.budget, self.steps_per_epoch, step, self.shared_seconds)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # Always between two steps: the number of steps is all there is to know of the loops, see on_load_checkpoint.
        del checkpoint["loops"]
        checkpoint["run"] = self.run
        checkpoint["random_state"] = ranks.of_all_ranks(_random_state())
        checkpoint["seconds"] = self.seconds
        checkpoint["started_from"] = self.started_from

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self._random_states_to_restore = checkpoint["random_state"]
        self._seconds_before = self.shared_seconds = checkpoint["seconds"]
        self.started_from = checkpoint["started_from"]
        # Lightning's own way to resume knows of half finished steps, epochs and validations, and loses its place in
        # some of them. Its loops begin anew here, at this step.
        step, loop = checkpoint["global_step"], self.trainer.fit_loop.epoch_loop
        loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
        loop.batch_progress.total.ready = step * self.recipe.accumulate
        loop._batches_that_stepped = step

    def on_train_start(self) -> None:
        self._started_at = time.monotonic()
        # A resumed run restores the learning rate of its checkpoint, and may have been given another one.
        scheduler = self.lr_schedulers()
        scheduler.base_lrs = [self.recipe.learning_rate]
        for group in scheduler.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self._learning_rate_factor(scheduler.last_epoch)
        # As late as possible: building the loaders and callbacks may draw numbers too.
        if self.global_rank < len(self._random_states_to_restore):
            _set_random_state(self._random_states_to_restore[self.global_rank])
        elif self.global_rank > 0:
            # Other noise than that of the first rank.
            torch.manual_seed(self.recipe.seed + 1_000_003 * self.global_rank + self.trainer.global_step)
        self._random_states_to_restore = []

    def _where(self, batch_index: int) -> str:
        step, accumulate = self.trainer.global_step, self.recipe.accumulate
        epoch, batch = divmod(step * accumulate + batch_index % accumulate, self.steps_per_epoch * accumulate)
        return f"step {step} (epoch {epoch}, batch {batch})"

    def _way_out(self) -> str:
        saved = runs.checkpoint_to_resume(Path(self.trainer.default_root_dir))
        where = f"The last good checkpoint is {saved}: resume" if saved else "There is no checkpoint yet: start again"
        return f"{where} with a lower learning rate (--lr), a longer warm-up or --precision 32-true"


class JointModule(FlowModule):
    """Minimises  -lambda log2 p(x) - log2 p(label | x)  for a ``JointFlow``, lambda the recipe's density_weight."""

    objective = "loss"
    measured = ("bits_per_dim", "loss", "accuracy")

    def measure(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        log_prob, logits = self.flow.log_prob_and_logits(images)
        bits = -log_prob / math.log(2)
        label_bits = F.cross_entropy(logits, labels, reduction="none") / math.log(2)
        return {
            "bits_per_dim": bits / math.prod(self.flow.shape),
            "loss": self.recipe.density_weight * bits + label_bits,
            "accuracy": (logits.argmax(1) == labels).float(),
        }


class TranslationModule(FlowModule):
    """Minimises  -(log2 p(target | source) + lambda log2 p(source)) / D  for a ``TranslationFlow``.

    D counts the dimensions of the target; lambda is the recipe's source_weight.
    """

    objective = "loss"
    measured = ("bits_per_dim", "loss", "source_bits_per_dim")

    def augment(self, images: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        # Both alike: the source of a mirrored image is the mirrored source.
        (both,) = super().augment(torch.cat([images, sources], dim=1))
        return both.split([images.shape[1], sources.shape[1]], dim=1)

    def flow_inputs(self, images: Tensor, sources: Tensor) -> tuple[Tensor, ...]:
        return images, sources

    def measure(self, images: Tensor, sources: Tensor) -> dict[str, Tensor]:
        log_prob, source_log_prob = self.flow.log_probs(images, sources)
        dimensions = math.prod(self.flow.shape) * math.log(2)
        return {
            "bits_per_dim": -log_prob / dimensions,
            "loss": -(log_prob + self.recipe.source_weight * source_log_prob) / dimensions,
            "source_bits_per_dim": -source_log_prob / (math.prod(self.flow.context_shape) * math.log(2)),
        }


def first_non_finite(flow: Flow, *inputs: Tensor) -> str:
    """Runs a batch through the flow and names the first module that returned a value that is not finite."""
    found = []

    def look(name: str, module: nn.Module, inputs, outputs) -> None:
        tensors = [t for t in (outputs if isinstance(outputs, tuple) else (outputs,)) if isinstance(t, Tensor)]
        if not found and not all(t.isfinite().all() for t in tensors if t.is_floating_point()):
            bad = [key for key, p in module.named_parameters() if not p.isfinite().all()]
            why = f"; not finite in it: {', '.join(bad)}" if bad else ""
            found.append(f"{name} ({type(module).__name__}{why})")

    hooks = [
        module.register_forward_hook(lambda module, inputs, outputs, name=name: look(name, module, inputs, outputs))
        for name, module in flow.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), compiling.uncompiled(flow):
            flow.log_prob(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "no layer, in a second pass; the noise N(z; 0, I) of a latent that is too large"


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
            rate then falls to 0 in the last quarter, see ``nbflows.schedule``.
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
        compile: whether training steps run compiled layers, see ``nbflows.compiling``; checkpoints and model are as
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
            _require_same_run(before, recipe, trained_on, out)
            precision = before["precision"] if precision == "auto" else precision
        batch_size = recipe.batch_size // recipe.accumulate
        steps_per_epoch = max(1, len(Batches(data.train, batch_size, shuffle=True)) // recipe.accumulate)
        budget = Budget.of(recipe, steps_per_epoch, max_steps, max_minutes)
        step, seconds = checkpoint.get("global_step", 0), checkpoint.get("seconds", 0.0)
        done = budget.done(step, seconds) >= 1
        if done:
            _require_unscored(out, step, seconds, budget)
        hardware.keep_freed_memory()
        own_model = flow is not None
        flow = flow if own_model else recipe.build(data)
        provenance.require_fit(flow, data)
        started_from = {} if start_from is None else _start_from(start_from, flow, trained_on)
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
            _require_same_tensors(checkpoint["current_model_state"], module.state_dict(), f"the run in {out}")
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
                _say_changes(before, module.run)
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


def _require_same_run(before: dict, recipe: Recipe, trained_on: dict, out: Path) -> None:
    """Raises ValueError if a run cannot go on with these data or with this recipe, naming both sides."""
    another = f"or begin another run with its weights, --start-from {out} and another --out"
    if not provenance.same(before["data"], trained_on):
        raise ValueError(
            f"the run in {out} is of other data: {provenance.against(before['data'], trained_on)}. Resume it with its "
            f"own, {another}"
        )
    fixed = [change for change in _changes(before["recipe"], recipe.to_json()) if change[0] not in recipes.CHANGEABLE]
    if fixed:
        listed = ", ".join(f"{name} is {old!r} there and {new!r} here" for name, old, new in fixed[:3])
        raise ValueError(f"the run in {out} is of another recipe: {listed}. Resume it with its own, {another}")


def _changes(before: dict, now: dict) -> list[tuple[str, object, object]]:
    return [(name, before[name], value) for name, value in now.items() if name in before and before[name] != value]


def _say_changes(before: dict, now: dict) -> None:
    sides = ({**run["recipe"], "precision": run["precision"]} for run in (before, now))
    changes = [change for change in _changes(*sides) if change[0] not in ("description", "data")]
    if changes:
        print("resuming with " + ", ".join(f"{name} {new!r} (before: {old!r})" for name, old, new in changes))


def _require_unscored(out: Path, step: int, seconds: float, budget: Budget) -> None:
    """Raises ValueError if a run whose budget is used has its test score too: then there is nothing left to do."""
    if not any(row["step"] == step - 1 and "test_bits_per_dim" in row for row in read_log(out)):
        return
    if step >= budget.steps:
        raise ValueError(
            f"the run is at step {step} already, and it was asked to end at {budget.steps}; nothing to train, give "
            "more --max-steps or epochs"
        )
    raise ValueError(
        f"the run has been trained for {seconds / 60:.1f} minutes already, and it was asked to end after "
        f"{budget.seconds / 60:g}; nothing to train, give more --max-minutes"
    )


def _require_same_tensors(theirs: dict[str, Tensor], ours: dict[str, Tensor], whose: str) -> None:
    """Raises ValueError if weights do not fit a model, naming some that differ."""
    different = [
        f"{name} is {' against '.join(str(list(s[name].shape)) if name in s else 'missing' for s in (theirs, ours))}"
        for name in {**theirs, **ours}
        if name not in theirs or name not in ours or theirs[name].shape != ours[name].shape
    ]
    if different:
        raise ValueError(
            f"the weights of {whose} do not fit this recipe's model: {len(different)} of {len(ours)} tensors differ, "
            f"there against here {'; '.join(different[:3])}. Take a model of the same recipe and size"
        )


def _start_from(model: str | Path, flow: Flow, trained_on: dict) -> dict:
    """Gives a flow the weights of another model; returns what its JSON says of that. ValueError if they do not fit."""
    theirs, known = pretrained.load(model), pretrained.describe(model)
    _require_same_tensors(theirs.state_dict(), flow.state_dict(), str(model))
    levels = num_levels_of(theirs), num_levels_of(flow)
    if levels[0] != levels[1]:
        raise ValueError(
            f"the weights of {model} are for images of {levels[0]} grey levels, these have {levels[1]}; start from a "
            "model of the same data"
        )
    flow.load_state_dict(theirs.state_dict())
    data = provenance.part(known, "trained_on", model)
    if ranks.is_first() and not (
        provenance.same(data, trained_on) if data else known.get("data") == trained_on["variant"]
    ):
        # Not refused: to go on with other images is what a small set of them needs.
        print(
            f"starting from a model of other data: {model} was trained on {known.get('data', 'data unknown')}, this "
            f"training is on {trained_on['variant']}. If test images of these were among its training images, the "
            "test score means nothing"
        )
    kept = ("data", "steps", "seconds", "started_from")
    return {"model": str(model), **{key: known[key] for key in kept if key in known}}


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


def _random_state() -> dict[str, object]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


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
    weights.write(out / "model.json", json.dumps({"builder": builder, "arguments": arguments, **details}).encode())


def _save_curve(history: list[dict[str, float]], out: Path) -> None:
    if not find_spec("matplotlib"):
        print("matplotlib is not installed: no training_curve.png; the figures are in log/")
        return
    from nbflows import plotting

    figure = plotting.training_curve(history)
    # As its samples: not to become data, wherever the run writes.
    figure.savefig(out / "training_curve.png", dpi=120, metadata={"Software": reading.SHEET})
    plotting.close(figure)
