"""The budget of a training, and the learning rate at each step."""

import math
from dataclasses import dataclass

from nbflows.recipes import Recipe

# The shares of a budget over which the learning rate grows at most, and over which it falls.
WARMUP, DECAY = 0.1, 0.25


@dataclass(frozen=True)
class Budget:
    """The limits of a training, including parts before a resume: it ends when it reaches the first of them.

    Attributes:
        steps: in all.
        seconds: in all; infinite for no limit.
        whole_recipe: neither limit is below what the recipe itself asks for.
    """

    steps: int
    seconds: float = math.inf
    whole_recipe: bool = True

    @classmethod
    def of(cls, recipe: Recipe, steps_per_epoch: int, max_steps: int | None, max_minutes: float | None) -> "Budget":
        """The recipe's epochs, or less."""
        recipe_steps = recipe.epochs * steps_per_epoch
        steps = recipe_steps if max_steps is None else min(max_steps, recipe_steps)
        seconds = math.inf if max_minutes is None else 60 * max_minutes
        return cls(steps, seconds, whole_recipe=steps == recipe_steps and seconds == math.inf)

    def done(self, step: int, seconds: float) -> float:
        """The used share of the budget, from 0 to 1."""
        return min(1.0, max(step / self.steps, seconds / self.seconds))

    def expected_steps(self, step: int, seconds: float) -> int:
        """The expected number of steps in all, at the pace so far."""
        done = self.done(step, seconds)
        return self.steps if done == 0 else max(step, min(self.steps, round(step / done)))


def learning_rate_factor(recipe: Recipe, budget: Budget, steps_per_epoch: int, step: int, seconds: float) -> float:
    """The factor of the recipe's learning rate at a step, counted from 0.

    A training of the recipe's full length follows the recipe: warm-up, then decay per epoch and drop, as its authors
    did. A shorter one warms up, stays, and falls linearly to 0 in the last quarter of its budget: most of what a decay
    gains is gained at its end, so it has to come before the end, wherever that is.

    Args:
        steps_per_epoch: after which a recipe's learning rate decays.
        seconds: trained so far.
    """
    if budget.whole_recipe:
        warmup = (step + 1) / max(1, recipe.warmup_steps)
        drop = 0.1 if recipe.drop_at_step is not None and step >= recipe.drop_at_step else 1.0
        return min(1.0, warmup) * drop * recipe.decay_per_epoch ** (step // steps_per_epoch)
    return warmup_stable_decay(step, budget.done(step, seconds), recipe.warmup_steps)


def warmup_stable_decay(step: int, done: float, warmup_steps: int) -> float:
    """The factor of the learning rate when the share ``done`` of a budget is used: it grows, stays, falls to 0.

    Source: Hu et al., "MiniCPM", 2024 (arXiv:2404.06395).
    """
    # A warm-up longer than the budget would never end.
    warmup = max((step + 1) / max(1, warmup_steps), done / WARMUP)
    return min(1.0, warmup, (1 - done) / DECAY)
