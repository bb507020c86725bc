"""What happens beside the steps of a training: averages, checkpoints and log, the end, a bar, pictures."""

import contextlib
import math
import os
import signal
import threading
import time
from pathlib import Path

import torch

from nbflows import extras, tasks
from nbflows.data.pictures import num_levels_of, save_samples
from nbflows.nets import update_norms
from nbflows.progress import bar
from nbflows.seeded import seeded
from nbflows.training import compiling, runs

with extras.explained():
    from lightning.pytorch.callbacks import Callback, ProgressBar, WeightAveraging
    from lightning.pytorch.plugins.io import TorchCheckpointIO


class AveragedWeights(WeightAveraging):
    """Exponential moving average of the weights: validated, and saved as the model.

    average += (1 - d) (weights - average)  with  d = min(decay, (1 + n) / (10 + n))  at step n: a short memory at the
    start, when the weights are still far from where they will be.
    """

    def __init__(self, decay: float):
        def update(averages, weights, n):
            d = min(decay, (1 + int(n)) / (10 + int(n)))
            torch._foreach_lerp_(averages, weights, 1 - d)

        super().__init__(use_buffers=False, multi_avg_fn=update)

    def on_validation_epoch_start(self, trainer, module) -> None:
        super().on_validation_epoch_start(trainer, module)
        # The averaged weights have other norms than the weights that were trained.
        update_norms(module.flow)


