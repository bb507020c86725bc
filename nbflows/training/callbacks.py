"""Callbacks of a training: averaged weights, checkpoints and log, the end, compilation, a progress bar, pictures."""

import contextlib
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nbflows import extras
from nbflows.data import Data
from nbflows.data.pictures import save_samples
from nbflows.nets import update_norms
from nbflows.progress import bar
from nbflows.training import compiling, runs
from nbflows.training.steps import FlowModule

with extras.explained():
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import Callback, ProgressBar, WeightAveraging
    from lightning.pytorch.plugins.io import TorchCheckpointIO


class AveragedWeights(WeightAveraging):
    """Exponential moving average of the weights, which is validated and saved as the model.

    average += (1 - d) (weights - average)  with  d = min(decay, (1 + n) / (10 + n))  at step n. The memory is short at
    first, while the weights are far from their final values.
    """

    def __init__(self, decay: float):
        def update(averages: list[Tensor], weights: list[Tensor], n: Tensor | int) -> None:
            d = min(decay, (1 + int(n)) / (10 + int(n)))
            torch._foreach_lerp_(averages, weights, 1 - d)  # pyright: ignore[reportPrivateImportUsage]

        super().__init__(use_buffers=False, multi_avg_fn=update)

    def on_validation_epoch_start(self, trainer: Trainer, module: FlowModule) -> None:
        super().on_validation_epoch_start(trainer, module)
        # The averaged weights have other norms than the trained ones.
        update_norms(module.flow)


class StopAfter(Callback):
    """Ends the training when its budget is used up; a last validation follows."""

    def on_train_batch_end(
        self, trainer: Trainer, module: FlowModule, outputs: object, batch: object, batch_index: int
    ) -> None:
        module.shared_seconds = trainer.strategy.broadcast(module.seconds)
        if module.budget.done(trainer.global_step, module.shared_seconds) >= 1:
            trainer.should_stop = True


# Sent by Ctrl-C, at the end of a job, and when a terminal closes, where the system has terminals.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop(BaseException):
    """A signal asked the training to stop. It is not a KeyboardInterrupt, on which Lightning ends the process."""


class Checkpoints(Callback):
    """Writes the log, ``last.ckpt`` and ``best.ckpt`` between two steps, after a validation that is due.

    last.ckpt is written every ``seconds``, after every validation, and when Ctrl-C or SIGTERM ends the training. It
    becomes best.ckpt too if the validated loss has never been lower. Weights that a training starts from are validated
    before its first step and count as the first best.
    """

    def __init__(self, out: Path, seconds: float):
        self.out, self.seconds = out, seconds
        self.saved_at = time.monotonic()
        self.best, self.best_step = math.inf, None
        self.asked = False
        self.table: runs.Log | None = None

    @property
    def state_key(self) -> str:
        return "Checkpoints"

    def state_dict(self) -> dict:
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.best_step = state["best"], state["best_step"]

    def on_sanity_check_start(self, trainer: Trainer, module: FlowModule) -> None:
        # Lightning's sanity check is the validation of the weights that the training starts from.
        self._open_log(trainer, module)
        module.begin_noise()

    def on_train_start(self, trainer: Trainer, module: FlowModule) -> None:
        self._open_log(trainer, module)
        # These handlers replace Lightning's own, which it restores at the end.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A shell makes its background commands ignore Ctrl-C.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._ask)

    def _open_log(self, trainer: Trainer, module: FlowModule) -> None:
        if trainer.is_global_zero and self.table is None:
            validated = [f"validation_{name}" for name in (*module.objective.measured, "standard_error")]
            columns = [*module.objective.measured, "gradient_norm", *validated]
            self.table = runs.Log(self.out, columns, trainer.global_step)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise Stop
        self.asked = True
        # print is not safe here: the signal may have interrupted it.
        with contextlib.suppress(OSError):
            os.write(2, b"nbflows: stopping after this step, once it is saved; ask again to stop at once\n")

    def on_train_batch_end(
        self, trainer: Trainer, module: FlowModule, outputs: object, batch: object, batch_index: int
    ) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if step % module.steps_per_log == 0:
            self._write(trainer, [*module.objective.measured, "gradient_norm"])
        if not (trainer.should_stop or step % module.steps_per_validation == 0):
            due = self.asked or time.monotonic() - self.saved_at > self.seconds
            if trainer.strategy.broadcast(due):
                self._save(trainer)

    def on_validation_end(self, trainer: Trainer, module: FlowModule) -> None:
        names = [f"validation_{name}" for name in (*module.objective.measured, "standard_error")]
        values = self._write(trainer, names)
        loss = values[f"validation_{module.objective.minimised}"]
        if trainer.sanity_checking:
            module.started_from |= {name: value if math.isfinite(value) else None for name, value in values.items()}
            if trainer.is_global_zero:
                print(f"the weights to start from have the validation loss {loss:.3f}, the one to improve on")
        better = self.best_step is None or loss < self.best
        if better:
            # NaN is worse than all other losses.
            self.best, self.best_step = loss if math.isfinite(loss) else math.inf, trainer.global_step
        self._save(trainer, better)

    def _write(self, trainer: Trainer, names: list[str]) -> dict[str, float]:
        values = {name: trainer.callback_metrics[name].item() for name in names}
        if self.table is not None:
            self.table.write(step=trainer.global_step - 1, **values)
        return values

    def _save(self, trainer: Trainer, best: bool = False) -> None:
        trainer.save_checkpoint(self.out / runs.LAST)
        if best and trainer.is_global_zero:
            runs.keep_as_best(self.out)
        self.saved_at = time.monotonic()
        if trainer.strategy.broadcast(self.asked):
            raise Stop


