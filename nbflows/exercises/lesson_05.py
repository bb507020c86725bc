"""The exercises of lesson 05, several levels: hidden inputs, hints and solutions."""

from math import prod

import torch

from nbflows.bijection import Bijection
from nbflows.exercises.lab import Exercise


def latent_sizes(shape, num_levels):
    left, sizes = prod(shape), []
    for _ in range(num_levels - 1):
        left = left // 2
        sizes.append(left)
    return [*sizes, left]


class FoldRows(Bijection):
    def forward(self, x, context=None):
        return torch.cat([x[:, :, 0::2], x[:, :, 1::2]], dim=1), x.new_zeros(len(x))

    def inverse(self, z, context=None):
        even, odd = z.chunk(2, dim=1)
        return torch.stack([even, odd], dim=3).flatten(2, 3)

    def output_shape(self, shape):
        return 2 * shape[0], shape[1] // 2, shape[2]


class UpperAndLowerHalf(FoldRows):
    def forward(self, x, context=None):
        return torch.cat(x.chunk(2, dim=2), dim=1), x.new_zeros(len(x))

    def inverse(self, z, context=None):
        return torch.cat(z.chunk(2, dim=1), dim=2)


class OddRowsFirst(FoldRows):
    def forward(self, x, context=None):
        return torch.cat([x[:, :, 1::2], x[:, :, 0::2]], dim=1), x.new_zeros(len(x))


class HalvesAfterEachOther(FoldRows):
    def inverse(self, z, context=None):
        return torch.cat(z.chunk(2, dim=1), dim=2)


def decode_at(flow, z, fine, coarse):
    first, second = flow.unpack(z)
    with torch.no_grad():
        return flow.decode(flow.pack([fine * first, coarse * second]))


def shapes(generator):
    num_levels = int(torch.randint(3, 6, (), generator=generator))
    channels, height, width = torch.randint(1, 4, (3,), generator=generator).tolist()
    return (channels, height * 2**num_levels, width * 2**num_levels), num_levels


def images(generator):
    return (torch.randn(2, 4, 6, 5, generator=generator, dtype=torch.float64),)


def latents(generator, flow):
    fine, coarse = (0.2 + 0.8 * torch.rand(2, generator=generator)).tolist()
    return flow, torch.randn(8, *flow.latent_shape, generator=generator), fine, coarse


EXERCISES = {
    1: Exercise(
        solution=latent_sizes,
        explanation="A squeeze keeps the number of numbers. So every level but the last sends out half of what came "
        "in, and the last all of it: 1536, 768 and 768 for 3×32×32. The first, finest level holds half of all numbers.",
        hints=(
            "How many numbers does an image have before and after a squeeze?",
            "Every level but the last sends out half of what it got. What does the last one do?",
            "The sizes add up to the number of values of the image.",
        ),
        inputs=shapes,
        mistakes={
            "the last level sends out all that is left, not half of it": lambda shape, num_levels: [
                prod(shape) >> (i + 1) for i in range(num_levels)
            ],
            "these are the numbers that come in, not those that exit": lambda shape, num_levels: [
                prod(shape) >> i for i in range(num_levels)
            ],
            "the finest level comes first": lambda shape, num_levels: latent_sizes(shape, num_levels)[::-1],
            "an exit takes half of what is left; the levels do not share evenly": lambda shape, num_levels: (
                [prod(shape) / num_levels] * num_levels
            ),
        },
    ),
    2: Exercise(
        solution=FoldRows,
        explanation="Slices with a step of 2 take the even and the odd rows; `log_det` is 0, because numbers only "
        "change places. The inverse stacks the halves on a new axis behind the rows and merges both axes, so that even "
        "and odd rows alternate. For 7 columns and 14 rows this layer still works where a squeeze does not.",
        hints=(
            "x[:, :, 0::2] has the even rows. Which dimension joins them with the odd ones?",
            "What is the determinant of a permutation?",
            "For the inverse, put even and odd rows beside each other on a new axis with torch.stack, then flatten.",
        ),
        inputs=images,
        build=lambda layer_class, generator: layer_class(),
        mistakes={
            "inverse(z): the rows should alternate, not follow half after half": HalvesAfterEachOther,
            "z: these are the upper and the lower half; even and odd rows should be apart": UpperAndLowerHalf,
            "z: the even rows come first, counted from 0": OddRowsFirst,
        },
    ),
    3: Exercise(
        solution=decode_at,
        explanation="Unpack, scale, pack, decode. At `fine=0` the fine latents are at their most probable value, and "
        "each image is what the flow makes of the coarse level alone.",
        hints=(
            "flow.unpack(z) cuts z into the latents of its levels, finest first.",
            "Multiply each part by its temperature, join them with flow.pack, and decode.",
        ),
        inputs=latents,
        mistakes={
            "fine and coarse are exchanged; unpack gives the fine level first": lambda flow, z, fine, coarse: decode_at(
                flow, z, coarse, fine
            ),
            "the latents are not scaled": lambda flow, z, fine, coarse: decode_at(flow, z, 1, 1),
            "this is one temperature for both levels": lambda flow, z, fine, coarse: decode_at(flow, z, fine, fine),
            "the image is scaled, not its latents": lambda flow, z, fine, coarse: fine * decode_at(flow, z, 1, 1),
        },
    ),
}
