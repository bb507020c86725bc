"""Holds the operator norm of linear layers and convolutions below a bound, by power iteration."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize


class LearnedOrder(nn.Module):
    """The order p of a norm as a parameter: p = 1 + 4 sigmoid(raw), between 1 and 5, and 2 at the start."""

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(-math.log(3)))

    def forward(self) -> Tensor:
        return 1 + 4 * torch.sigmoid(self.raw)


class OperatorNorm(nn.Module):
    """Parametrization of a weight: W / max(1, sigma / coeff), whose operator has norm coeff at most.

    sigma = ||W v||_q / ||v||_p  with the v, found by power iteration, that makes it largest. The operator of a
    convolution is the one that its images see, with the zeros around them and at their size: not the kernel as a
    matrix. v is kept in a buffer, for checkpoints too, and ``update_norms`` refreshes it. The gradient takes v for a
    constant, and is that of sigma all the same, since v maximises it. Of W and its transpose, which have the same norm,
    the one with the smaller v is taken. Other vectors, kept different from v, are iterated with it: one of them takes
    its place as soon as it is better, where v alone would stay in a direction that is no longer the largest.

    Args:
        weight: of a linear layer ``(out, in)``, or ``(out, in, k, k)`` of a convolution that keeps the size, k odd.
        size: ``(H, W)`` of the images; for convolutions.
        coeff: the norm allowed; where weights change fast, power iteration may be some percent late.
        domain, codomain: orders p and q of the norms before and after the layer: numbers from 1 to math.inf, or a
            ``LearnedOrder``. p = 1 and q = inf have closed forms, which on images smaller than the kernel are bounds.
        tolerance: power iteration stops when half a step raises sigma, and those of the other vectors, by less than
            this share together.
        max_steps: of power iteration at a time.

    Raises:
        RuntimeError: power iteration has not converged.
    Source: Chen et al., "Residual flows for invertible generative modeling", 2019, sections 3.3 and 4
    (arXiv:1906.02735); D. W. Boyd, "The power method for l^p norms", 1974.
    """

    def __init__(
        self,
        weight: Tensor,
        size: tuple[int, int] | None = None,
        coeff: float = 0.98,
        domain: float | nn.Module = 2.0,
        codomain: float | nn.Module = 2.0,
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
        for order in (domain, codomain):
            if not isinstance(order, nn.Module) and not order >= 1:
                raise ValueError(f"the order of a norm is at least 1, got {order}")
        self.size, self.coeff, self.tolerance, self.max_steps = size, coeff, tolerance, max_steps
        # In a tuple, not as submodules: layers share an order, and their network registers it once.
        self._orders = domain, codomain
        self._euclidean = domain == codomain == 2
        self._closed_form = domain == 1 or codomain == math.inf
        self.transposed = weight.shape[0] < weight.shape[1]
        # A 1x1 convolution does the same everywhere, and in the Euclidean norm that is its matrix's norm.
        self._is_matrix = weight.shape[2:].numel() == 1 and (weight.dim() == 2 or self._euclidean)
        if self._closed_form:
            self.register_buffer("vector", None)
            return
        positions = () if self._is_matrix else (*(size or ()),)
        shape = min(weight.shape[:2]), *positions
        # Other norms than the Euclidean one have local maxima: more vectors to find the highest.
        count = min(4 if self._euclidean else 10, math.prod(shape))
        self.register_buffer("vector", weight.new_empty(1, *shape))
        self.register_buffer("others", weight.new_empty(count - 1, *shape))
        if not weight.is_meta:
            self._start(weight.detach())

    @torch.no_grad()
    def _start(self, weight: Tensor) -> None:
        self.vector.normal_()
        self.others.normal_()
        # On small images there are few waves to choose from.
        if not self._is_matrix and min(self.size) > 8:
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
        p, q = self._domain_and_codomain()
        if self._closed_form:
            # The column or the row of the largest norm.
            return _norm(weight.transpose(0, 1), q).amax() if p == 1 else _norm(weight, _dual(p)).amax()
        p, q = (_dual(q), _dual(p)) if self.transposed else (p, q)
        return (_norm(self._multiply(weight, self.vector, self.transposed), q) / _norm(self.vector, p)).squeeze()

    def step(self, weight: Tensor) -> Tensor:
        """One step of power iteration with all vectors; returns by which share half of it has raised their sigmas."""
        p, q = self._domain_and_codomain()
        p, q = (_dual(q), _dual(p)) if self.transposed else (p, q)
        vectors = torch.cat([self.vector, self.others])
        images = self._multiply(weight, vectors, self.transposed)
        lengths, tiny = _norm(images, q), torch.finfo(images.dtype).tiny
        sigmas = lengths / _norm(vectors, p)
        if self._euclidean:
            backs = self._multiply(weight, images, not self.transposed)
            backs = backs / lengths.clamp(min=tiny).view(-1, *[1] * (backs.dim() - 1))
        else:
            backs = self._multiply(weight, _maximizer(images, _dual(q)), not self.transposed)
        # The best comes first; in another direction than its own, one that was behind may have grown beyond it.
        order = sigmas.argsort(descending=True)
        vectors, backs, sigmas = vectors[order], backs[order], sigmas[order]
        higher = _norm(backs, _dual(p))
        if self._euclidean:
            new = _orthonormal(backs)
        else:
            found = (higher > 0).view(-1, *[1] * (backs.dim() - 1))
            new = torch.where(found, _maximizer(backs, p), vectors)
        self.vector.copy_(new[:1])
        self.others.copy_(new[1:])
        # What rounding leaves of a vector that the operator takes to zero has a direction, but grows to nothing.
        higher = torch.where(sigmas > 1000 * torch.finfo(sigmas.dtype).eps * sigmas[0], higher, sigmas)
        before, after = _norm(sigmas[None], 2), _norm(higher[None], 2)
        return torch.where(before == 0, 0.0, after / before - 1).squeeze()

    def _domain_and_codomain(self) -> tuple[Tensor | float, Tensor | float]:
        return tuple(order() if isinstance(order, nn.Module) else order for order in self._orders)

    def _multiply(self, weight: Tensor, vector: Tensor, transposed: bool) -> Tensor:
        # In half precision no norm would be found.
        with torch.autocast(weight.device.type, enabled=False):
            if self._is_matrix:
                matrix = weight.flatten(1)
                return vector @ (matrix if transposed else matrix.T)
            # Several times faster on a CPU than conv_transpose2d.
            weight = _transpose(weight) if transposed else weight
            return F.conv2d(vector, weight, padding=weight.shape[-1] // 2)


def update_norms(module: nn.Module) -> None:
    """Refreshes the norms of all weights in a module: after every change of them that was not made by loading them.

    Every norm takes two steps of power iteration at least, and goes on until it has converged.

    Raises:
        RuntimeError: one has not converged, or a weight is not finite.
    """
    norms = []
    for layer in module.modules():
        if isinstance(layer, parametrize.ParametrizationList):
            norms += [(norm, layer.original) for norm in layer if isinstance(norm, OperatorNorm)]
    # Without memory, on the device "meta", there are no numbers to look at.
    norms = [(norm, weight) for norm, weight in norms if not weight.is_meta]
    with torch.no_grad():
        _converge([(norm, weight) for norm, weight in norms if norm.vector is not None])


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

    Near the vectors sought. From random numbers power iteration needs a hundred steps and more: many waves are
    amplified almost alike.
    """
    offsets = torch.arange(weight.shape[-1], dtype=weight.dtype, device=weight.device) - weight.shape[-1] // 2
    center, width = weight.new_zeros(2), math.pi
    for _ in range(4):
        # Around the best so far, on a finer and finer grid.
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


