"""Recipes: model, data, objective and schedule by the name that ``nbflows train`` takes."""

import inspect
import json
from dataclasses import dataclass, field, fields
from typing import Any

from nbflows import inputs, models, tasks
from nbflows.data import Data
from nbflows.flow import Flow
from nbflows.objectives import Density, GivenLabels, Translation, WithClassifier
from nbflows.tasks import Colorization, Inpainting, SideBySide, SuperResolution, Task

# Settings that may change when a training resumes. The others decide what its weights, its optimizer or its place in
# the data mean; the data have a fingerprint of their own.
CHANGEABLE = {"description", "data", "epochs", "learning_rate", "decay_per_epoch", "warmup_steps", "drop_at_step"}
CHANGEABLE |= {"clip_norm", "ema_decay", "validate_every"}

# The smallest value of each number that the command line does not set; ``inputs.RANGES`` has the others.
_WHOLE = {"accumulate": 1, "warmup_steps": 0, "validate_every": 1}
# Averages with a weight of 1 for the past never move.
_ALMOST_1 = 1 - 1e-9
_REAL = ("learning_rate", "weight_decay", "decay_per_epoch")


@dataclass(frozen=True)
class Recipe:
    """A model, the data it is trained on, and how.

    Attributes:
        description: one line for ``nbflows list``.
        data: a name of ``nbflows.data``; None if users give their own images.
        builder: name of a function of ``nbflows.models`` that takes ``shape`` and ``num_grey_levels``.
        arguments: further arguments of the builder.
        batch_size: images per optimizer step, over all devices.
        accumulate: micro-batches per optimizer step (gradient accumulation).
        epochs: number of epochs.
        optimizer: "Adam", "AdamW" (Adam with decoupled weight decay) or "Adamax", from torch.optim.
        learning_rate: the optimizer's, before the schedule.
        betas: coefficients of Adam's running averages.
        weight_decay: decoupled weight decay, for AdamW only.
        decay_per_epoch: the learning rate is multiplied by this after every epoch (StepLR).
        warmup_steps: number of steps over which the learning rate grows linearly from 0.
        drop_at_step: from this step on the learning rate is a tenth; None for never.
        clip_norm: gradients are scaled to at most this norm.
        ema_decay: decay of the averaged weights, which are validated and saved.
        augment: random change of training images: "shift_and_flip", "mirror" or None.
        objective: what is minimised, see ``nbflows.objectives``.
        validate_every: epochs between validations, and between pictures of samples.
        seed: seed of the weights, the order of the data and the noise.
    """

    description: str
    data: str | None
    builder: str
    arguments: dict = field(default_factory=dict)
    batch_size: int = 128
    accumulate: int = 1
    epochs: int = 200
    optimizer: str = "Adam"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    decay_per_epoch: float = 0.99
    warmup_steps: int = 100
    drop_at_step: int | None = None
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    augment: str | None = None
    objective: Density = field(default_factory=Density)
    validate_every: int = 5
    seed: int = 42

    def __post_init__(self) -> None:
        checked: dict[str, object] = {
            name: inputs.whole(getattr(self, name), name, low) for name, low in _WHOLE.items()
        }
        checked |= {name: inputs.number(getattr(self, name), name, 0) for name in _REAL}
        checked |= {name: inputs.check(name, getattr(self, name)) for name in ("batch_size", "epochs")}
        checked["clip_norm"] = inputs.number(self.clip_norm, "clip_norm", above=0)
        checked["ema_decay"] = inputs.number(self.ema_decay, "ema_decay", 0, _ALMOST_1)
        if not (isinstance(self.betas, (tuple, list)) and len(self.betas) == 2):
            raise ValueError(f"betas are two numbers, got {self.betas!r}")
        checked["betas"] = tuple(inputs.number(beta, "each of betas", 0, _ALMOST_1) for beta in self.betas)
        checked["seed"] = inputs.RANGES["seed of a training"](self.seed, "seed")
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.optimizer not in ("Adam", "AdamW", "Adamax"):
            raise ValueError(f"optimizer is 'Adam', 'AdamW' or 'Adamax', got {self.optimizer!r}")
        if self.weight_decay and self.optimizer != "AdamW":
            raise ValueError(f"only AdamW has a weight_decay ({self.weight_decay}), the optimizer is {self.optimizer}")
        if not isinstance(self.objective, Density):
            raise TypeError(
                f"objective is a Density, GivenLabels, WithClassifier or Translation, got {self.objective!r:.50}"
            )
        if self.augment not in (None, "shift_and_flip", "mirror"):
            raise ValueError(f"augment is 'shift_and_flip', 'mirror' or None, got {self.augment!r}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"a batch of {self.batch_size} does not divide into {self.accumulate} equal parts")

    def model_arguments(self, data: Data) -> dict:
        """The builder's arguments for these data."""
        return {**data.model_arguments(), **self.objective.model_arguments(data), **self.arguments}

    def build(self, data: Data) -> Flow:
        """The model, sized for this data. Raises ValueError if it is for another kind of data."""
        builder, given = getattr(models, self.builder), set(data.model_arguments())
        taken = set(inspect.signature(builder).parameters) & {"shape", "num_grey_levels", "source_channels"}
        if not given <= taken or "num_grey_levels" in taken - given:
            kind = "points" if "num_grey_levels" not in given else "pairs" if "source_channels" in given else "images"
            raise ValueError(f"the model {self.builder} is not for {kind} such as {data.name}; choose another recipe")
        return builder(**self.model_arguments(data))

    def to_json(self) -> dict:
        """All settings as JSON holds them, those of the objective among the others."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "objective"}
        return json.loads(json.dumps(own | self.objective.to_json()))


def upgraded(settings: dict) -> dict:
    """``Recipe.to_json`` of an earlier version as this one writes it: it left out default arguments of a task."""
    if not settings.get("task"):
        return settings
    task = tasks.get(settings["task"], **settings["task_arguments"])
    return {**settings, **Translation(task, settings["source_weight"]).to_json()}


# The schedule of the UvA tutorial: Adam 1e-3, decay 0.99, 200 epochs, batch 128, clipping at 1, validation every 5
# epochs. The warm-up and the averaged weights are ours.
_DIGITS = {"data": "digits", "decay_per_epoch": 0.997, "epochs": 600}
_TUTORIAL = {
    "digits-simple": Recipe(
        "checkerboard couplings with uniform noise, 8x8 digits", builder="digits_simple", **_DIGITS
    ),
    "digits-variational": Recipe(
        "checkerboard couplings with variational dequantization, 8x8 digits", builder="digits_variational", **_DIGITS
    ),
    "digits-multiscale": Recipe("multi-scale flow of two levels, 8x8 digits", builder="digits_multiscale", **_DIGITS),
    "mnist-simple": Recipe("UvA tutorial, uniform noise (published: 1.078 bits/dim, M = 8)", "mnist", "simple"),
    "mnist-variational": Recipe(
        "UvA tutorial, variational dequantization (published: 1.043, M = 8)", "mnist", "variational"
    ),
    "mnist-multiscale": Recipe("UvA tutorial, multi-scale (published: 1.020 bits/dim, M = 8)", "mnist", "multiscale"),
    "photo-patches-multiscale": Recipe(
        "the UvA tutorial's multi-scale flow, 32x32 colour crops", "photo-patches", "multiscale"
    ),
    "cifar10-multiscale": Recipe("the UvA tutorial's multi-scale flow, 32x32 colour", "cifar10", "multiscale"),
}

# Glow's model of CIFAR-10. The sizes of mnist-glow, below, are ours: its paper has no MNIST.
_GLOW = {
    "cifar10-glow": Recipe(
        "Glow at its paper's size, 32x32 colour",
        "cifar10",
        "glow",
        {"num_scales": 3, "num_steps": 32, "hidden_channels": 512},
        decay_per_epoch=1.0,
        epochs=1000,
        augment="shift_and_flip",
    ),
}


# The schedule of mAR-SCF: Adamax 8e-4 without decay, a warm-up over 10,000 images, batches of 128 (affine couplings)
# and 64 (mixtures), about 400 epochs. Clipping, averaged weights and a validation set are ours, and so is the native
# size of MNIST, 28x28 in one channel, where only two squeezes fit: the authors' code copies the grey image into three
# channels.
def _mar_scf(data: str, title: str, coupling: str, num_scales: int, augment: str | None = None) -> Recipe:
    batch_size, num_steps, hidden_channels = {"affine": (128, 32, 512), "mixlogcdf": (64, 4, 96)}[coupling]
    return Recipe(
        f"mAR-SCF with {_COUPLINGS[coupling]} couplings, {title}",
        data,
        "mar_scf",
        {
            "coupling": coupling,
            "num_steps": num_steps,
            "hidden_channels": hidden_channels,
            "num_scales": num_scales,
        },
        batch_size=batch_size,
        epochs=400,
        optimizer="Adamax",
        learning_rate=8e-4,
        decay_per_epoch=1.0,
        warmup_steps=10_000 // batch_size,
        augment=augment,
    )


_COUPLINGS = {"affine": "affine", "mixlogcdf": "mixture"}
_MAR_SCF = {
    "mnist-marscf-affine": _mar_scf("mnist", "28x28", "affine", num_scales=2),
    "mnist-marscf-mixlogcdf": _mar_scf("mnist", "28x28", "mixlogcdf", num_scales=2),
    "cifar10-marscf-affine": _mar_scf("cifar10", "32x32 colour", "affine", 3, "shift_and_flip"),
    "cifar10-marscf-mixlogcdf": _mar_scf("cifar10", "32x32 colour", "mixlogcdf", 3, "shift_and_flip"),
    "imagenet32-marscf-affine": _mar_scf("imagenet32", "32x32 colour", "affine", num_scales=3),
    "imagenet32-marscf-mixlogcdf": _mar_scf("imagenet32", "32x32 colour", "mixlogcdf", num_scales=3),
    "imagenet64-marscf-affine": _mar_scf("imagenet64", "64x64 colour", "affine", num_scales=4),
    "imagenet64-marscf-mixlogcdf": _mar_scf("imagenet64", "64x64 colour", "mixlogcdf", num_scales=4),
}


# The schedule of Residual Flows: Adam 1e-3 with betas 0.9 and 0.99 and without decay of the learning rate, a warm-up
# over 1,000 steps, batches of 64, clipping at 1, averaged weights. Weight decay as in the paper (none on MNIST): the
# authors' code names one and never applies it. The validation set is ours.
def _residual(description: str, data: str, builder: str, **changes: Any) -> Recipe:
    settings = {
        "batch_size": 64,
        "epochs": 1000,
        "optimizer": "AdamW",
        "betas": (0.9, 0.99),
        "weight_decay": 5e-4,
        "decay_per_epoch": 1.0,
        "warmup_steps": 1000,
    }
    return Recipe(description, data, builder, **{**settings, **changes})


def _residual_2d(name: str) -> Recipe:
    return _residual(
        f"Residual Flow of 100 blocks, toy density {name}",
        name,
        "residual_flow_2d",
        batch_size=500,
        epochs=125,
        betas=(0.9, 0.999),
        weight_decay=1e-5,
        warmup_steps=0,
        validate_every=1,
    )


_RESIDUAL = {
    "mnist-residual": _residual("Residual Flow, 28x28", "mnist", "residual_flow_mnist", weight_decay=0.0),
    "cifar10-residual": _residual("Residual Flow, 32x32 colour", "cifar10", "residual_flow", augment="mirror"),
    "imagenet32-residual": _residual("Residual Flow, 32x32 colour", "imagenet32", "residual_flow_imagenet32"),
    "imagenet64-residual": _residual("Residual Flow, 64x64 colour", "imagenet64", "residual_flow_imagenet64"),
    "celeba-hq-residual": _residual(
        "Residual Flow with ELU, 256x256 colour in 5 bits",
        "celeba-hq-256-5bit",
        "residual_flow_celeba_hq",
        batch_size=40,
        accumulate=5,
        augment="mirror",
    ),
    "mnist-joint": _residual(
        "Residual Flow that also classifies, 28x28",
        "mnist",
        "joint_residual_flow",
        objective=WithClassifier(1 / 784),
    ),
    "8gaussians-residual": _residual_2d("8gaussians"),
    "pinwheel-residual": _residual_2d("pinwheel"),
    "swissroll-residual": _residual_2d("swissroll"),
    "circles-residual": _residual_2d("circles"),
    "moons-residual": _residual_2d("moons"),
    "2spirals-residual": _residual_2d("2spirals"),
    "checkerboard-residual": _residual_2d("checkerboard"),
    "rings-residual": _residual_2d("rings"),
}


# The schedule of CAFLOW's code: Adam 1e-3, a warm-up over 500 steps, batches of 8, clipping at 1, averaged weights, a
# tenth of the rate once training levels off. Lambda, the learning rates and the sizes of each experiment of the paper
# are not known to us: these are the code's defaults, with the paper's advice of a larger lambda and a smaller rate for
# inpainting. The paper's 64x64 images come from the folders of the data sets, given with --data.
def _caflow(description: str, data: str | None, task: Task, weight: float = 1e-3, **changes: Any) -> Recipe:
    settings = {
        "builder": "caflow",
        "arguments": {"relation": "unshared"},
        "batch_size": 8,
        "epochs": 100,
        "decay_per_epoch": 0.999,
        "warmup_steps": 500,
        "drop_at_step": 70_000,
        "objective": Translation(task, weight),
    }
    return Recipe(description, data, **{**settings, **changes})


_CAFLOW = {
    "ffhq-caflow-super-resolution": _caflow(
        "CAFLOW, super-resolution of faces, 16x16 to 64x64",
        None,
        SuperResolution(4),
        arguments={"relation": "unshared", "num_noise_steps": 6},
    ),
    "lsun-caflow-colorization": _caflow("CAFLOW, colorization of bedrooms, 64x64", None, Colorization(3)),
    "celeba-caflow-inpainting": _caflow(
        "CAFLOW, inpainting of the middle of faces, 64x64", None, Inpainting(), weight=1e-2, learning_rate=1e-4
    ),
    "edges2shoes-caflow": _caflow("CAFLOW, shoes from their edges, 64x64, both in one file", None, SideBySide()),
}

# Models that a laptop or one GPU can train: sizes and schedule are ours, and so is learned noise where it is named.
# With uniform noise a small flow spends its first thousands of steps on the sharp edges of the pixels' bins.
_NOISE = {"num_noise_couplings": 2, "noise_channels": 8}
_MNIST_NOISE = {"num_noise_couplings": 4, "noise_channels": 16}
_MNIST_AFFINE = {"num_scales": 2, "num_steps": 12, "hidden_channels": 96, **_MNIST_NOISE}
_MNIST_PRIOR = {"prior_channels": 16, "prior_layers": 2}
_SMALL_MIXTURES = {"num_steps": 2, "hidden_channels": 48, "num_blocks": 3, "num_components": 8, "dropout": 0.0}
# Uniform noise: in one run each of 100 seconds, learned noise had 4.23 bits/dim and uniform noise 4.18.
_PORTRAITS = {"data": "portraits", "batch_size": 16, "epochs": 100, "learning_rate": 3e-3}
# With scales down to 0, 2 of 250 samples overflowed after 20,000 steps.
_PORTRAITS_AFFINE = {"num_scales": 3, "num_steps": 8, "hidden_channels": 96, "lowest_scale": 0.3}
_TINY_IMAGENET = {"data": "tiny-imagenet-32", "builder": "mar_scf", "batch_size": 64, "epochs": 100}
_SMALL = {
    # portraits-glow and portraits-marscf differ only in their priors; so do mnist-glow and mnist-marscf.
    "portraits-glow": Recipe(
        "small Glow, drawn faces",
        builder="glow",
        arguments=_PORTRAITS_AFFINE,
        **_PORTRAITS,
    ),
    "portraits-glow-attributes": Recipe(
        "small Glow given attributes, drawn faces",
        builder="glow",
        arguments=_PORTRAITS_AFFINE,
        objective=GivenLabels(),
        **_PORTRAITS,
    ),
    "portraits-marscf": Recipe(
        "small mAR-SCF, affine couplings, drawn faces",
        builder="mar_scf",
        arguments={"coupling": "affine", **_PORTRAITS_AFFINE, **_MNIST_PRIOR},
        **_PORTRAITS,
    ),
    "mnist-glow": Recipe(
        "small Glow with variational dequantization, 28x28", "mnist", "glow", _MNIST_AFFINE, learning_rate=2e-3
    ),
    "mnist-glow-classes": Recipe(
        "small Glow given the class, variational dequantization, 28x28",
        "mnist",
        "glow",
        _MNIST_AFFINE,
        learning_rate=2e-3,
        objective=GivenLabels(),
    ),
    "mnist-marscf": Recipe(
        "small mAR-SCF, affine couplings, variational dequantization, 28x28",
        "mnist",
        "mar_scf",
        {"coupling": "affine", **_MNIST_AFFINE, **_MNIST_PRIOR},
        learning_rate=2e-3,
    ),
    "mnist-marscf-mixlogcdf-small": Recipe(
        "small mAR-SCF, mixture couplings, variational dequantization, 28x28",
        "mnist",
        "mar_scf",
        {"coupling": "mixlogcdf", "num_scales": 2, **_SMALL_MIXTURES, **_MNIST_PRIOR, **_MNIST_NOISE},
        learning_rate=2e-3,
    ),
    "mnist-residual-small": Recipe(
        "small Residual Flow that begins with a squeeze, 28x28",
        "mnist",
        "residual_flow_mnist",
        {"num_blocks": (6, 6), "hidden_channels": 64, "end_features": 64, "squeeze_first": True, "in_forward": False},
        learning_rate=2e-3,
    ),
    "digits-residual": Recipe(
        "Residual Flow, 8x8 digits", builder="digits_residual_flow", arguments={"in_forward": False}, **_DIGITS
    ),
    "digits-joint": Recipe(
        "Residual Flow that also classifies, 8x8 digits",
        builder="digits_joint_residual_flow",
        arguments={"in_forward": False},
        objective=WithClassifier(1 / 64),
        **_DIGITS,
    ),
    "digits-glow": Recipe("Glow, 8x8 digits", builder="digits_glow", **_DIGITS),
    "digits-marscf-affine": Recipe(
        "mAR-SCF, affine couplings, variational dequantization, 8x8 digits",
        builder="digits_mar_scf",
        arguments={"coupling": "affine", **_NOISE},
        **_DIGITS,
    ),
    "digits-marscf-mixlogcdf": Recipe(
        "mAR-SCF, mixture couplings, variational dequantization, 8x8 digits",
        builder="digits_mar_scf",
        arguments={"coupling": "mixlogcdf", **_NOISE},
        **_DIGITS,
    ),
    "tiny-imagenet-32-marscf-affine": Recipe(
        "small mAR-SCF with affine couplings, 32x32 colour",
        arguments={
            "coupling": "affine",
            "num_scales": 3,
            **_NOISE,
            "num_steps": 8,
            "hidden_channels": 128,
            "lowest_scale": 0.5,
        },
        **_TINY_IMAGENET,
    ),
    "tiny-imagenet-32-marscf-mixlogcdf": Recipe(
        "small mAR-SCF with mixture couplings, 32x32 colour",
        arguments={"coupling": "mixlogcdf", "num_scales": 3, **_NOISE, **_SMALL_MIXTURES},
        **_TINY_IMAGENET,
    ),
}

# Transformers over patches. The sizes of mnist and portraits, their schedule and learned noise are ours. A block moves
# each pixel by a shift and a scale that other patches choose, which does not change the form of its noise: uniform
# noise would cost 0.25 bits for each pixel that the others determine, such as those of a black border. In runs of 100
# seconds mnist-tarflow had 1.45 bits/dim at a rate of 1e-3 and 1.38 at 3e-3; longer ones want a lower one.
_TRANSFORMER = {"builder": "tarflow", "optimizer": "AdamW", "betas": (0.9, 0.95), "weight_decay": 1e-4}
_SMALL_TRANSFORMER = {
    "patch_size": 4,
    "width": 96,
    "num_blocks": 4,
    "num_layers": 2,
    "num_heads": 4,
    "label_channels": 32,
    "label_dropout": 0.1,
}
_TARFLOW = {
    "imagenet64-tarflow": Recipe(
        "TarFlow at the size of its paper, 64x64 colour",
        "imagenet64",
        batch_size=256,
        epochs=200,
        learning_rate=1e-4,
        **_TRANSFORMER,
    ),
    "mnist-tarflow": Recipe(
        "small TarFlow given the class, variational dequantization, 28x28",
        "mnist",
        arguments={**_SMALL_TRANSFORMER, **_NOISE},
        batch_size=32,
        epochs=100,
        learning_rate=2e-3,
        objective=GivenLabels(),
        **_TRANSFORMER,
    ),
    "portraits-tarflow": Recipe(
        "small TarFlow given attributes, drawn faces",
        "portraits",
        arguments=_SMALL_TRANSFORMER,
        batch_size=16,
        epochs=100,
        learning_rate=2e-3,
        objective=GivenLabels(),
        **_TRANSFORMER,
    ),
}

# Autoregressive flows; sizes and schedule are ours. A transformer learns fastest with the second beta at 0.95.
_MOONS = {"data": "moons", "batch_size": 500, "epochs": 20, "decay_per_epoch": 0.8, "validate_every": 1}
_PIXELS = {"optimizer": "AdamW", "learning_rate": 2e-3, "betas": (0.9, 0.95), "weight_decay": 0.01}
_AUTOREGRESSIVE = {
    "moons-maf": Recipe("masked autoregressive flow, toy density moons", builder="maf_2d", **_MOONS),
    "moons-iaf": Recipe("inverse autoregressive flow, toy density moons", builder="iaf_2d", **_MOONS),
    "moons-nsf": Recipe("autoregressive flow of splines, toy density moons", builder="nsf_2d", **_MOONS),
    "digits-maf": Recipe("masked autoregressive flow, 8x8 digits", builder="digits_maf", **_DIGITS),
    "digits-iaf": Recipe("inverse autoregressive flow, 8x8 digits", builder="digits_iaf", **_DIGITS),
    "digits-nsf": Recipe("spline couplings, variational dequantization, 8x8 digits", builder="digits_nsf", **_DIGITS),
    "digits-pixelflow": Recipe(
        "autoregressive model of integers, exact, 8x8 digits", builder="digits_pixelflow", **{**_DIGITS, **_PIXELS}
    ),
    "mnist-pixelflow": Recipe(
        "autoregressive model of integers, exact, 28x28",
        "mnist",
        "pixelflow",
        batch_size=32,
        epochs=40,
        **{**_PIXELS, "learning_rate": 4e-3},
    ),
    "portraits-pixelflow": Recipe(
        "autoregressive model of integers, exact, drawn faces",
        "portraits",
        "pixelflow",
        {"piece": 8, "reach": 4},
        batch_size=32,
        epochs=100,
        **_PIXELS,
    ),
}

# Small translations: sizes and schedule are ours. Each task has a ladder of four models of equal size, which differ
# only in their relation. With two levels, as for mnist and digits, the two CAFLOWs are the same model.
_RELATIONS = {
    "gaussian": "Dual-Glow",
    "per-level": "a flow per level",
    "shared": "CAFLOW with shared blocks",
    "unshared": "CAFLOW",
}


def _small(data: str, size: str, relation: str, task: Task, arguments: dict, **changes: Any) -> Recipe:
    return _caflow(
        f"{_RELATIONS[relation]}, {task.name}, {size}",
        data,
        task,
        **{"arguments": {"relation": relation, **arguments}, "drop_at_step": None, **changes},
    )


def _tiny_imagenet(relation: str, task: Task) -> Recipe:
    sizes = {"num_scales": 3, "num_steps": 4, "num_relation_steps": 2, "hidden_channels": 48, "relation_channels": 16}
    schedule = {"batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 200}
    return _small("tiny-imagenet-32", "32x32", relation, task, sizes, **schedule)


def _mnist(relation: str, task: Task) -> Recipe:
    sizes = {"num_scales": 2, "num_steps": 4, "num_relation_steps": 4, "num_noise_steps": 2}
    return _small("mnist", "28x28", relation, task, sizes, batch_size=64)


def _digits(relation: str, task: Task) -> Recipe:
    schedule = {"batch_size": 64, "epochs": 600, "warmup_steps": 100, "decay_per_epoch": 0.997}
    return _small("digits", "8x8 digits", relation, task, {}, builder="digits_caflow", **schedule)


def _photo_patches(relation: str, task: Task) -> Recipe:
    sizes = {"num_scales": 3, "num_steps": 2, "num_relation_steps": 2, "hidden_channels": 32, "relation_channels": 16}
    return _small("photo-patches", "32x32", relation, task, sizes, batch_size=32, warmup_steps=200)


def _drawn_faces(relation: str, task: Task) -> Recipe:
    sizes = {"num_scales": 3, "num_steps": 4, "num_relation_steps": 2, "hidden_channels": 48, "relation_channels": 16}
    schedule = {"batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 200}
    return _small("portraits", "drawn faces", relation, task, sizes, **schedule)


_SMALL_CAFLOW = {
    "portraits-dual-glow-super-resolution": _drawn_faces("gaussian", SuperResolution(4)),
    "portraits-per-level-super-resolution": _drawn_faces("per-level", SuperResolution(4)),
    "portraits-caflow-shared-super-resolution": _drawn_faces("shared", SuperResolution(4)),
    "portraits-caflow-super-resolution": _drawn_faces("unshared", SuperResolution(4)),
    "portraits-dual-glow-colorization": _drawn_faces("gaussian", Colorization()),
    "portraits-per-level-colorization": _drawn_faces("per-level", Colorization()),
    "portraits-caflow-shared-colorization": _drawn_faces("shared", Colorization()),
    "portraits-caflow-colorization": _drawn_faces("unshared", Colorization()),
    "portraits-dual-glow-inpainting": _drawn_faces("gaussian", Inpainting()),
    "portraits-per-level-inpainting": _drawn_faces("per-level", Inpainting()),
    "portraits-caflow-shared-inpainting": _drawn_faces("shared", Inpainting()),
    "portraits-caflow-inpainting": _drawn_faces("unshared", Inpainting()),
    "tiny-imagenet-32-dual-glow-super-resolution": _tiny_imagenet("gaussian", SuperResolution(4)),
    "tiny-imagenet-32-per-level-super-resolution": _tiny_imagenet("per-level", SuperResolution(4)),
    "tiny-imagenet-32-caflow-shared-super-resolution": _tiny_imagenet("shared", SuperResolution(4)),
    "tiny-imagenet-32-caflow-super-resolution": _tiny_imagenet("unshared", SuperResolution(4)),
    "tiny-imagenet-32-dual-glow-colorization": _tiny_imagenet("gaussian", Colorization()),
    "tiny-imagenet-32-per-level-colorization": _tiny_imagenet("per-level", Colorization()),
    "tiny-imagenet-32-caflow-shared-colorization": _tiny_imagenet("shared", Colorization()),
    "tiny-imagenet-32-caflow-colorization": _tiny_imagenet("unshared", Colorization()),
    "tiny-imagenet-32-dual-glow-inpainting": _tiny_imagenet("gaussian", Inpainting()),
    "tiny-imagenet-32-per-level-inpainting": _tiny_imagenet("per-level", Inpainting()),
    "tiny-imagenet-32-caflow-shared-inpainting": _tiny_imagenet("shared", Inpainting()),
    "tiny-imagenet-32-caflow-inpainting": _tiny_imagenet("unshared", Inpainting()),
    "mnist-dual-glow-super-resolution": _mnist("gaussian", SuperResolution(4)),
    "mnist-per-level-super-resolution": _mnist("per-level", SuperResolution(4)),
    "mnist-caflow-shared-super-resolution": _mnist("shared", SuperResolution(4)),
    "mnist-caflow-super-resolution": _mnist("unshared", SuperResolution(4)),
    "mnist-dual-glow-inpainting": _mnist("gaussian", Inpainting("half")),
    "mnist-per-level-inpainting": _mnist("per-level", Inpainting("half")),
    "mnist-caflow-shared-inpainting": _mnist("shared", Inpainting("half")),
    "mnist-caflow-inpainting": _mnist("unshared", Inpainting("half")),
    "digits-dual-glow-super-resolution": _digits("gaussian", SuperResolution(2)),
    "digits-per-level-super-resolution": _digits("per-level", SuperResolution(2)),
    "digits-caflow-shared-super-resolution": _digits("shared", SuperResolution(2)),
    "digits-caflow-super-resolution": _digits("unshared", SuperResolution(2)),
    "photo-patches-dual-glow-colorization": _photo_patches("gaussian", Colorization()),
    "photo-patches-per-level-colorization": _photo_patches("per-level", Colorization()),
    "photo-patches-caflow-shared-colorization": _photo_patches("shared", Colorization()),
    "photo-patches-caflow-colorization": _photo_patches("unshared", Colorization()),
}

RECIPES = _TUTORIAL | _GLOW | _MAR_SCF | _RESIDUAL | _CAFLOW | _SMALL | _AUTOREGRESSIVE | _TARFLOW | _SMALL_CAFLOW


def get(name: str) -> Recipe:
    """The recipe of this name. Raises ValueError naming the known ones."""
    if name not in RECIPES:
        raise ValueError(f"no recipe named {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]
