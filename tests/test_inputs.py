"""Numbers from outside: what counts as one, and what is said of others."""

import numpy as np
import pytest
import torch

from nbflows import inputs


@pytest.mark.parametrize(
    "value", [2, 2.0, "2", torch.tensor(2), torch.tensor(2.0), np.float32(2), np.int64(2), np.array(2.0)]
)
def test_scalars_of_every_package_are_numbers(value):
    assert type(inputs.number(value, "x")) is float and inputs.number(value, "x") == 2.0
    assert type(inputs.whole(value, "x")) is int and inputs.whole(value, "x") == 2


@pytest.mark.parametrize("value", [None, "a", "", True, [2], (2,), {}, 1j, torch.tensor([2]), np.ones(1), float])
@pytest.mark.parametrize("check", [inputs.number, inputs.whole])
def test_other_things_are_refused_by_name(check, value):
    with pytest.raises(ValueError, match=r"^size is a "):
        check(value, "size")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "-inf", "nan", torch.tensor(float("nan")), -0.1, 1.1, "1e400"]
)
def test_numbers_out_of_range_are_refused_with_the_range(value):
    with pytest.raises(ValueError, match=r"^share is 0 or more and 1 or less, not "):
        inputs.number(value, "share", 0, 1)


def test_whole_numbers_are_not_rounded_and_have_a_range():
    for value in (2.5, "2.5", "2.0", torch.tensor(2.5), float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"^count is a"):
            inputs.whole(value, "count")
    assert inputs.whole(0, "count", 0) == 0
    with pytest.raises(ValueError, match=r"^count is 1 or more, not 0$"):
        inputs.whole(0, "count", 1)


def test_a_bound_may_be_left_out():
    assert inputs.number(1e-9, "rate", above=0) == 1e-9
    with pytest.raises(ValueError, match=r"^rate is more than 0, not 0$"):
        inputs.number(0, "rate", above=0)
    with pytest.raises(ValueError, match=r"^rate is finite, not inf$"):
        inputs.number("inf", "rate")
