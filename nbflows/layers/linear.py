"""Linear layers over the channels: ActNorm and the invertible 1x1 convolution."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nbflows.derivatives import exporting, exporting_to_onnx
from nbflows.nets.norm import ActNormAffine
from nbflows.recompute import CheapInverse


class ActNorm(ActNormAffine, CheapInverse):
    """Shifts and scales each channel: z = (x + bias) exp(log_scale),   log_det = H W sum(log_scale).

    The first batch in training mode sets bias and scale, see ``nbflows.nets.norm.ActNormAffine``.

    Args:
        num_channels: number of channels of the input.

    Shapes: ``(B, C, H, W)`` or ``(B, D)``; kept.
    Raises:
        RuntimeError: it is used in eval mode or backwards before it has seen data.
        ValueError: a channel of the first batch has no variance or values that are not finite; nothing is set then.
    Source: Kingma and Dhariwal, "Glow", 2018, section 3.1 (arXiv:1807.03039).
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        z = super().forward(x)
        log_det = self.log_scale.sum(dtype=torch.promote_types(self.log_scale.dtype, torch.float32))
        return z, (log_det * x.shape[2:].numel()).expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        self.require_data()
        return z * (-self.per_channel(self.log_scale, z)).exp() - self.per_channel(self.bias, z)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if shape[0] != len(self.bias):
            raise ValueError(f"ActNorm was built for {len(self.bias)} channels, got {shape[0]}")
        return tuple(shape)


def _solve_unit(triangle: Tensor, columns: Tensor) -> Tensor:
    """Solves T y = columns by products alone, for a triangle T with a unit diagonal: ONNX has no triangular solve.

    It inverts the diagonal blocks of size 1, 2, 4 ..., each from its halves:
    [[A, 0], [C, B]]^-1 = D - D C D  with  D = [[A^-1, 0], [0, B^-1]].
    """
    inverse = torch.eye(len(triangle), dtype=triangle.dtype, device=triangle.device)
    for level in range((len(triangle) - 1).bit_length()):
        half = torch.arange(len(triangle), device=triangle.device) // 2**level
        between_halves = (half[:, None] // 2 == half // 2) & (half[:, None] != half)
        inverse = inverse - inverse @ (triangle * between_halves) @ inverse
    return inverse @ columns


class Conv1x1(CheapInverse):
    """Mixes the channels at every position by one invertible matrix: z = W x,   log_det = H W log|det W|.

    form "lu": W = P (L + I) (U + diag(sign exp(log_diagonal))) with a fixed permutation P, L strictly lower and U
    strictly upper triangular: log|det W| = sum(log_diagonal), and W cannot become singular. form "full": W itself is
    the parameter. W starts as a random rotation.

    Args:
        num_channels: C.
        form: "lu" or "full".

    Shapes: ``(B, C, H, W)``; kept.
    Raises:
        RuntimeError: form "full" is exported to ONNX, which has no determinant: export ``with_lu(flow)``.
    Source: Kingma and Dhariwal, "Glow", 2018, section 3.2 (arXiv:1807.03039).
    """

    sign: Tensor
    order: Tensor

    def __init__(self, num_channels: int, form: str = "lu"):
        super().__init__()
        if form not in ("lu", "full"):
            raise ValueError(f"form is 'lu' or 'full', got {form!r}")
        self.num_channels, self.form = num_channels, form
        rotation = torch.linalg.qr(torch.randn(num_channels, num_channels)).Q
        if form == "full":
            self.weight = nn.Parameter(rotation)
        else:
            self._factorize(rotation)

    def _factorize(self, weight: Tensor) -> None:
        permutation, lower, upper = torch.linalg.lu(weight)
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())
        self.register_buffer("sign", upper.diagonal().sign())
        # W x = (L U x)[order]: row i of P has its one at order[i].
        self.register_buffer("order", permutation.argmax(1))

    def _triangles(self) -> tuple[Tensor, Tensor]:
        lower = self.lower.tril(-1) + torch.eye(self.num_channels, dtype=self.lower.dtype, device=self.lower.device)
        return lower, self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())

    def _refuse_onnx(self) -> None:
        if self.form == "full" and exporting_to_onnx():
            raise RuntimeError(
                f"Conv1x1({self.num_channels}, form='full') needs a determinant and an inverse, which ONNX lacks: "
                "export nbflows.layers.with_lu(flow), which returns the same numbers"
            )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        self._refuse_onnx()
        # This is a change of coordinates, not a network: it never runs in half precision.
        with torch.autocast(x.device.type, enabled=False):
            if self.form == "full":
                weight, log_det = self.weight, torch.linalg.slogdet(self.weight).logabsdet
            else:
                lower, upper = self._triangles()
                weight, log_det = (lower @ upper)[self.order], self.log_diagonal.sum()
            # For few channels a matrix product is twice as fast as a convolution.
            z = F.linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)
            return z, (log_det * x.shape[2:].numel()).expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        self._refuse_onnx()
        with torch.autocast(z.device.type, enabled=False):
            columns = z.transpose(0, 1).flatten(1)
            if self.form == "full":
                columns = torch.linalg.solve(self.weight, columns)
            else:
                # Two triangular solves are as exact as W allows; the inverse matrix is never formed.
                lower, upper = self._triangles()
                columns = columns[self.order.argsort()]
                if exporting():
                    diagonal = upper.diagonal()[:, None]
                    columns = _solve_unit(upper / diagonal, _solve_unit(lower, columns) / diagonal)
                else:
                    columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
                    columns = torch.linalg.solve_triangular(upper, columns, upper=True)
            return columns.unflatten(1, (len(z), *z.shape[2:])).transpose(0, 1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 3 or shape[0] != self.num_channels:
            raise ValueError(f"Conv1x1 was built for images of {self.num_channels} channels, got {tuple(shape)}")
        return tuple(shape)


@torch.no_grad()
def with_lu(flow: nn.Module) -> nn.Module:
    """Copies a flow or a layer and changes every ``Conv1x1`` of form "full" to form "lu", for export to ONNX.

    Scores, latents and samples stay the same up to rounding. ``save_flow`` cannot save the copy: save the flow.
    """
    copied = deepcopy(flow)
    # A file would name the builder, which builds the other form.
    vars(copied).pop("built_by", None)
    for layer in copied.modules():
        if isinstance(layer, Conv1x1) and layer.form == "full":
            layer._factorize(layer.weight)
            layer.form = "lu"
            del layer.weight
    return copied
