"""Log-determinants of batches: the same as one by one, whatever the number of threads."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from nbflows.determinants import LARGE, log_abs_det


def test_they_are_those_of_numpy_and_have_gradients():
    for size in (2, LARGE - 1, LARGE, 200):
        matrices = torch.randn(3, size, size, dtype=torch.float64, requires_grad=True)
        found = log_abs_det(matrices)
        np.testing.assert_allclose(found.detach(), np.linalg.slogdet(matrices.detach().numpy())[1], rtol=1e-10)
        (gradient,) = torch.autograd.grad(found.sum(), matrices)
        # The derivative of log |det A| is the transposed inverse; its error grows with the condition of A.
        identity = gradient.mT @ matrices.detach()
        condition = torch.linalg.cond(matrices.detach()).max()
        assert (identity - torch.eye(size)).abs().max() < 10 * size * condition * torch.finfo(torch.float64).eps
    assert log_abs_det(torch.zeros(0, 3, 3)).shape == (0,)


@pytest.mark.slow  # A fresh process: the number of threads is the whole process's.
def test_they_are_right_after_the_number_of_threads_was_set():
    code = (
        "import numpy as np, torch; from nbflows.determinants import log_abs_det; torch.set_num_threads(2);"
        "a = torch.randn(4, 256, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0));"
        "print(np.abs(log_abs_det(a).numpy() - np.linalg.slogdet(a.numpy())[1]).max())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(printed.splitlines()[-1]) < 1e-9
