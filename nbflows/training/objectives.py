"""What is minimised: the likelihood, alone, with a classifier, or of a target given its source."""

import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """The loss or a gradient is no longer a number; the message says where it happened first."""


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
        ranks.draw_alike(self.recipe.seed + STRIDE * (self.trainer.global_step * self.recipe.accumulate + part))

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
        with seeded(batch_index * self.trainer.world_size + self.trainer.global_rank, self.device):
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
            torch.manual_seed(self.recipe.seed + STRIDE * self.global_rank + self.trainer.global_step)
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


def _random_state() -> dict[str, object]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
