"""What ``nbflows train NAME`` runs: model, data and schedule by name."""

import inspect
import json
from dataclasses import asdict, dataclass, field

from nbflows import inputs, models, tasks
from nbflows.data import Data, PairData, toys
from nbflows.flow import Flow

# What a resumed training may have otherwise. All else decides what its weights, its optimizer or its place in the data
# mean; the data have a fingerprint of their own.
CHANGEABLE = {"description", "data", "epochs", "learning_rate", "decay_per_epoch", "warmup_steps", "drop_at_step"}
CHANGEABLE |= {"clip_norm", "ema_decay", "validate_every"}

# The least of each number that the command line does not set; ``inputs.RANGES`` has the others.
_WHOLE = {"accumulate": 1, "warmup_steps": 0, "validate_every": 1}
# Averages with a weight of 1 for the past never move.
_ALMOST_1 = 1 - 1e-9
_REAL = ("learning_rate", "weight_decay", "decay_per_epoch", "source_weight")


@dataclass(frozen=True)
class Recipe:
    """A model, the data it is trained on, and how.

    Attributes:
        description: one line for ``nbflows list``.
        data: a name of ``nbflows.data``; None for images of one's own, which are then given with it.
        builder: a function of ``nbflows.models`` that takes ``shape`` and ``num_levels``.
        arguments: further ones for the builder.
        batch_size: over all devices.
        accumulate: a batch is worked through in so many parts, whose gradients are averaged.
        epochs: how many.
        optimizer: "Adam", "AdamW" (Adam with decoupled weight decay) or "Adamax", of torch.optim.
        learning_rate: of the optimizer.
        betas: of the optimizer.
        weight_decay: of AdamW.
        decay_per_epoch: the learning rate is multiplied by this after every epoch (StepLR).
        warmup_steps: over which the learning rate grows linearly from 0.
        drop_at_step: from this step on the learning rate is a tenth; None for never.
        clip_norm: gradients are scaled to at most this norm.
        ema_decay: of the averaged weights, which are validated and saved.
        augment: what happens to training images at random: "shift_and_flip", "mirror" or None.
        density_weight: lambda of joint training, lambda log2 p(x) + log2 p(label | x); None for the density alone.
        task: of ``nbflows.tasks``: makes pairs out of the images, for a model of p(target | source); None for p(x).
        task_arguments: of the task.
        source_weight: lambda of its training, log2 p(target | source) + lambda log2 p(source).
        validate_every: epochs between validations, and between pictures of samples.
        seed: of the weights, the order of the data and the noise.
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
    density_weight: float | None = None
    task: str | None = None
    task_arguments: dict = field(default_factory=dict)
    source_weight: float = 0.0
    validate_every: int = 5
    seed: int = 42

    def __post_init__(self):
        checked = {name: inputs.whole(getattr(self, name), name, low) for name, low in _WHOLE.items()}
        checked |= {name: inputs.number(getattr(self, name), name, 0) for name in _REAL}
        checked |= {name: inputs.check(name, getattr(self, name)) for name in ("batch_size", "epochs")}
        checked["clip_norm"] = inputs.number(self.clip_norm, "clip_norm", above=0)
        checked["ema_decay"] = inputs.number(self.ema_decay, "ema_decay", 0, _ALMOST_1)
        if not (isinstance(self.betas, (tuple, list)) and len(self.betas) == 2):
            raise ValueError(f"betas are two numbers, got {self.betas!r}")
        checked["betas"] = tuple(inputs.number(beta, "each of betas", 0, _ALMOST_1) for beta in self.betas)
        checked["seed"] = inputs.RANGES["seed of a training"](self.seed, "seed")
        if self.density_weight is not None:
            checked["density_weight"] = inputs.number(self.density_weight, "density_weight", 0)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.optimizer not in ("Adam", "AdamW", "Adamax"):
            raise ValueError(f"optimizer is 'Adam', 'AdamW' or 'Adamax', got {self.optimizer!r}")
        if self.weight_decay and self.optimizer != "AdamW":
            raise ValueError(f"weight_decay {self.weight_decay} is of AdamW alone, the optimizer is {self.optimizer}")
        if self.augment not in (None, "shift_and_flip", "mirror"):
            raise ValueError(f"augment is 'shift_and_flip', 'mirror' or None, got {self.augment!r}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"a batch of {self.batch_size} does not divide into {self.accumulate} equal parts")

    def prepare(self, data: Data) -> Data:
        """The data as this recipe needs them: pairs for a task, unless they are pairs already."""
        if self.task is None or isinstance(data, PairData):
            return data
        return tasks.apply(tasks.get(self.task, **self.task_arguments), data)

    def model_arguments(self, data: Data) -> dict:
        """The builder's arguments for this data."""
        return {**data.model_arguments(), **self.arguments}

    def build(self, data: Data) -> Flow:
        """The model, sized for this data. Raises ValueError if it is for data of another kind."""
        builder, given = getattr(models, self.builder), set(data.model_arguments())
        taken = set(inspect.signature(builder).parameters) & {"shape", "num_levels", "source_channels"}
        if not given <= taken or "num_levels" in taken - given:
            kind = "points" if "num_levels" not in given else "pairs" if "source_channels" in given else "images"
            raise ValueError(f"the model {self.builder} is not for {kind} such as {data.name}; choose another recipe")
        return builder(**self.model_arguments(data))

    def to_json(self) -> dict:
        """All settings, as they are after a way through JSON."""
        return json.loads(json.dumps(asdict(self)))