class StopAfter(Callback):
    """Ends the training when its budget is used; a last validation follows."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        module.shared_seconds = trainer.strategy.broadcast(module.seconds)
        if module.budget.done(trainer.global_step, module.shared_seconds) >= 1:
            trainer.should_stop = True


# Ctrl-C, the end of a job, and of the terminal where there is one.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stop(BaseException):
    """Someone asked the training to stop. No KeyboardInterrupt, upon which Lightning ends the process."""


class Checkpoints(Callback):
    """Keeps the log, ``last.ckpt`` and ``best.ckpt``, always between two steps, with the validation done that is due.

    last.ckpt is written every so many seconds, after every validation, and when Ctrl-C or SIGTERM ends the training.
    It is best.ckpt too if the validated loss has never been lower.
    """

    def __init__(self, out: Path, seconds: float):
        self.out, self.seconds = out, seconds
        self.saved_at = time.monotonic()
        self.best, self.best_step = math.inf, None
        self.asked = False

    @property
    def state_key(self) -> str:
        return "Checkpoints"

    def state_dict(self) -> dict:
        return {"best": self.best, "best_step": self.best_step}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.best_step = state["best"], state["best_step"]

    def on_train_start(self, trainer, module) -> None:
        if trainer.is_global_zero:
            validated = [f"validation_{name}" for name in (*module.measured, "standard_error")]
            self.log = runs.Log(self.out, [*module.measured, "gradient_norm", *validated], trainer.global_step)
        # Instead of Lightning's own, which it puts back at the end.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A shell has its background commands ignore Ctrl-C.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self._ask)

    def _ask(self, number: int, frame) -> None:
        if self.asked:
            raise Stop
        self.asked = True
        # Not print, which may be at work just now.
        with contextlib.suppress(OSError):
            os.write(2, b"nbflows: stopping after this step, once it is saved; ask again to stop at once\n")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        if step % trainer.log_every_n_steps == 0:
            self._write(trainer, [*module.measured, "gradient_norm"])
        if not (trainer.should_stop or step % module.steps_per_validation == 0):
            due = self.asked or time.monotonic() - self.saved_at > self.seconds
            if trainer.strategy.broadcast(due):
                self._save(trainer)

    def on_validation_end(self, trainer, module) -> None:
        names = [f"validation_{name}" for name in (*module.measured, "standard_error")]
        values = self._write(trainer, names)
        loss = values[f"validation_{module.objective}"]
        better = self.best_step is None or loss < self.best
        if better:
            # A loss that is not a number is worse than all others.
            self.best, self.best_step = loss if math.isfinite(loss) else math.inf, trainer.global_step
        self._save(trainer, better)

    def _write(self, trainer, names: list[str]) -> dict[str, float]:
        values = {name: trainer.callback_metrics[name].item() for name in names}
        if trainer.is_global_zero:
            self.log.write(step=trainer.global_step - 1, **values)
        return values

    def _save(self, trainer, best: bool = False) -> None:
        trainer.save_checkpoint(self.out / runs.LAST)
        if best and trainer.is_global_zero:
            runs.keep_as_best(self.out)
        self.saved_at = time.monotonic()
        if trainer.strategy.broadcast(self.asked):
            raise Stop


class AtOnce(TorchCheckpointIO):
    """Has Lightning write checkpoints as ``runs.write_checkpoint`` does, and resume from one that is read already."""

    def __init__(self, checkpoint: dict | None):
        self.checkpoint = checkpoint

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        runs.write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path, *args, **options) -> dict:
        checkpoint, self.checkpoint = self.checkpoint, None
        return checkpoint


class CompileLayers(Callback):
    """Training with compiled layers, from the first batch on that finds every ActNorm initialised; says what it cost.

    Validation, samples and the model that is saved run without.
    """

    def __init__(self):
        self.layers: compiling.CompiledLayers | None = None
        self.active = contextlib.ExitStack()
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer, module, batch, batch_index) -> None:
        if self.layers is None and compiling.has_seen_data(module.flow):
            self.layers, self.graphs_before = compiling.CompiledLayers(module.flow), compiling.num_graphs()
        if self.layers is not None:
            self.active.enter_context(self.layers.active())
            self.started_at = time.monotonic()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
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

    def on_exception(self, trainer, module, exception) -> None:
        self.active.close()


class StepsBar(ProgressBar):
    """One line of text over all steps, in a terminal and in a notebook alike.

    Where minutes end the training, their number of steps is estimated from the pace so far.
    """

    def __init__(self):
        super().__init__()
        self.enabled = True

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        """Called by Lightning on all ranks but the first."""
        self.enabled = False

    def on_train_start(self, trainer, module) -> None:
        self.bar = bar(
            None,
            "training",
            show=self.enabled,
            total=self._expected_steps(trainer, module),
            initial=trainer.global_step,
            unit="step",
            mininterval=1,
        )

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
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

    def on_train_end(self, trainer, module) -> None:
        self.bar.close()

    @staticmethod
    def _expected_steps(trainer, module) -> int:
        return module.budget.expected_steps(trainer.global_step, module.shared_seconds)


class DrawSamples(Callback):
    """A PNG of 64 samples at every validation, drawn from the averaged weights with the same noise each time.

    Of points in the plane, 10,000 samples.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def on_validation_epoch_end(self, trainer, module) -> None:
        if trainer.is_global_zero:
            generator = torch.Generator(module.device).manual_seed(0)
            count = 10_000 if len(module.flow.shape) == 1 else 64
            with _or_say_why(trainer):
                samples = module.flow.sample(count, generator=generator)
                save_samples(samples, self.folder / f"step_{trainer.global_step:07d}.png", num_levels_of(module.flow))


class DrawTranslations(Callback):
    """A PNG at every validation: source, target and 6 samples of 8 validation images, each time of the same noise."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_validation_epoch_end(self, trainer, module) -> None:
        if trainer.is_global_zero:
            data, flow = trainer.datamodule.data, module.flow
            sources = data.sources["validation"][:8].to(module.device)
            targets = data.validation[: len(sources)].to(module.device)
            # The noise of dequantization too; training's own stream of noise goes on untouched.
            with _or_say_why(trainer), seeded(0, module.device):
                samples = flow.translate(sources, num_samples=6, scored=False).images
                given = tasks.with_channels(sources, targets.shape[1])
                rows = torch.cat([given[:, None], targets[:, None], samples], dim=1).flatten(0, 1)
                save_samples(rows, self.folder / f"step_{trainer.global_step:07d}.png", num_levels_of(module.flow))


@contextlib.contextmanager
def _or_say_why(trainer):
    """An inverse that overflows or does not converge costs a picture, not the training."""
    try:
        yield
    except RuntimeError as error:
        print(f"no samples at step {trainer.global_step}: {error}")
