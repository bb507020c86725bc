"""Trains a flow with Lightning: ``train(recipe)``."""

from nbflows.training.fit import TrainingResult, train
from nbflows.training.objectives import NonFiniteError
from nbflows.training.runs import read_log

__all__ = ["NonFiniteError", "TrainingResult", "read_log", "train"]
