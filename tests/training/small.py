"""A training that takes a second: a flow of one coupling, 100 digits, eight epochs."""

import torch

from nbflows import Flow, Sequential, data, recipes, training
from nbflows.data import ImageData
from nbflows.layers import AffineCoupling, Dequantize, checkerboard
from nbflows.nets import ConvNet

RECIPE = recipes.Recipe(
    "a small one for tests", "digits", "digits_simple", batch_size=32, epochs=8, warmup_steps=4, validate_every=4
)


def small_digits():
    """100 training images."""
    full = data.load("digits")
    return ImageData("digits", "100 digits", full.train[:100], full.validation[:20], full.test[:20], 17)


def small_flow():
    """One coupling."""
    torch.manual_seed(0)
    return Flow(Sequential(Dequantize(17), AffineCoupling(ConvNet(1, 4, 2), checkerboard(8, 8))), (1, 8, 8))


def train(digits, out, recipe=RECIPE, **options):
    """Trains it on the CPU, in float32."""
    settings = {"precision": "32-true", "device": "cpu", "progress": False, "flow": small_flow()}
    return training.train(recipe, digits, out=out, **settings | options)
