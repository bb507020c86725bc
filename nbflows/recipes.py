"""What ``nbflows train NAME`` runs: model, data and schedule by name."""

from dataclasses import dataclass, field

from nbflows import models
from nbflows.data import ImageData
from nbflows.flow import Flow


@dataclass(frozen=True)
class Recipe:
    """A model, the data it is trained on, and how.

    Attributes:
        description: one line for ``nbflows list``.
        data: a name of ``nbflows.data``.
        builder: a function of ``nbflows.models`` that takes ``shape`` and ``num_levels``.
        arguments: further ones for the builder.
        batch_size: over all devices.
        epochs: how many.
        learning_rate: of Adam.
        decay_per_epoch: the learning rate is multiplied by this after every epoch (StepLR).
        warmup_steps: over which the learning rate grows linearly from 0.
        clip_norm: gradients are scaled to at most this norm.
        ema_decay: of the averaged weights, which are validated and saved.
        validate_every: epochs between validations, and between pictures of samples.
        seed: of the weights, the order of the data and the noise.
    """

    description: str
    data: str
    builder: str
    arguments: dict = field(default_factory=dict)
    batch_size: int = 128
    epochs: int = 200
    learning_rate: float = 1e-3
    decay_per_epoch: float = 0.99
    warmup_steps: int = 100
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    validate_every: int = 5
    seed: int = 42

    def model_arguments(self, data: ImageData) -> dict:
        """The builder's arguments for this data."""
        return {"shape": data.shape, "num_levels": data.num_levels, **self.arguments}

    def build(self, data: ImageData) -> Flow:
        """The model, sized for this data."""
        return getattr(models, self.builder)(**self.model_arguments(data))


# The schedule of the UvA tutorial: Adam 1e-3, decay 0.99, 200 epochs, batch 128, clipping at 1, validation every 5
# epochs. Ours are the warm-up and the averaged weights.
RECIPES = {
    "digits-simple": Recipe(
        "checkerboard couplings on 8x8 digits", "digits", "digits_simple", decay_per_epoch=0.997, epochs=600
    ),
    "digits-variational": Recipe(
        "the same with learned noise", "digits", "digits_variational", decay_per_epoch=0.997, epochs=600
    ),
    "digits-multiscale": Recipe(
        "the same over two levels more", "digits", "digits_multiscale", decay_per_epoch=0.997, epochs=600
    ),
    "mnist-simple": Recipe("the tutorial's first flow (published: 1.078 bits/dim, M = 8)", "mnist", "simple"),
    "mnist-variational": Recipe("the same with learned noise (published: 1.043, M = 8)", "mnist", "variational"),
    "mnist-multiscale": Recipe("the tutorial's best flow (published: 1.020, M = 8)", "mnist", "multiscale"),
    "photo-patches-multiscale": Recipe("the multi-scale flow on 32x32 colour crops", "photo-patches", "multiscale"),
    "cifar10-multiscale": Recipe("the multi-scale flow on CIFAR-10", "cifar10", "multiscale"),
}


def get(name: str) -> Recipe:
    """The recipe of this name. Raises ValueError naming the known ones."""
    if name not in RECIPES:
        raise ValueError(f"no recipe named {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]
