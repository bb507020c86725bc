"""Sizes of the data sets that recipes train on, known also where the images are not."""

from typing import NamedTuple


class Size(NamedTuple):
    """Of a training split as ``nbflows.data`` makes it: number of images, shape, grey levels."""

    count: int
    shape: tuple[int, int, int]
    num_levels: int = 256


# Of ImageNet a hundredth is kept back for validation, of the 27,000 images in CelebA-HQ's train/ a tenth. The part of
# Tiny ImageNet is the one of our models. None stands for a folder of one's own, as the recipes of CAFLOW's paper take.
SIZES = {
    "mnist": Size(50_000, (1, 28, 28)),
    "cifar10": Size(45_000, (3, 32, 32)),
    "imagenet32": Size(1_281_167 - 12_811, (3, 32, 32)),
    "imagenet64": Size(1_281_167 - 12_811, (3, 64, 64)),
    "celeba-hq-256-5bit": Size(27_000 - 2_700, (3, 256, 256), num_levels=32),
    "tiny-imagenet-32": Size(27_000, (3, 32, 32)),
    None: Size(60_000, (3, 64, 64)),
}
