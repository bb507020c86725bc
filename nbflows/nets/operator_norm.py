"""Holds the operator norm of linear layers and convolutions below a bound, by power iteration."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize


class OperatorNorm(nn.Module):
    """Parametrization of a weight: W / max(1, sigma / coeff), whose operator has norm coeff at most.

    sigma = ||W v|| / ||v||  with the v, found by power iteration, that makes it largest. For a convolution the operator
    is the one that acts on images of this size with zeros around them, rather than the kernel as a matrix. v is a
    buffer, so that checkpoints keep it, and ``update_norms`` refreshes it. The gradient treats v as a constant, which
    gives the gradient of sigma all the same, since v maximises it. W and its transpose have the same norm; the one with
    the smaller v is used. Other vectors, orthogonal to v, are iterated with it: one of them replaces v as soon as it is
    better, where v alone would stay in a direction that is no longer the largest.

    Args:
        weight: ``(out, in)`` for a linear layer; ``(out, in, k, k)`` with odd k for a convolution that keeps the size.
        size: ``(H, W)`` of the images; for convolutions.
        coeff: the norm allowed; where weights change fast, power iteration may be some percent late.
        tolerance: power iteration stops when half a step raises sigma, and those of the other vectors, by less than
            this share together.
        max_steps: limit on the steps of power iteration at a time.

    Raises:
        RuntimeError: power iteration has not converged.
    Source: Chen et al., "Residual flows for invertible generative modeling", 2019, section 3.3 (arXiv:1906.02735).
    """

    vector: Tensor
    others: Tensor

    def __init__(
        self,
        weight: Tensor,
        size: tuple[int, int] | None = None,
        coeff: float = 0.98,
        tolerance: float = 1e-4,
        max_steps: int = 10_000,
    ):
        super().__init__()
        if weight.dim() not in (2, 4) or (weight.dim() == 4) != (size is not None):
            raise ValueError(
                f"a weight is (out, in), or (out, in, k, k) with the size (H, W) of the images; got "
                f"{tuple(weight.shape)} and {size}"
            )
        if weight.dim() == 4 and (weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0):
            raise ValueError(f"a kernel is square and of odd size, got {tuple(weight.shape[2:])}")
        if not coeff > 0 or not tolerance > 0:
            raise ValueError(f"coeff and tolerance are positive, got {coeff} and {tolerance}")
        self.coeff, self.tolerance, self.max_steps = coeff, tolerance, max_steps
        # A 1x1 convolution does the same everywhere, so that its norm is that of its matrix.
        self.size = size if weight.shape[2:].numel() > 1 else None
        self.transposed = weight.shape[0] < weight.shape[1]
        shape = min(weight.shape[:2]), *(self.size or ())
        self.register_buffer("vector", weight.new_empty(1, *shape))
        self.register_buffer("others", weight.new_empty(min(4, math.prod(shape)) - 1, *shape))
        if not weight.is_meta:
            self._start(weight.detach())

    @torch.no_grad()
    def _start(self, weight: Tensor) -> None:
        self.vector.normal_()
        self.others.normal_()
        # On small images there are few waves to choose from.
        if self.size is not None and min(self.size) > 8:
            waves = _strongest_waves(_transpose(weight) if self.transposed else weight, self.size)
            # Zeros for a weight of zeros.
            if waves.any():
                self.vector.copy_(waves[:1])
                self.others[: len(waves) - 1].copy_(waves[1:])
        _converge([(self, weight)])

    def forward(self, weight: Tensor) -> Tensor:
        return weight / (self.sigma(weight) / self.coeff).clamp(min=1)

    def sigma(self, weight: Tensor) -> Tensor:
        """The operator norm of a weight, as far as power iteration has come."""
        return (_norm(self._multiply(weight, self.vector, self.transposed)) / _norm(self.vector)).squeeze()

    def step(self, weight: Tensor) -> Tensor:
        """Takes one step of power iteration with all vectors; returns the share by which half of it raised sigma."""
        vectors = torch.cat([self.vector, self.others])
        images = self._multiply(weight, vectors, self.transposed)
        lengths = _norm(images)
        sigmas = lengths / _norm(vectors)
        backs = self._multiply(weight, images, not self.transposed)
        backs = backs / lengths.clamp(min=torch.finfo(images.dtype).tiny).view(-1, *[1] * (backs.dim() - 1))
        # The best comes first; in another direction than its own, one that was behind may have grown beyond it.
        order = sigmas.argsort(descending=True)
        backs, sigmas = backs[order], sigmas[order]
        higher, new = _norm(backs), _orthonormal(backs)
        self.vector.copy_(new[:1])
        self.others.copy_(new[1:])
        # Rounding leaves a direction of a vector that the operator takes to zero, but its growth means nothing.
        higher = torch.where(sigmas > 1000 * torch.finfo(sigmas.dtype).eps * sigmas[0], higher, sigmas)
        before, after = _norm(sigmas[None]), _norm(higher[None])
        return torch.where(before == 0, 0.0, after / before - 1).squeeze()

    def _multiply(self, weight: Tensor, vector: Tensor, transposed: bool) -> Tensor:
        # In half precision no norm would be found.
        with torch.autocast(weight.device.type, enabled=False):
            if self.size is None:
                matrix = weight.flatten(1)
                return vector @ (matrix if transposed else matrix.T)
            # Several times faster on a CPU than conv_transpose2d.
            weight = _transpose(weight) if transposed else weight
            return F.conv2d(vector, weight, padding=weight.shape[-1] // 2)


def update_norms(module: nn.Module) -> None:
    """Refreshes the norms of all weights in a module; call it after changing weights in any way but loading them.

    Every norm takes at least two steps of power iteration and continues until it has converged.

    Raises:
        RuntimeError: one has not converged, or a weight is not finite.
    """
    norms = []
    for layer in module.modules():
        if isinstance(layer, parametrize.ParametrizationList):
            norms += [(norm, layer.original) for norm in layer if isinstance(norm, OperatorNorm)]
    with torch.no_grad():
        # Tensors on the device "meta" have no numbers.
        _converge([(norm, weight) for norm, weight in norms if not weight.is_meta])


def _converge(active: list[tuple[OperatorNorm, Tensor]]) -> None:
    steps = 0
    while active:
        # All norms take their step before any answer is looked at: on a GPU one wait for all.
        growth = torch.stack([norm.step(weight) for norm, weight in active]).tolist()
        steps += 1
        if not all(map(math.isfinite, growth)):
            raise RuntimeError("power iteration met a weight that is not finite")
        if steps > 1:
            # Not after one: changes of place among the vectors show in the second step.
            active = [pair for pair, share in zip(active, growth, strict=True) if share > pair[0].tolerance]
        if active and steps >= active[0][0].max_steps:
            raise RuntimeError(
                f"power iteration has not converged in {steps} steps: the last one still raised a norm by a share of "
                f"{max(growth):.1e}; allow more max_steps or a larger tolerance than {active[0][0].tolerance:.1e}"
            )


def _transpose(kernel: Tensor) -> Tensor:
    """The kernel of the transposed convolution."""
    return kernel.transpose(0, 1).flip(2, 3)


def _strongest_waves(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """The wave that a convolution amplifies most on an endless image, faded out towards the edges in four ways.

    These are close to the vectors sought. A random start needs a hundred steps of power iteration or more, because many
    waves are amplified almost alike.
    """
    offsets = torch.arange(weight.shape[-1], dtype=weight.dtype, device=weight.device) - weight.shape[-1] // 2
    center, width = weight.new_zeros(2), math.pi
    for _ in range(4):
        # A finer and finer grid around the best so far.
        frequencies = center[:, None] + width * torch.linspace(-1, 1, 9, dtype=weight.dtype, device=weight.device)
        rows, columns = torch.polar(torch.ones(2, 9, 1).to(weight), frequencies[:, :, None] * offsets)
        # One matrix per frequency: what the convolution does to the channels of that wave.
        matrices = torch.einsum("oikl,yk,xl->yxoi", weight.to(rows.dtype), rows, columns).flatten(0, 1)
        amplitudes = torch.randn(len(matrices), weight.shape[1], 1, dtype=matrices.dtype, device=weight.device)
        for _ in range(5):
            length = amplitudes.norm(dim=1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
            amplitudes = matrices.mH @ (matrices @ (amplitudes / length))
        strongest = int(amplitudes.norm(dim=1).argmax())
        center, width = frequencies[[0, 1], [strongest // 9, strongest % 9]], width / 4
    amplitude, waves = amplitudes[strongest, :, 0, None, None], []
    # The phase shifted by a quarter, and one node more along each axis.
    for shift, nodes in ((1, (1, 1)), (1j, (1, 1)), (1, (2, 1)), (1, (1, 2))):
        axes = []
        for frequency, length, count in zip(center, size, nodes, strict=True):
            position = torch.arange(length, dtype=weight.dtype, device=weight.device)
            axes.append(torch.polar(torch.sin(math.pi * count * (position + 1) / (length + 1)), frequency * position))
        waves.append((shift * amplitude * axes[0][:, None] * axes[1]).real)
    return torch.stack(waves)


def _norm(x: Tensor) -> Tensor:
    """The Euclidean norm of every row of ``(rows, ...)``."""
    # A norm of a million squares added one by one in float32 is off by 1e-4. Apple's GPUs have no float64.
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    return torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=dtype).to(x.dtype)


def _orthonormal(x: Tensor) -> Tensor:
    """The rows made orthonormal, each against those before it; also where they are zero."""
    return torch.linalg.qr(x.flatten(1).T).Q.T.reshape(x.shape)
