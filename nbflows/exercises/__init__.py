"""The exercises of the lessons: predictions, checks with hidden inputs, hints and solutions."""

from nbflows.exercises.lab import Exercise, Lab, check, lab
from nbflows.exercises.prediction import Prediction, predict

__all__ = ["Exercise", "Lab", "Prediction", "check", "lab", "predict"]
