"""Trainings of small Residual Flows on digits, with and without classes, and on points."""

from dataclasses import replace

from nbflows import data, recipes, training
from nbflows.data import Data, ImageData

SMALL = {"num_blocks": (1, 1), "hidden_channels": 8, "in_forward": False}

DIGITS = replace(
    recipes.get("digits-residual"),
    arguments={**SMALL, "num_end_blocks": 1, "end_features": 8},
    batch_size=32,
    epochs=2,
    # Far: the weights of every step have other norms than those of the step before, and than their average.
    learning_rate=1e-2,
    warmup_steps=1,
    validate_every=1,
    ema_decay=0.5,
)

JOINT = replace(
    recipes.get("digits-joint"),
    arguments={**SMALL, "features_per_level": 16},
    batch_size=32,
    learning_rate=1e-2,
    warmup_steps=5,
    ema_decay=0.9,
)

POINTS = replace(recipes.get("checkerboard-residual"), arguments={"num_blocks": 2, "hidden_features": 8}, batch_size=32)


def labelled_digits():
    """100 training images with their classes."""
    full = data.load("digits")
    parts = {"train": full.train[:100], "validation": full.validation[:40], "test": full.test[:40]}
    labels = {split: full.labels[split][: len(images)] for split, images in parts.items()}
    return ImageData("digits", "100 digits", **parts, num_grey_levels=17, labels=labels)


def checkerboard_points():
    """320 training points."""
    full = data.load("checkerboard")
    return Data("checkerboard", "320 points", full.train[:320], full.validation[:50], full.test[:50])


def train(recipe, examples, out, **options):
    """Trains on the CPU, in float32."""
    options = {"precision": "32-true", "device": "cpu", "progress": False} | options
    return training.train(recipe, examples, out=out, **options)