# The schedule of the UvA tutorial: Adam 1e-3, decay 0.99, 200 epochs, batch 128, clipping at 1, validation every 5
# epochs. Ours are the warm-up and the averaged weights.
_TUTORIAL = {
    "digits-simple": Recipe(
        "checkerboard couplings with uniform noise, 8x8 digits",
        "digits",
        "digits_simple",
        decay_per_epoch=0.997,
        epochs=600,
    ),
    "digits-variational": Recipe(
        "checkerboard couplings with variational dequantization, 8x8 digits",
        "digits",
        "digits_variational",
        decay_per_epoch=0.997,
        epochs=600,
    ),
    "digits-multiscale": Recipe(
        "multi-scale flow of two levels, 8x8 digits", "digits", "digits_multiscale", decay_per_epoch=0.997, epochs=600
    ),
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


# The schedule of mAR-SCF: Adamax 8e-4 without decay, a warm-up over 10,000 images, batches of 128 (affine couplings)
# and 64 (mixtures), about 400 epochs. Ours are clipping, averaged weights, a validation set, and for MNIST the native
# 28x28 in one channel, where only two squeezes fit: the authors' code copies the grey image into three channels.
_COUPLINGS = {"affine": "affine", "mixlogcdf": "mixture"}


def _mar_scf(data: str, coupling: str, title: str, **sizes) -> Recipe:
    batch_size = 128 if coupling == "affine" else 64
    steps = {"affine": (32, 512), "mixlogcdf": (4, 96)}[coupling]
    return Recipe(
        f"mAR-SCF with {_COUPLINGS[coupling]} couplings, {title}",
        data,
        "mar_scf",
        {"coupling": coupling, "num_steps": steps[0], "hidden_channels": steps[1], **sizes},
        batch_size=batch_size,
        epochs=400,
        optimizer="Adamax",
        learning_rate=8e-4,
        decay_per_epoch=1.0,
        warmup_steps=10_000 // batch_size,
        augment="shift_and_flip" if data == "cifar10" else None,
    )


_MAR_SCF = {
    f"{data}-marscf-{coupling}": _mar_scf(data, coupling, title, num_scales=num_scales)
    for data, title, num_scales in (
        ("mnist", "28x28", 2),
        ("cifar10", "32x32 colour", 3),
        ("imagenet32", "32x32 colour", 3),
        ("imagenet64", "64x64 colour", 4),
    )
    for coupling in ("affine", "mixlogcdf")
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


# The schedule of Residual Flows: Adam 1e-3 with betas 0.9 and 0.99 and without decay of the learning rate, a warm-up
# over 1,000 steps, batches of 64, clipping at 1, averaged weights. Weight decay as in the paper (none on MNIST): the
# authors' code names one, and never applies it. Ours is the validation set.
def _residual(description: str, data: str, builder: str, **changes) -> Recipe:
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
        "Residual Flow that also classifies, 28x28", "mnist", "joint_residual_flow", density_weight=1 / 784
    ),
    **{
        f"{name}-residual": _residual(
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
        for name in toys.names()
    },
}

# What a laptop or one GPU can train: sizes and schedule are ours, and so is learned noise where it is named. With
# uniform noise a small flow spends its first thousands of steps on the sharp edges of the pixels' bins.
_NOISE = {"num_noise_couplings": 2, "noise_channels": 8}
_MNIST_NOISE = {"num_noise_couplings": 4, "noise_channels": 16}
_MNIST_AFFINE = {"num_scales": 2, "num_steps": 12, "hidden_channels": 96, **_MNIST_NOISE}
_MNIST_PRIOR = {"prior_channels": 16, "prior_layers": 2}
_SMALL_MIXTURES = {"num_steps": 2, "hidden_channels": 48, "num_blocks": 3, "num_components": 8, "dropout": 0.0}
_SMALL = {
    # These two differ in nothing but their priors.
    "mnist-glow": Recipe(
        "small Glow with variational dequantization, 28x28", "mnist", "glow", _MNIST_AFFINE, learning_rate=2e-3
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
        "Residual Flow, 8x8 digits",
        "digits",
        "digits_residual_flow",
        {"in_forward": False},
        decay_per_epoch=0.997,
        epochs=600,
    ),
    "digits-joint": Recipe(
        "Residual Flow that also classifies, 8x8 digits",
        "digits",
        "digits_joint_residual_flow",
        {"in_forward": False},
        decay_per_epoch=0.997,
        epochs=600,
        density_weight=1 / 64,
    ),
    "digits-glow": Recipe("Glow, 8x8 digits", "digits", "digits_glow", decay_per_epoch=0.997, epochs=600),
    **{
        f"digits-marscf-{coupling}": Recipe(
            f"mAR-SCF, {_COUPLINGS[coupling]} couplings, variational dequantization, 8x8 digits",
            "digits",
            "digits_mar_scf",
            {"coupling": coupling, **_NOISE},
            decay_per_epoch=0.997,
            epochs=600,
        )
        for coupling in ("affine", "mixlogcdf")
    },
    **{
        f"tiny-imagenet-32-marscf-{coupling}": Recipe(
            f"small mAR-SCF with {_COUPLINGS[coupling]} couplings, 32x32 colour",
            "tiny-imagenet-32",
            "mar_scf",
            {"coupling": coupling, "num_scales": 3, **_NOISE, **sizes},
            batch_size=64,
            epochs=100,
        )
        for coupling, sizes in (
            ("affine", {"num_steps": 8, "hidden_channels": 128, "lowest_scale": 0.5}),
            ("mixlogcdf", _SMALL_MIXTURES),
        )
    },
}


# The schedule of CAFLOW's code: Adam 1e-3, a warm-up over 500 steps, batches of 8, clipping at 1, averaged weights, a
# tenth of the rate once training levels off. Lambda, the learning rates and the sizes of each experiment of the paper
# are not known to us: these are the code's defaults, with the paper's advice of a larger lambda and a smaller rate for
# inpainting. The paper's 64x64 images come from the folders of the data sets, given with --data.
def _caflow(description: str, data: str | None, task: str, relation: str = "unshared", **changes) -> Recipe:
    settings = {
        "builder": "caflow",
        "arguments": {"relation": relation},
        "batch_size": 8,
        "epochs": 100,
        "decay_per_epoch": 0.999,
        "warmup_steps": 500,
        "drop_at_step": 70_000,
        "source_weight": 1e-3,
        "task": task,
    }
    return Recipe(description, data, **{**settings, **changes})


_CAFLOW = {
    "ffhq-caflow-super-resolution": _caflow(
        "CAFLOW, super-resolution of faces, 16x16 to 64x64",
        None,
        "super-resolution",
        task_arguments={"factor": 4},
        arguments={"relation": "unshared", "num_noise_steps": 6},
    ),
    "lsun-caflow-colorization": _caflow(
        "CAFLOW, colorization of bedrooms, 64x64", None, "colorization", task_arguments={"num_channels": 3}
    ),
    "celeba-caflow-inpainting": _caflow(
        "CAFLOW, inpainting of the middle of faces, 64x64", None, "inpainting", source_weight=1e-2, learning_rate=1e-4
    ),
    "edges2shoes-caflow": _caflow("CAFLOW, shoes from their edges, 64x64, both in one file", None, "side-by-side"),
}

# Smaller ones: sizes and schedule are ours. Of each task the ladder of four models at equal size; with two levels, as
# for mnist and digits, the two CAFLOWs are one model.
_LADDER = {"dual-glow": "gaussian", "per-level": "per-level", "caflow-shared": "shared", "caflow": "unshared"}
_LADDER_TITLES = {
    "dual-glow": "Dual-Glow",
    "per-level": "a flow per level",
    "caflow-shared": "CAFLOW with shared blocks",
    "caflow": "CAFLOW",
}


def _ladder(data: str, title: str, tasks_of_data: dict[str, dict], builder: str, arguments: dict, **changes) -> dict:
    return {
        f"{data}-{model}-{task}": _caflow(
            f"{_LADDER_TITLES[model]}, {task}, {title}",
            data,
            task,
            builder=builder,
            arguments={"relation": relation, **arguments},
            task_arguments=task_arguments,
            **changes,
        )
        for task, task_arguments in tasks_of_data.items()
        for model, relation in _LADDER.items()
    }


_SMALL_CAFLOW = {
    **_ladder(
        "tiny-imagenet-32",
        "32x32",
        {"super-resolution": {"factor": 4}, "colorization": {}, "inpainting": {}},
        "caflow",
        {"num_scales": 3, "num_steps": 4, "num_relation_steps": 2, "hidden_channels": 48, "relation_channels": 16},
        batch_size=16,
        learning_rate=2e-3,
        warmup_steps=200,
        drop_at_step=None,
    ),
    **_ladder(
        "mnist",
        "28x28",
        {"super-resolution": {"factor": 4}, "inpainting": {"mask": "half"}},
        "caflow",
        {"num_scales": 2, "num_steps": 4, "num_relation_steps": 4, "num_noise_steps": 2},
        batch_size=64,
        drop_at_step=None,
    ),
    **_ladder(
        "digits",
        "8x8 digits",
        {"super-resolution": {"factor": 2}},
        "digits_caflow",
        {},
        batch_size=64,
        epochs=600,
        warmup_steps=100,
        drop_at_step=None,
        decay_per_epoch=0.997,
    ),
    **_ladder(
        "photo-patches",
        "32x32",
        {"colorization": {}},
        "caflow",
        {"num_scales": 3, "num_steps": 2, "num_relation_steps": 2, "hidden_channels": 32, "relation_channels": 16},
        batch_size=32,
        warmup_steps=200,
        drop_at_step=None,
    ),
}

RECIPES = _TUTORIAL | _GLOW | _MAR_SCF | _RESIDUAL | _CAFLOW | _SMALL | _SMALL_CAFLOW


def get(name: str) -> Recipe:
    """The recipe of this name. Raises ValueError naming the known ones."""
    if name not in RECIPES:
        raise ValueError(f"no recipe named {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]
