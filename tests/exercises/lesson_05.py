"""Right and wrong answers to the exercises of lesson 05."""

from math import prod

import numpy as np
import torch

from nbflows import load_pretrained
from nbflows.exercises.lesson_05 import (
    FoldRows,
    HalvesAfterEachOther,
    OddRowsFirst,
    UpperAndLowerHalf,
    decode_at,
    latent_sizes,
)
from nbflows.layers import Squeeze
from nbflows.multiscale import Multiscale
from tests.exercises.answers import Answers


class ByReshaping(FoldRows):
    def forward(self, x, context=None):
        return x.unflatten(2, (-1, 2)).movedim(3, 1).flatten(1, 2), torch.zeros(len(x))

    def inverse(self, z, context=None):
        return z.unflatten(1, (2, -1)).movedim(1, 3).flatten(2, 3)


class FoldColumns(FoldRows):
    def forward(self, x, context=None):
        z, log_det = super().forward(x.transpose(2, 3))
        return z.transpose(2, 3), log_det


class CountsTheNumbers(FoldRows):
    def forward(self, x, context=None):
        z, log_det = super().forward(x)
        return z, log_det + 1


class NoLogDet(FoldRows):
    def forward(self, x, context=None):
        return super().forward(x)[0], torch.tensor(0.0)


class DoesNothing(FoldRows):
    def forward(self, x, context=None):
        return x, x.new_zeros(len(x))

    def inverse(self, z, context=None):
        return z


ANSWERS = {
    1: Answers(
        right=[
            lambda shape, levels: [prod(s) for s in Multiscale([Squeeze()] * levels, shape).latent_shapes],
            lambda shape, levels: torch.tensor([prod(shape) / 2 ** min(i + 1, levels - 1) for i in range(levels)]),
            lambda shape, levels: np.array(latent_sizes(shape, levels)),
            lambda shape, levels: tuple(latent_sizes(shape, levels)),
        ],
        wrong=[
            (lambda shape, levels: ..., "there is no answer"),
            (lambda shape, levels: [prod(shape) // 2 ** (i + 1) for i in range(levels)], "all that is left"),
            (lambda shape, levels: latent_sizes(shape, levels)[::-1], "the finest level comes first"),
            (lambda shape, levels: [prod(shape) / levels] * levels, "do not share evenly"),
            (lambda shape, levels: [prod(shape) // 2**i for i in range(levels)], "those that exit"),
            (lambda shape, levels: [1536, 768, 768], ""),
            (lambda shape, levels: sum(latent_sizes(shape, levels)), "the shape is"),
        ],
    ),
    2: Answers(
        right=[ByReshaping],
        wrong=[
            (DoesNothing, "z: the shape is"),
            (UpperAndLowerHalf, "the upper and the lower half"),
            (OddRowsFirst, "the even rows come first"),
            (HalvesAfterEachOther, "the rows should alternate"),
            (CountsTheNumbers, "log_det: "),
            (NoLogDet, "log_det: the shape is"),
            (FoldColumns, ""),
        ],
    ),
    3: Answers(
        right=[
            lambda flow, z, fine, coarse: flow.decode(torch.cat([z[:, :32] * fine, z[:, 32:] * coarse], dim=1)),
            lambda flow, z, fine, coarse: decode_at(flow, z, fine, coarse).float(),
        ],
        wrong=[
            (lambda flow, z, fine, coarse: flow.decode(z), "not scaled"),
            (lambda flow, z, fine, coarse: decode_at(flow, z, coarse, fine), "exchanged"),
            (lambda flow, z, fine, coarse: flow.decode(fine * z), "one temperature for both"),
            (lambda flow, z, fine, coarse: fine * flow.decode(z), "the image is scaled"),
            (lambda flow, z, fine, coarse: flow.sample(8, temperature=(fine, coarse)), "it differs"),
            (lambda flow, z, fine, coarse: flow.pack([fine * flow.unpack(z)[0], flow.unpack(z)[1]]), "the shape is"),
        ],
        given=lambda: {"flow": load_pretrained("digits-multiscale")},
    ),
}
