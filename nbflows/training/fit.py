"""Trains a recipe: one folder with checkpoints, log, samples and the model."""

import json
import math
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch

from nbflows import data as datasets
from nbflows import extras, files, hardware, inputs, metrics, provenance, ranks
from nbflows.compose import set_memory
from nbflows.data import Batches, Data, reading
from nbflows.flow import Flow
from nbflows.nets import update_norms
from nbflows.recipes import Recipe
from nbflows.storage import weights
from nbflows.training import compiling, launch, runs
from nbflows.training.beginnings import (
    require_same_run,
    require_same_tensors,
    require_unscored,
    say_changes,
    take_weights,
)
from nbflows.training.callbacks import AveragedWeights, Checkpoints, CompileLayers, DrawSamples, StopAfter
from nbflows.training.runs import read_log
from nbflows.training.schedule import Budget
from nbflows.training.steps import FlowModule

with extras.explained():
    import lightning as L
    from lightning.pytorch.callbacks import Callback


@dataclass(frozen=True)
class TrainingResult:
    """The result of ``train``.

    Attributes:
        flow: with the best averaged weights, in eval mode.
        test: its bits/dim on the test data, in float32.
        accuracy: accuracy of its classes on the test data, for a ``JointFlow``; otherwise None.
        history: one dict per logged step, as in the CSV files.
        out: folder with checkpoints, log, samples and the model.
    """

    flow: Flow
    test: metrics.BitsPerDim
    accuracy: metrics.Accuracy | None
    history: list[dict[str, float]]
    out: Path


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
        data: the data to train on; default: the recipe's.
        out: folder of this run.
        resume: resume from ``out``/last.ckpt, with optimizer, averaged weights, schedule and random state.
        max_minutes, max_steps: end earlier than the recipe says; parts before a resume count too. The learning rate
            then falls to 0 in the last quarter, see ``nbflows.training.schedule``.
        precision: precision of the conditioner networks, as Lightning names it: "32-true", "bf16-mixed", ...; "auto"
            takes the faster of these two, measured at the start; "32-true" on several CPUs. Coordinates and
            log-determinants stay in float32.
        device: "cpu", "cuda", "mps" or "auto".
        devices, num_nodes: number of devices on each machine, and of machines.
        checkpoint_seconds: seconds between two writes of last.ckpt.
        progress: show progress bars.
        flow: a model of your own, instead of the recipe's; then only its checkpoints are saved.
        memory: what is kept for backward, see ``Sequential``: "plain" is the fastest, "invertible" takes least; None:
            the model's own setting, which is "plain" for those of recipes.
        compile: run compiled layers in training steps, see ``training.compiling``; checkpoints and model are the same.
        start_from: a model by its name, its file or the folder of its training. Training begins with its weights and
            a new optimizer; the weights are validated first and count as the best so far.

    Ctrl-C and SIGTERM save last.ckpt after the current step, and end in a ``KeyboardInterrupt`` that says how to
    resume.

    Raises:
        FileExistsError: ``out`` holds a run already and ``resume`` is off, or another training writes to it.
        FileNotFoundError: there is nothing to resume.
        NonFiniteError: the loss or a gradient is not finite.
        RuntimeError: ``compile`` is on, and there is no compiler.
        TypeError: ``recipe`` or ``data`` is something else.
        ValueError: the run to resume has other data or another recipe, is done, or its checkpoint is damaged;
            ``compile`` is on, and the model has nothing to compile; the weights to start from do not fit the model or
            are for another kind of data; data, model and objective do not fit; other settings do not fit.
    """
    _require_arguments(recipe, data, resume, start_from)
    budgets = {"max_minutes": max_minutes, "max_steps": max_steps, "checkpoint_seconds": checkpoint_seconds}
    _require_numbers(**budgets, devices=devices, num_nodes=num_nodes)
    hardware.require(device, devices)
    out = Path(out)
    with runs.lock(out):
        checkpoint = runs.begin(out, resume)
        L.seed_everything(recipe.seed, verbose=False)
        data = _data_of(recipe, data, checkpoint, out)
        paired = recipe.objective.paired(data)
        trained_on = provenance.fingerprint(data, labelled=recipe.objective.labelled)
        if before := checkpoint.get("run"):
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
        recipe.objective.require_fit(flow, data)
        if memory is not None:
            set_memory(flow, memory)
        module = FlowModule(flow, recipe, steps_per_epoch, budget)
        module.started_from = checkpoint.get("started_from", started_from)
        if checkpoint:
            require_same_tensors(checkpoint["current_model_state"], module.state_dict(), f"the run in {out}")
        with launch.quiet():
            callbacks = _callbacks(module, data, out, checkpoint_seconds, compile)
            machines = {"accelerator": device, "devices": devices, "num_nodes": num_nodes}
            trainer = launch.make_trainer(module, out, callbacks, checkpoint, precision, machines, progress)
            if compile:
                compiling.require_compiler(trainer.strategy.root_device)
            module.run = {"recipe": recipe.to_json(), "data": trained_on, "precision": trainer.precision}
            if before and trainer.is_global_zero:
                say_changes(before, module.run)
            # Raises if the ranks cannot share a batch equally, before other processes start.
            Batches(data.train, batch_size, shuffle=True, world_size=trainer.world_size)
            details = _details(module, data)
            if not (own_model or resume) and trainer.is_global_zero:
                _describe(flow, out, details)
            if not done:
                batches = launch.ImageBatches(data, batch_size, recipe.seed, paired, step * recipe.accumulate)
                launch.fit(trainer, module, batches, out, resume)
                step, seconds = trainer.global_step, module.seconds
        details |= {"steps": step, "seconds": round(seconds), **_take_best(trainer, module, out)}
        saved = trainer.is_global_zero and not own_model
        if saved:
            # Saved before the test images are scored: that may take long, and fail.
            _save_model(flow, out, details)
        test, accuracy = _score(trainer, module, data, out, step, progress)
        if saved:
            scores = {"test_bits_per_dim": test, "test_accuracy": accuracy}
            weights.update_description(out, **{name: asdict(s) for name, s in scores.items() if s is not None})
        return TrainingResult(flow.eval(), test, accuracy, read_log(out), out)


def _require_arguments(recipe: Recipe, data: Data | None, resume: bool, start_from: str | Path | None) -> None:
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe is a Recipe, as recipes.get(name) returns one, not a {type(recipe).__name__}")
    if data is not None and not isinstance(data, Data):
        raise TypeError(f"data are a Data or ImageData, as data.load(name) returns them, not a {type(data).__name__}")
    if resume and start_from is not None:
        raise ValueError("a resumed run goes on with its own weights: leave start_from (--start-from) out")


def _require_numbers(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None:
            inputs.check(name, value)


def _data_of(recipe: Recipe, data: Data | None, checkpoint: dict, out: Path) -> Data:
    """The data of a run as its objective needs them: those given, those of the run to resume, or the recipe's."""
    if checkpoint and not checkpoint["run"] and ranks.is_first():
        print(f"{out} is of an earlier version: whether recipe and data are those of the run is not checked")
    if data is None and checkpoint.get("run"):
        data = provenance.load(checkpoint["run"]["data"], out)
    if data is None:
        if recipe.data is None:
            raise ValueError("this recipe is for images of your own: give them as data (--data on the command line)")
        data = datasets.load(recipe.data)
    return recipe.objective.prepare(data)


