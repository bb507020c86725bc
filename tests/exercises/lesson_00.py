"""Right and wrong answers to the exercises of lesson 00."""

import math

import numpy as np

from nbflows.exercises.lesson_00 import bits_per_dim
from tests.exercises.answers import Answers

ANSWERS = {
    1: Answers(
        right=[
            lambda log_prob, num_dims: -log_prob / math.log(2) / num_dims,
            lambda log_prob, num_dims: -(log_prob.numpy() * np.log2(np.e)) / num_dims,
            lambda log_prob, num_dims: [-math.log2(math.e) * value / num_dims for value in log_prob.tolist()],
            lambda log_prob, num_dims: -log_prob.float() / (num_dims * math.log(2)),
        ],
        wrong=[
            (lambda log_prob, num_dims: ..., "there is no answer"),
            (lambda log_prob, num_dims: -bits_per_dim(log_prob, num_dims), "the sign is opposite"),
            (lambda log_prob, num_dims: -log_prob / num_dims, "divide by log 2"),
            (lambda log_prob, num_dims: -log_prob / math.log(2), "divide by its dimensions"),
            (lambda log_prob, num_dims: -log_prob * math.log(2) / num_dims, "it"),
            (lambda log_prob, num_dims: bits_per_dim(log_prob, num_dims).mean(), "averages over the batch"),
            (lambda log_prob, num_dims: bits_per_dim(log_prob, 64), "it differs"),
        ],
    ),
    2: Answers(
        right=["ABDF", "a, b, d, f", "a b d f"],
        wrong=[
            (..., "there is no answer"),
            ("abd", "f is valid"),
            ("abcdf", "c is not valid"),
            ("abdef", "e is not valid"),
            ("ab", "this is not right"),
            ("abcdef", "this is not right"),
        ],
    ),
}
