"""Objectives of a training: the density of images, also given labels or a source, or with a classifier."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nbflows import inputs, metrics, tasks
from nbflows.data import Data
from nbflows.data.sets import label_values, labels_of
from nbflows.flow import Flow
from nbflows.joint import JointFlow
from nbflows.labelled import LabelledFlow
from nbflows.seeded import seeded
from nbflows.translation import TranslationFlow


@dataclass(frozen=True)
class Density:
    """Minimises the mean bits/dim,  -log2 p(x) / D,  of a flow.

    The other objectives are subclasses.

    Attributes:
        minimised: the loss, by its name in ``measured``.
        measured: names of all values that ``measure`` returns and the training logs.
        model: the kind of flow it trains.
        labelled: whether the labels of the data are trained on.
        task: makes pairs of images; None if the data are used as they are.
    """

    minimised: ClassVar[str] = "bits_per_dim"
    measured: ClassVar[tuple[str, ...]] = ("bits_per_dim",)
    model: ClassVar[type[Flow]] = Flow
    labelled: ClassVar[bool] = False
    task: ClassVar[tasks.Task | None] = None

    def prepare(self, data: Data) -> Data:
        """The data as the objective needs them."""
        return data

    def paired(self, data: Data) -> dict[str, Tensor] | None:
        """The tensors beside the images, by split. Raises ValueError if the data lack them or are of another kind."""
        if data.sources is not None:
            raise ValueError(f"{data.name} has pairs of source and target: train them with the objective Translation")
        return None

    def model_arguments(self, data: Data) -> dict:
        """The builder's arguments that depend on the objective and the data."""
        return {}

    def require_fit(self, flow: Flow, data: Data) -> None:
        """Raises ValueError if the objective does not train this kind of flow on these data."""
        kind = next(kind for kind in (JointFlow, LabelledFlow, TranslationFlow, Flow) if isinstance(flow, kind))
        if kind is not self.model:
            raise ValueError(
                f"the objective {type(self).__name__} trains a {self.model.__name__}, the model is a {kind.__name__}; "
                "choose a recipe with another objective"
            )

    def augment(self, change: Callable[[Tensor], Tensor], images: Tensor, *paired: Tensor) -> tuple[Tensor, ...]:
        """A batch whose images are changed at random."""
        return (change(images), *paired)

    def flow_inputs(self, images: Tensor, *paired: Tensor) -> tuple[Tensor, ...]:
        """The tensors of a batch that the flow's ``log_prob`` takes."""
        return (images,)

    def measure(self, flow: Flow, images: Tensor, *paired: Tensor) -> dict[str, Tensor]:
        """The values in ``measured``, one per example."""
        return {"bits_per_dim": flow.bits_per_dim(images, chunk_size=len(images))}

    def draw(self, flow: Flow, data: Data) -> Tensor:
        """Pictures for the eye, the same noise at each call: 64 samples, or 10,000 points in the plane."""
        generator = torch.Generator(flow.device).manual_seed(0)
        return flow.sample(10_000 if len(flow.shape) == 1 else 64, generator=generator)

    def accuracy(self, flow: Flow, data: Data) -> metrics.Accuracy | None:
        """The accuracy of the flow's classes on the test data; None if it has none."""
        return None

    def describe(self, data: Data) -> dict:
        """Facts about the data for the JSON of a model, besides their name."""
        return {} if data.sources is None else {"task": data.task}

    def to_json(self) -> dict:
        """The settings for the JSON of a recipe, which has the keys of all objectives."""
        return {"density_weight": None, "task": None, "task_arguments": {}, "source_weight": 0.0, "given_labels": False}


