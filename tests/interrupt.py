"""A training that ends in the middle, as a kill would end it."""

import contextlib

import pytest

from nbflows import training


class Killed(BaseException):
    """Nothing of a training catches it, and nothing is saved upon it."""


@contextlib.contextmanager
def killed_after(step: int):
    """Trainings started within end right after a step, once it is saved (``checkpoint_seconds=0`` saves each)."""

    class SaveThenDie(training.Checkpoints):
        def _save(self, trainer, best=False):
            super()._save(trainer, best)
            if trainer.global_step == step:
                raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(training, "Checkpoints", SaveThenDie)
        yield
