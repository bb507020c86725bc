"""check_bijection: is a bijection invertible, and does its log-determinant agree with its Jacobian?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nbflows.bijection import Bijection
from nbflows.determinants import log_abs_det
from nbflows.flow import require_tensor


class BijectionError(AssertionError):
    """A bijection broke its contract; the message says where and by how much."""


@dataclass(frozen=True)
class BijectionReport:
    """Results of ``check_bijection``: the largest absolute errors over the batch."""

    round_trip_error: float
    log_det_error: float | None

    def __str__(self) -> str:
        log_det = "not checked" if self.log_det_error is None else f"{self.log_det_error:.1e} nats"
        return f"round trip error {self.round_trip_error:.1e}, log_det error {log_det}"


def jacobian(bijection: Bijection, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Computes dz/dx by autograd, one matrix per example: ``(B, D, D)``."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        z, _ = bijection(x, context)
        # Examples are independent, so the gradient of a sum over the batch contains the gradient of each.
        rows = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in z.flatten(1).unbind(1)]
    return torch.stack([row.flatten(1) for row in rows], dim=1)


def check_bijection(
    bijection: Bijection,
    x: Tensor,
    context: Tensor | None = None,
    tolerance: float | None = None,
    check_jacobian: bool = True,
) -> BijectionReport:
    """Checks a bijection on a batch: round trip, log-determinant against autograd, shapes, dtypes, finite values.

    Args:
        bijection: in training or eval mode, which does not change.
        x: a batch of data, float32 or float64.
        context: the context of the bijection, if it takes one.
        tolerance: the largest allowed error of coordinates (absolute) and of log_det (per dimension, in nats).
            Default: 1e-6 in float64, 1e-4 in float32.
        check_jacobian: compare with the Jacobian, by one backward pass per dimension; turn it off for large images.

    Returns:
        The largest errors.

    Raises:
        BijectionError: names the property that does not hold and its error.
    """
    require_tensor(x, "a batch of data")
    if not x.is_floating_point():
        raise ValueError(f"check_bijection takes real data, got {x.dtype}; a Dequantize layer has its own tests")
    if tolerance is None:
        tolerance = 1e-6 if x.dtype == torch.float64 else 1e-4
    name, before = type(bijection).__name__, x.clone()
    with torch.no_grad():
        z, log_det = bijection(x, context)
        back = bijection.inverse(z, context)
    _require(torch.equal(x, before), f"{name}.forward changed its input in place")
    _require(
        tuple(z.shape) == (len(x), *bijection.output_shape(tuple(x.shape[1:]))),
        f"{name}.forward returned {tuple(z.shape)}, but output_shape says "
        f"{bijection.output_shape(tuple(x.shape[1:]))} after the batch",
    )
    _require(
        tuple(log_det.shape) == (len(x),),
        f"{name}: log_det has shape {tuple(log_det.shape)}, not {(len(x),)}: sum over all dimensions but the batch",
    )
    _require(z.dtype == x.dtype, f"{name} turned {x.dtype} into {z.dtype}")
    _require(bool(z.isfinite().all() and log_det.isfinite().all()), f"{name} returned values that are not finite")
    _require(back.shape == x.shape, f"{name}.inverse returned {tuple(back.shape)} for data of {tuple(x.shape)}")
    round_trip_error = (back - x).abs().max().item()
    _require(
        round_trip_error <= tolerance,
        f"{name}: inverse(forward(x)) differs from x by {round_trip_error:.2e}, more than {tolerance:.0e}",
    )
    if not check_jacobian:
        return BijectionReport(round_trip_error, None)
    # In float64, so that the determinant adds no error to the Jacobian, which is as exact as the dtype of x.
    exact = log_abs_det(jacobian(bijection, x, context).double())
    log_det_error = (log_det.double() - exact).abs().max().item()
    allowed = tolerance * x[0].numel()
    _require(
        log_det_error <= allowed,
        f"{name}: log_det differs from the Jacobian's log-determinant by {log_det_error:.2e} nats, "
        f"more than {allowed:.0e}: returned {log_det[0].item():.5f}, autograd {exact[0].item():.5f} (first example)",
    )
    return BijectionReport(round_trip_error, log_det_error)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BijectionError(message)
