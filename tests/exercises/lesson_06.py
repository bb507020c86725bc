"""Right and wrong answers to the exercises of lesson 06."""

import math

import numpy as np
import torch

from nbflows.exercises.lesson_06 import at_temperature, folded
from nbflows.layers import ActNorm, Conv1x1
from tests.exercises.answers import Answers


def by_probing(shift, log_scale, W):
    """W' and b' from the layer itself: its output at 0 and at unit vectors."""

    def f(x):
        return W @ ((x + shift) * log_scale.exp())

    zero = f(torch.zeros(4).double())
    return torch.stack([f(unit) - zero for unit in torch.eye(4).double()], dim=1), zero


def test_folded_is_what_the_layers_do():
    torch.manual_seed(0)
    actnorm, conv, x = ActNorm(4), Conv1x1(4), torch.randn(3, 4, 2, 6)
    with torch.no_grad():
        expected, _ = conv(actnorm(x)[0])
        matrix = conv(torch.eye(4)[:, :, None, None])[0][:, :, 0, 0].T
        weight, bias = folded(actnorm.bias, actnorm.log_scale, matrix)
        torch.testing.assert_close(torch.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None], expected)


ANSWERS = {
    1: Answers(
        right=[
            by_probing,
            lambda b, s, W: (W @ torch.diag(s.exp()), W @ (s.exp() * b)),
            lambda b, s, W: (W.numpy() * np.exp(s.numpy()), W.numpy() @ (np.exp(s.numpy()) * b.numpy())),
        ],
        wrong=[
            (lambda b, s, W: (W, torch.zeros(4)), "W'"),
            (lambda b, s, W: (W * s.exp()[:, None], W * s.exp()[:, None] @ b), "columns, not its rows"),
            (lambda b, s, W: (W * s.exp(), W @ b), "the shift is scaled too"),
            (lambda b, s, W: (W * s.exp(), s.exp() * b), "through W as well"),
            (lambda b, s, W: (W * s, W * s @ b), "by exp(s), not by s"),
            (lambda b, s, W: folded(b, -s, W), "divides by exp(s)"),
            (lambda b, s, W: folded(b, s, W)[0], "return W' and b'"),
        ],
    ),
    2: Answers(
        right=[
            lambda mean, std, T: [mean, std * T],
            lambda mean, std, T: (mean.numpy(), (T * std).double().numpy()),
        ],
        wrong=[
            (lambda mean, std, T: (T * mean, T * std), "not the mean"),
            (lambda mean, std, T: (mean, T**2 * std), "a variance by its square"),
            (lambda mean, std, T: (mean, std), "the temperature is ignored"),
            (lambda mean, std, T: (mean, std / T), "grows with T"),
            (lambda mean, std, T: at_temperature(mean, std, T)[1], "return mean and std"),
        ],
    ),
    3: Answers(
        right=[math.log2(17 * math.sqrt(2 * math.pi)), 5.413, torch.tensor(5.4132)],
        wrong=[
            (math.log2(17), "a uniform guess"),
            (math.log(17 * math.sqrt(2 * math.pi)), "nats"),
            (math.log2(17 / math.sqrt(2 * math.pi)), "adds to the cost"),
            (math.log2(17 * 2 * math.pi), "the root is missing"),
            (0.0, ""),
        ],
    ),
    4: Answers(
        right=["B", "b)"],
        wrong=[
            ("a", "small already"),
            ("c", "depends on time"),
            ("d", "tightens the bound"),
            ("e", "splits the three parts"),
        ],
    ),
}