@dataclass(frozen=True)
class WithClassifier(Density):
    """Minimises  -lambda log2 p(x) - log2 p(label | x)  of a ``JointFlow``.

    Args:
        weight: lambda.
    """

    minimised = "loss"
    measured = ("bits_per_dim", "loss", "accuracy")
    model = JointFlow
    labelled = True

    weight: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", inputs.number(self.weight, "the weight of the density", 0))

    def paired(self, data: Data) -> dict[str, Tensor]:
        super().paired(data)
        if data.labels is None:
            raise ValueError(f"the recipe trains a classifier too, and {data.name} has no labels")
        return data.labels

    def require_fit(self, flow: JointFlow, data: Data) -> None:
        super().require_fit(flow, data)
        largest = max(int(labels.max()) for labels in self.paired(data).values())
        if largest >= flow.num_classes:
            raise ValueError(
                f"{data.name} has labels up to {largest}, the model has {flow.num_classes} classes, 0 to "
                f"{flow.num_classes - 1}"
            )

    def measure(self, flow: JointFlow, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        log_prob, logits = flow.log_prob_and_logits(images)
        bits = -log_prob / math.log(2)
        label_bits = F.cross_entropy(logits, labels, reduction="none") / math.log(2)
        return {
            "bits_per_dim": bits / math.prod(flow.shape),
            "loss": self.weight * bits + label_bits,
            "accuracy": (logits.argmax(1) == labels).float(),
        }

    def accuracy(self, flow: JointFlow, data: Data) -> metrics.Accuracy:
        return metrics.accuracy(flow, data.test, self.paired(data)["test"], shared=True)

    def to_json(self) -> dict:
        return {**super().to_json(), "density_weight": self.weight}


@dataclass(frozen=True)
class GivenLabels(Density):
    """Minimises the mean bits/dim given labels,  -log2 p(x | labels) / D,  of a ``LabelledFlow``.

    The labels are the attributes of the images, or their classes if they have no attributes.
    """

    model = LabelledFlow
    labelled = True

    def paired(self, data: Data) -> dict[str, Tensor]:
        super().paired(data)
        return labels_of(data)

    def model_arguments(self, data: Data) -> dict:
        counts = tuple(len(values) for values in label_values(data).values())
        return {"num_classes": counts[0] if data.attributes is None else counts}

    def flow_inputs(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return images, labels

    def measure(self, flow: LabelledFlow, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"bits_per_dim": flow.bits_per_dim(images, labels, chunk_size=len(images))}

    def draw(self, flow: LabelledFlow, data: Data) -> Tensor:
        """64 samples with the labels of the first validation images, the same noise at each call."""
        labels = self.paired(data)["validation"][:64].to(flow.device)
        return flow.sample(len(labels), labels, generator=torch.Generator(flow.device).manual_seed(0))

    def describe(self, data: Data) -> dict:
        """The names of the labels' values, and the labels of 16 test images, for samples without the data."""
        return {"labels": {"values": label_values(data), "examples": self.paired(data)["test"][:16].tolist()}}

    def to_json(self) -> dict:
        return {**super().to_json(), "given_labels": True}


@dataclass(frozen=True)
class Translation(Density):
    """Minimises  -(log2 p(target | source) + lambda log2 p(source)) / D  of a ``TranslationFlow``.

    D counts the dimensions of the target.

    Args:
        task: makes the pairs out of images; None for data that are pairs already.
        weight: lambda.
    """

    minimised = "loss"
    measured = ("bits_per_dim", "loss", "source_bits_per_dim")
    model = TranslationFlow

    task: tasks.Task | None = None
    weight: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", inputs.number(self.weight, "the weight of the sources", 0))

    def prepare(self, data: Data) -> Data:
        return data if self.task is None or data.sources is not None else tasks.apply(self.task, data)

    def paired(self, data: Data) -> dict[str, Tensor]:
        if data.sources is None:
            raise ValueError(f"the recipe trains a translation, and {data.name} has no sources: give pairs, or a task")
        return data.sources

    def augment(self, change: Callable[[Tensor], Tensor], images: Tensor, sources: Tensor) -> tuple[Tensor, ...]:
        # Both change alike: the source of a mirrored image is the mirrored source.
        return change(torch.cat([images, sources], dim=1)).split([images.shape[1], sources.shape[1]], dim=1)

    def flow_inputs(self, images: Tensor, sources: Tensor) -> tuple[Tensor, ...]:
        return images, sources

    def measure(self, flow: TranslationFlow, images: Tensor, sources: Tensor) -> dict[str, Tensor]:
        log_prob, source_log_prob = flow.log_probs(images, sources)
        dimensions = math.prod(flow.shape) * math.log(2)
        return {
            "bits_per_dim": -log_prob / dimensions,
            "loss": -(log_prob + self.weight * source_log_prob) / dimensions,
            "source_bits_per_dim": -source_log_prob / (math.prod(flow.source.shape) * math.log(2)),
        }

    def draw(self, flow: TranslationFlow, data: Data) -> Tensor:
        """Source, target and 6 samples of 8 validation images, one row of the picture each."""
        device = flow.device
        sources = self.paired(data)["validation"][:8].to(device)
        targets = data.validation[: len(sources)].to(device)
        # The sources' dequantization noise comes from torch's global generator.
        with seeded(0, device):
            samples = flow.translate(sources, num_samples=6, scored=False).images
        given = tasks.with_channels(sources, targets.shape[1])
        return torch.cat([given[:, None], targets[:, None], samples], dim=1).flatten(0, 1)

    def to_json(self) -> dict:
        settings = {**super().to_json(), "source_weight": self.weight}
        if self.task is not None:
            arguments = self.task.describe()
            settings |= {"task": arguments.pop("name"), "task_arguments": arguments}
        return settings
