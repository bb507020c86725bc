"""Trains a flow with Lightning: ``train(recipe)``."""

from nbflows.training.fit import TrainingResult, train
from nbflows.training.runs import read_log
from nbflows.training.steps import NonFiniteError

__all__ = ["NonFiniteError", "TrainingResult", "read_log", "train"]
