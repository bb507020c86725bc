"""A training that ends in the middle, as a kill would end it."""

import contextlib

import pytest

from nbflows import training


@contextlib.contextmanager
def killed_after(step: int):
    """Trainings started within end right after a step, once it is saved (``checkpoint_seconds=0`` saves each)."""

    class SaveThenDie(training.SaveLast):
        def on_train_batch_end(self, trainer, *rest):
            super().on_train_batch_end(trainer, *rest)
            if trainer.global_step == step:
                raise SystemExit("killed")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="killed"):
        patch.setattr(training, "SaveLast", SaveThenDie)
        yield