class AtOnce(TorchCheckpointIO):
    """Lets Lightning write checkpoints by ``runs.write_checkpoint`` and resume from one that is already in memory."""

    def __init__(self, checkpoint: dict):
        self.checkpoint = checkpoint

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        runs.write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, *args: Any, **options: Any) -> dict:
        # Only Lightning holds it from here on, and frees it when the weights are in place.
        checkpoint, self.checkpoint = self.checkpoint, {}
        return checkpoint


class CompileLayers(Callback):
    """Compiles the layers for training at the first batch that finds every ActNorm initialised; prints the seconds.

    Validation and samples run the layers as written.
    """

    def __init__(self) -> None:
        self.layers: compiling.CompiledLayers | None = None
        self.active = contextlib.ExitStack()
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, module: FlowModule, batch: object, batch_index: int) -> None:
        if self.layers is None and compiling.has_seen_data(module.flow):
            self.layers, self.graphs_before = compiling.CompiledLayers(module.flow), compiling.num_graphs()
        if self.layers is not None:
            self.active.enter_context(self.layers.active())
            self.started_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: FlowModule, outputs: object, batch: object, batch_index: int
    ) -> None:
        self.active.close()
        if self.layers is None or len(self.seconds) == 2:
            return
        self.seconds.append(time.monotonic() - self.started_at)
        if len(self.seconds) == 2 and trainer.is_global_zero:
            first, second = self.seconds
            print(
                f"compiled {len(self.layers.layers)} layers as {compiling.num_graphs() - self.graphs_before} graphs in "
                f"{first - second:.1f} s: their first batch took {first:.1f} s, the second {second:.3f} s"
            )

    def on_exception(self, trainer: Trainer, module: FlowModule, exception: BaseException) -> None:
        self.active.close()


class StepsBar(ProgressBar):
    """A progress bar of one line over all steps, the same in a terminal and in a notebook.

    If minutes end the training, the number of steps is estimated from the pace so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        """Lightning calls this on all ranks except the first."""
        self.enabled = False

    def on_train_start(self, trainer: Trainer, module: FlowModule) -> None:
        self.bar = bar(
            None,
            "training",
            show=self.enabled,
            total=self._expected_steps(trainer, module),
            initial=trainer.global_step,
            unit="step",
            mininterval=1,
        )

    def on_train_batch_end(
        self, trainer: Trainer, module: FlowModule, outputs: object, batch: object, batch_index: int
    ) -> None:
        seen = {name: float(value) for name, value in trainer.progress_bar_metrics.items()}
        text = f"loss {seen['bits_per_dim']:.3f}"
        if "validation_bits_per_dim" in seen:
            error = seen["validation_standard_error"]
            text += f", validation {seen['validation_bits_per_dim']:.3f} ± {error:.3f} bits/dim (M = 1)"
        if "accuracy" in seen:
            text += f", accuracy {seen['accuracy']:.3f}"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.total = self._expected_steps(trainer, module)
        self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: Trainer, module: FlowModule) -> None:
        self.bar.close()

    @staticmethod
    def _expected_steps(trainer: Trainer, module: FlowModule) -> int:
        return module.budget.expected_steps(trainer.global_step, module.shared_seconds)


class DrawSamples(Callback):
    """A PNG at every validation: pictures that the objective draws from the averaged weights, always of the same noise.

    An inverse that overflows or does not converge costs a picture, not the training.
    """

    def __init__(self, folder: Path, data: Data):
        self.folder, self.data = folder, data

    def on_validation_epoch_end(self, trainer: Trainer, module: FlowModule) -> None:
        if trainer.is_global_zero:
            try:
                samples = module.objective.draw(module.flow, self.data)
                save_samples(samples, self.folder / f"step_{trainer.global_step:07d}.png", module.flow.num_grey_levels)
            except RuntimeError as error:
                print(f"no samples at step {trainer.global_step}: {error}")
