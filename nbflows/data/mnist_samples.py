"""400 test images of MNIST that come with the package, for lessons and demonstrations without a download."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_FILE = Path(__file__).with_suffix(".npz")


def mnist_samples() -> tuple[Tensor, Tensor]:
    """Returns uint8 images ``(400, 1, 28, 28)`` and int64 labels ``(400,)``: the first 40 test images of each digit.

    They are in the order of the test set. They are for pictures: scores are for the whole test set,
    ``data.load("mnist").test``.

    Source: Y. LeCun and C. Cortes, the MNIST database of handwritten digits, under CC BY-SA 3.0.
    """
    with np.load(_FILE, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long()