def _dual(order: Tensor | float) -> Tensor | float:
    """q with 1 / order + 1 / q = 1."""
    if isinstance(order, Tensor):
        return order / (order - 1)
    if order in (1, math.inf):
        return math.inf if order == 1 else 1.0
    return order / (order - 1)


def _norm(x: Tensor, order: Tensor | float) -> Tensor:
    """The norm of every row of ``(rows, ...)``."""
    x = x.flatten(1)
    if not isinstance(order, Tensor):
        # A norm of a million squares added one by one in float32 is off by 1e-4. Apple's GPUs have no float64.
        dtype = torch.float32 if x.device.type == "mps" else torch.float64
        return torch.linalg.vector_norm(x, order, dim=1, dtype=dtype).to(x.dtype)
    scale = x.detach().abs().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return scale[:, 0] * (x / scale).abs().pow(order).sum(1).pow(1 / order)


def _maximizer(x: Tensor, order: Tensor | float) -> Tensor:
    """For every row the v of norm 1 with the largest <v, x>, for orders above 1: sign(x) |x|^(1 / (order - 1))."""
    rows, tiny = x.flatten(1), torch.finfo(x.dtype).tiny
    if isinstance(order, Tensor) or order != 2:
        exponent = 0.0 if not isinstance(order, Tensor) and order == math.inf else 1 / (order - 1)
        rows = rows / rows.abs().amax(1, keepdim=True).clamp(min=tiny)
        rows = rows.sign() * rows.abs().pow(exponent)
    return (rows / _norm(rows, order).clamp(min=tiny)[:, None]).view_as(x)


def _orthonormal(x: Tensor) -> Tensor:
    """The rows made orthonormal, each against those before it; also where they are zero."""
    return torch.linalg.qr(x.flatten(1).T).Q.T.reshape(x.shape)
