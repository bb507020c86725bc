"""check_bijection finds what is broken and reports what it measured."""

import pytest
import torch

from nbflows import Bijection, BijectionError, check_bijection
from nbflows.layers import Flip
from tests.cases import make


class _Broken(Bijection):
    """Doubles x; each argument breaks one promise."""

    def __init__(self, **breaks):
        super().__init__()
        self.breaks = breaks

    def forward(self, x, context=None):
        log_det = torch.full((len(x),), x[0].numel() * torch.tensor(2.0).log().item(), dtype=x.dtype)
        if "in_place" in self.breaks:
            return x.mul_(2), log_det
        return {
            "shape": (2 * x[:, :1], log_det),
            "log_det": (2 * x, -log_det),
            "not_summed": (2 * x, log_det[:, None].expand(len(x), 2)),
            "not_finite": (2 * x, log_det * torch.inf),
            "dtype": (2 * x.double(), log_det),
        }.get(next(iter(self.breaks), ""), (2 * x, log_det))

    def inverse(self, z, context=None):
        return z / 2.001 if "inverse" in self.breaks else z[:, :1] / 2 if "inverse_shape" in self.breaks else z / 2


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("in_place", "changed its input"),
        ("shape", "output_shape says"),
        ("log_det", "differs from the Jacobian"),
        ("not_summed", "sum over all dimensions"),
        ("not_finite", "not finite"),
        ("dtype", "into torch.float64"),
        ("inverse", "differs from x"),
        ("inverse_shape", "inverse returned"),
    ],
)
def test_check_bijection_finds_each_broken_promise(breaks, message):
    check_bijection(_Broken(), torch.randn(3, 2))
    with pytest.raises(BijectionError, match=message):
        check_bijection(_Broken(**{breaks: True}), torch.randn(3, 2))


def test_check_bijection_reports_what_it_measured():
    report = check_bijection(Flip(), torch.randn(3, 2))
    assert report.round_trip_error == 0
    assert "log_det error" in str(report)
    assert "not checked" in str(check_bijection(Flip(), torch.randn(3, 2), check_jacobian=False))


def test_check_bijection_works_where_gradients_are_switched_off():
    with torch.no_grad():
        check_bijection(make("affine coupling, first half")[0], torch.randn(3, 4))
