"""The log-determinant of every matrix in a batch, correct for any number of threads."""

import torch
from torch import Tensor

# Wrong results were seen from size 152 on; below, a batch is much faster.
LARGE = 100


def log_abs_det(matrices: Tensor) -> Tensor:
    """Returns log |det A| of each matrix of ``(B, D, D)``: ``(B,)``.

    Large matrices on a CPU are factorised one after the other. ``torch.linalg.slogdet`` of a batch calls MKL from
    several threads at once; after ``torch.set_num_threads(2)`` the result is then wrong in the third digit, without an
    error (seen with torch 2.6 to 2.14 on x86-64).
    """
    if matrices.device.type != "cpu" or matrices.shape[-1] < LARGE or len(matrices) < 2:
        return torch.linalg.slogdet(matrices).logabsdet
    return torch.stack([torch.linalg.slogdet(matrix).logabsdet for matrix in matrices])
