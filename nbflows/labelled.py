"""Flows given labels: p(x | labels), for the class of an image or for several attributes."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nbflows import inputs
from nbflows.bijection import Bijection
from nbflows.derivatives import traced
from nbflows.flow import Flow


class LabelledFlow(Flow):
    """The distribution of x given its labels, which are the context of ``log_prob``, ``sample`` and the others.

    The layers see a learned vector e for each value of each attribute, summed, the same at all positions:
    ``sum_k e[k, labels_k]``, ``(B, channels, 1, 1)`` for images. This is a linear map of one-hot codes.

    With ``label_dropout`` training leaves out all labels of an image with this probability, so that one flow has
    learned p(x | labels) and p(x): a label of -1 is not given and adds nothing.

    Args:
        bijection, shape: as for ``Flow``; the networks of the layers take a context of ``channels`` channels.
        num_classes: the number of classes, for labels ``(B,)``; or the number of values of each attribute, for labels
            ``(B, number of attributes)``. Labels are 0 to that number - 1.
        channels: the width of e.
        label_dropout: see above; 0 for a flow that needs its labels.

    Raises:
        TypeError, ValueError: labels are not whole numbers in their range, besides the errors of ``Flow``.
    """

    _sizes: Tensor
    _offsets: Tensor

    def __init__(
        self,
        bijection: Bijection,
        shape: Sequence[int],
        num_classes: int | Sequence[int],
        channels: int,
        label_dropout: float = 0.0,
    ):
        sizes = [num_classes] if isinstance(num_classes, int) else [*num_classes]
        if not sizes or min(sizes) < 1:
            raise ValueError(f"num_classes is a number of 1 or more, or several for attributes, got {num_classes}")
        super().__init__(bijection, shape, () if isinstance(num_classes, int) else (len(sizes),))
        self.num_classes, self.label_dropout = num_classes, inputs.number(label_dropout, "label_dropout", 0, 1)
        self.embedding = nn.Embedding(sum(sizes), channels)
        nn.init.normal_(self.embedding.weight, std=len(sizes) ** -0.5)
        self.register_buffer("_sizes", torch.tensor(sizes), persistent=False)
        self.register_buffer("_offsets", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)

    def _check_context(self, context: Tensor | None, *num_rows: int) -> None:
        super()._check_context(context, *num_rows)
        labels = cast(Tensor, context)
        if labels.is_floating_point():
            raise TypeError(f"labels are whole numbers, got {labels.dtype}: give labels.long()")
        lowest = -1 if self.label_dropout else 0
        if not traced() and ((labels < lowest) | (labels >= self._sizes)).any():
            raise ValueError(
                f"labels are {lowest} or more and less than {self._sizes.tolist()}, not {labels.tolist()!s:.80}"
            )

    def encode_context(self, context: Tensor | None) -> Tensor:
        """Returns the sum of the vectors of all labels, ``(B, channels, 1, 1)`` for images."""
        labels = cast(Tensor, context).long().reshape(len(cast(Tensor, context)), -1)
        if self.label_dropout:
            if self.training:
                labels = labels.where(torch.rand(len(labels), 1, device=labels.device) >= self.label_dropout, -1)
            given = labels >= 0
            vectors = (self.embedding(labels.clamp(min=0) + self._offsets) * given[:, :, None]).sum(1)
        else:
            vectors = self.embedding(labels + self._offsets).sum(1)
        return vectors.reshape(*vectors.shape, *[1] * (len(self.shape) - 1))

    def counted_labels(self, num_rows: int) -> Tensor:
        """Returns labels that need no data: in row i each is i, modulo the number of its values."""
        labels = torch.arange(num_rows, device=self.device)[:, None] % self._sizes
        return labels.reshape(num_rows, *cast(tuple[int, ...], self.context_shape))
