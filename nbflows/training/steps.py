"""The steps of a training: loss, gradient, optimizer and validation, and their state in a checkpoint."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nbflows import data as datasets
from nbflows import extras, metrics, ranks
from nbflows.flow import Flow
from nbflows.nets import update_norms
from nbflows.recipes import Recipe
from nbflows.seeded import STRIDE, seeded
from nbflows.training import compiling, runs
from nbflows.training.schedule import Budget, learning_rate_factor

with extras.explained():
    import lightning as L


class NonFiniteError(RuntimeError):
    """The loss or a gradient is NaN or infinite; the message says where that happened first."""


class FlowModule(L.LightningModule):
    """Trains a flow by the objective of a recipe.

    The norms of a flow with Lipschitz constants are updated after every step.

    Args:
        flow: the model.
        recipe: objective, learning rate, schedule and clipping.
        steps_per_epoch: steps between two decays of the learning rate.
        budget: ends the training; the learning rate may fall towards its end. None: the recipe's length.
    """

    def __init__(self, flow: Flow, recipe: Recipe, steps_per_epoch: int, budget: Budget | None = None):
        super().__init__()
        self.flow = flow
        self.recipe = recipe
        self.objective = recipe.objective
        self.steps_per_epoch = steps_per_epoch
        self.steps_per_validation = recipe.validate_every * steps_per_epoch
        self.steps_per_log = min(10, steps_per_epoch)
        self.budget = Budget.of(recipe, steps_per_epoch, None, None) if budget is None else budget
        # From the first rank's clock: all ranks have the same learning rate and end together.
        self.shared_seconds = 0.0
        # For checkpoints: what a resumed training must agree with, and which weights training began with.
        self.run: dict = {}
        self.started_from: dict = {}
        self._validated: dict[str, list[Tensor]] = {name: [] for name in self.objective.measured}
        self._random_states_to_restore: list[dict] = []
        self._seconds_before, self._started_at = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, including those before a resume."""
        return self._seconds_before + time.monotonic() - self._started_at

    def training_step(self, batch: Tensor | Sequence[Tensor], batch_index: int) -> Tensor:
        batch = self.augment(*_tensors(batch))
        random_state = _random_state()
        measured = self.measure(*batch)
        loss = measured[self.objective.minimised].mean()
        if not loss.isfinite():
            _set_random_state(random_state)
            self._draw_alike(batch_index)
            raise NonFiniteError(
                f"the loss is {loss.item()} at {self._where(batch_index)}. First in forward order: "
                f"{first_non_finite(self.flow, *self.objective.flow_inputs(*batch))}. {self._way_out()}"
            )
        for name, values in measured.items():
            self.log(name, values.mean(), prog_bar=True)
        return loss

    def on_train_batch_start(self, batch: Tensor | Sequence[Tensor], batch_index: int) -> None:
        self._draw_alike(batch_index)

    def on_train_batch_end(self, outputs: object, batch: Tensor | Sequence[Tensor], batch_index: int) -> None:
        ranks.draw_alike(None)

    def _draw_alike(self, batch_index: int) -> None:
        # The seed depends only on the step: it is the same on all ranks and after a resume.
        part = batch_index % self.recipe.accumulate
        ranks.draw_alike(self.recipe.seed + STRIDE * (self.trainer.global_step * self.recipe.accumulate + part))

    def augment(self, images: Tensor, *paired: Tensor) -> tuple[Tensor, ...]:
        """Changes a batch at random as the recipe says."""
        if self.recipe.augment is None:
            return images, *paired
        return self.objective.augment(getattr(datasets, self.recipe.augment), images, *paired)

    def measure(self, *batch: Tensor) -> dict[str, Tensor]:
        """The objective's loss and other values by their names, one per example."""
        return self.objective.measure(self.flow, *batch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        update_norms(self.flow)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        parameters = [p for p in self.flow.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # Checked before clipping, which would spread the NaN over all gradients.
        if not norm.isfinite():
            bad = [
                name for name, p in self.flow.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
            ]
            # Squares of finite gradients may overflow.
            where = f"gradients of {', '.join(bad[:5])}" if bad else "each gradient is finite, and they are too large"
            raise NonFiniteError(
                f"the gradient's norm is {norm.item()} at {self._where(self.trainer.fit_loop.batch_idx)}, the loss is "
                f"still finite; {where}. {self._way_out()}"
            )
        nn.utils.clip_grads_with_norm_(parameters, self.recipe.clip_norm, norm)
        self.log("gradient_norm", norm)

    def validation_step(self, batch: Tensor | Sequence[Tensor], batch_index: int) -> None:
        batch = _tensors(batch)
        # The last batch may have fewer images than there are ranks.
        if len(batch[0]) == 0:
            return
        # The noise is the same at every validation, so that epochs are comparable.
        with seeded(batch_index * self.trainer.world_size + self.trainer.global_rank, self.device):
            measured = self.measure(*batch)
        for name, values in measured.items():
            self._validated[name].append(values.cpu())

    def on_validation_epoch_end(self) -> None:
        # The mean is over all images of all ranks.
        shares = ranks.of_all_ranks(self._validated)
        for name, own in self._validated.items():
            summary = metrics.summarize(torch.cat([values for share in shares for values in share[name]]), num_draws=1)
            self.log(f"validation_{name}", summary.mean, prog_bar=True)
            if name == "bits_per_dim":
                self.log("validation_standard_error", summary.standard_error, prog_bar=True)
            own.clear()

    def configure_optimizers(self) -> Any:
        settings = {"lr": self.recipe.learning_rate, "betas": self.recipe.betas}
        if self.recipe.optimizer == "AdamW":
            settings["weight_decay"] = self.recipe.weight_decay
        if self.recipe.optimizer != "Adamax":
            # One kernel updates all parameters, on the CPU too; Adamax has none.
            settings["fused"] = True
        optimizer = getattr(torch.optim, self.recipe.optimizer)(self.flow.parameters(), **settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _learning_rate_factor(self, step: int) -> float:
        return learning_rate_factor(self.recipe, self.budget, self.steps_per_epoch, step, self.shared_seconds)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        # Checkpoints are written between two steps, so their number is the whole state of the loops.
        del checkpoint["loops"]
        checkpoint["run"] = self.run
        checkpoint["random_state"] = ranks.of_all_ranks(_random_state())
        checkpoint["seconds"] = self.seconds
        checkpoint["started_from"] = self.started_from

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self._random_states_to_restore = checkpoint["random_state"]
        self._seconds_before = self.shared_seconds = checkpoint["seconds"]
        self.started_from = checkpoint["started_from"]
        # Lightning can resume in the middle of steps, epochs and validations, and loses its place in some of them.
        # Here its loops restart at this step.
        step, loop = checkpoint["global_step"], self.trainer.fit_loop.epoch_loop
        loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
        loop.batch_progress.total.ready = step * self.recipe.accumulate
        loop._batches_that_stepped = step

    def on_train_start(self) -> None:
        self._started_at = time.monotonic()
        # A checkpoint brings its own learning rate, and the recipe may have another one now.
        scheduler: Any = self.lr_schedulers()
        scheduler.base_lrs = [self.recipe.learning_rate]
        for group in scheduler.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self._learning_rate_factor(scheduler.last_epoch)
        self.begin_noise()
        self._random_states_to_restore = []

    def begin_noise(self) -> None:
        """Sets this rank's random state: that of the checkpoint, or for a new run one that differs between ranks."""
        # As late as possible: building the loaders and callbacks may draw numbers too.
        if self.global_rank < len(self._random_states_to_restore):
            _set_random_state(self._random_states_to_restore[self.global_rank])
        elif self.global_rank > 0:
            torch.manual_seed(self.recipe.seed + STRIDE * self.global_rank + self.trainer.global_step)

    def _where(self, batch_index: int) -> str:
        step, accumulate = self.trainer.global_step, self.recipe.accumulate
        epoch, batch = divmod(step * accumulate + batch_index % accumulate, self.steps_per_epoch * accumulate)
        return f"step {step} (epoch {epoch}, batch {batch})"

    def _way_out(self) -> str:
        saved = runs.checkpoint_to_resume(Path(self.trainer.default_root_dir))
        where = f"The last good checkpoint is {saved}: resume" if saved else "There is no checkpoint yet: start again"
        return f"{where} with a lower learning rate (--lr), a longer warm-up or --precision 32-true"


def first_non_finite(flow: Flow, *inputs: Tensor) -> str:
    """Runs a batch through the flow and names the first module that returned NaN or an infinite value."""
    found: list[str] = []

    def look(name: str, module: nn.Module, outputs: object) -> None:
        tensors = [t for t in (outputs if isinstance(outputs, tuple) else (outputs,)) if isinstance(t, Tensor)]
        if not found and not all(t.isfinite().all() for t in tensors if t.is_floating_point()):
            bad = [key for key, p in module.named_parameters() if not p.isfinite().all()]
            why = f"; not finite in it: {', '.join(bad)}" if bad else ""
            found.append(f"{name} ({type(module).__name__}{why})")

    hooks = [
        module.register_forward_hook(lambda module, inputs, outputs, name=name: look(name, module, outputs))
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


def _tensors(batch: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """Images and what is paired with them, where Lightning gives a lone tensor too."""
    return (batch,) if isinstance(batch, Tensor) else batch


def _random_state() -> dict[str, Any]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