def _callbacks(module: FlowModule, data: Data, out: Path, checkpoint_seconds: float, compile: bool) -> list[Callback]:
    if compile:
        # Raises if there is nothing to compile, before anything takes long.
        compiling.compilable(module.flow)
    return [
        # Samples come before the averaged weights are swapped out; a checkpoint follows the decision to stop.
        DrawSamples(out / "samples", data),
        AveragedWeights(module.recipe.ema_decay),
        StopAfter(),
        Checkpoints(out, checkpoint_seconds),
        *([CompileLayers()] if compile else []),
    ]


def _details(module: FlowModule, data: Data) -> dict:
    """The facts in model.json that are known before training."""
    # The recipe's own data count only if it was trained on them.
    name = data.origin.get("name") if data.origin else module.recipe.data
    return {
        "recipe": {**module.recipe.to_json(), "data": name if name in datasets.names() else None},
        "data": data.variant,
        "trained_on": module.run["data"],
        **({"started_from": module.started_from} if module.started_from else {}),
        **module.objective.describe(data),
    }


def _take_best(trainer: L.Trainer, module: FlowModule, out: Path) -> dict:
    """Gives the flow the best validated weights; returns the facts about them for model.json."""
    best = runs.read_checkpoint(out / runs.BEST)
    flow, kept = module.flow.to(trainer.strategy.root_device), best["callbacks"]["Checkpoints"]
    flow.load_state_dict(runs.averaged_weights(best))
    update_norms(flow)
    if kept["best_step"] == 0 and trainer.is_global_zero:
        print("no validation was better than that of the weights to start from: the model has these weights")
    return {
        "hardware": _hardware(trainer),
        "precision": trainer.precision,
        f"validation_{module.objective.minimised}": kept["best"] if math.isfinite(kept["best"]) else None,
    }


def _score(
    trainer: L.Trainer, module: FlowModule, data: Data, out: Path, step: int, progress: bool
) -> tuple[metrics.BitsPerDim, metrics.Accuracy | None]:
    """Scores the test data on all ranks; the first one logs the score and draws the curve."""
    contexts = provenance.contexts(module.flow, data)
    with launch.lost_ranks_explained(trainer, out):
        bar = progress and trainer.is_global_zero
        given = contexts["test"] if contexts else None
        test = metrics.evaluate(module.flow, data.test, given, progress=bar, shared=True)
        accuracy = module.objective.accuracy(module.flow, data)
    if trainer.is_global_zero:
        score = {"test_bits_per_dim": test.mean, "test_standard_error": test.standard_error}
        runs.Log(out, list(score), step).write(step=step - 1, **score)
        _save_curve(read_log(out), out)
    return test, accuracy


def _hardware(trainer: L.Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name(device)}"
    threads = trainer.world_size * torch.get_num_threads()
    return f"{threads} CPU core{'s' if threads > 1 else ''}" if device.type == "cpu" else str(device)


def _save_model(flow: Flow, out: Path, details: dict) -> None:
    if find_spec("safetensors"):
        weights.save_flow(flow, out / "model", **details)
    else:
        _describe(flow, out, details)
        print("safetensors is not installed: the model stays in best.ckpt, which load_flow reads as well")


def _describe(flow: Flow, out: Path, details: dict) -> None:
    """Writes model.json, with which ``load_flow`` reads the weights from best.ckpt."""
    # It would describe weights of an earlier training as well.
    (out / "model.safetensors").unlink(missing_ok=True)
    builder, arguments = cast(tuple[str, dict], flow.built_by)
    files.write(out / "model.json", json.dumps({"builder": builder, "arguments": arguments, **details}).encode())


def _save_curve(history: list[dict[str, float]], out: Path) -> None:
    if not find_spec("matplotlib"):
        print("matplotlib is not installed: no training_curve.png; its numbers are in log/")
        return
    from nbflows import plotting

    figure = plotting.training_curve(history)
    # Marked like the samples: a folder of pictures that a run writes to must not take it for data.
    figure.savefig(out / "training_curve.png", dpi=120, metadata={"Software": reading.SHEET})
    plotting.close(figure)
