"""Images as sequences of patches, and a causal transformer that moves each patch given the patches before it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from nbflows import inputs
from nbflows.bijection import Bijection, sum_dimensions, zero_log_det
from nbflows.nets import CausalSequenceNet
from nbflows.recompute import CheapInverse

SOLVERS = ("sequential", "jacobi", "gauss-seidel")
"""The ways to invert a ``PatchAutoregressive``, which explains them."""


class Patches(CheapInverse):
    """Cuts an image into squares, row by row: z[t] holds the C P P numbers of square t,   log_det = 0.

    Args:
        shape: ``(C, H, W)`` of the images.
        size: P, the side of a square, which divides H and W.

    Shapes: ``(B, C, H, W)`` to ``(B, T, C P P)`` with T = (H / P) (W / P).
    """

    def __init__(self, shape: tuple[int, int, int], size: int):
        super().__init__()
        self.shape, self.size = tuple(shape), inputs.whole(size, "size", 1)
        if shape[1] % size or shape[2] % size:
            raise ValueError(f"images of {shape[1]}x{shape[2]} do not divide into squares of {size}x{size}")

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        return F.unfold(x, self.size, stride=self.size).mT, zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return F.fold(z.mT, self.shape[1:], self.size, stride=self.size)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if tuple(shape) != self.shape:
            raise ValueError(f"Patches was built for {self.shape}, got {tuple(shape)}")
        return shape[1] * shape[2] // self.size**2, shape[0] * self.size**2


class PatchAutoregressive(Bijection):
    """Moves each element of a sequence by what a causal network says about it from the elements before it.

        z_t = (x_t - b_t) exp(-a_t),   (a_t, b_t) = net(x_0, ..., x_t-1),   log_det = -sum_t,d a_td,

    with a = limit tanh(raw / limit). With ``reverse`` the sequence is read from its end. ``forward`` takes one pass.
    The inverse solves x_t = z_t exp(a_t) + b_t in one of three ways, which give the same result:

    - "sequential": element by element, with the keys and values of earlier ones kept: T steps of one element, or T
      passes if gradients are recorded;
    - "jacobi": all elements at once, again and again. After k passes the first k elements are exact, so T passes
      always suffice, and far fewer bring all close;
    - "gauss-seidel": blocks of ``block`` elements one after the other, Jacobi's way within each.

    The iterations end when no number has changed by more than ``tolerance``.

    With a ``guidance`` of g above 0 the inverse, which then is for samples alone, takes a_t + g (a_t - a'_t) and
    b_t + g (b_t - b'_t). a' and b' are what the network says without the context, which is replaced by zeros, and with
    its attention at ``guidance_temperature``; ``guidance.guided`` sets both.

    Args:
        net: ``nets.CausalSequenceNet`` or alike, with 2 D outputs.
        reverse: whether the sequence is read from its end.
        limit: bounds a: |a| < limit.
        solver: see above. It may be changed at any time, as may ``tolerance``.
        tolerance: for the iterations.
        block: elements in a block of "gauss-seidel".

    Shapes: ``(B, T, D)``; kept.
    Source: Zhai et al., "Normalizing flows are capable generative models", 2024 (arXiv:2412.06329); Jacobi and blocks:
    Liu and Qin, "Accelerate TarFlow sampling with GS-Jacobi iteration", 2025 (arXiv:2505.12849); the bound is ours.
    """

    guidance = 0.0
    guidance_temperature = 1.0

    def __init__(
        self,
        net: CausalSequenceNet,
        reverse: bool = False,
        limit: float = 4.0,
        solver: str = "sequential",
        tolerance: float = 1e-5,
        block: int = 8,
    ):
        super().__init__()
        if solver not in SOLVERS:
            raise ValueError(f"solver is one of {', '.join(SOLVERS)}, got {solver!r}")
        self.net, self.reverse, self.solver = net, reverse, solver
        self.limit = inputs.number(limit, "limit", above=0)
        self.tolerance, self.block = inputs.number(tolerance, "tolerance", 0), inputs.whole(block, "block", 1)

    def _scale_and_shift(self, raw: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        # Coordinates stay in the flow's precision, whatever the network computes in.
        raw, b = raw.to(x.dtype).chunk(2, -1)
        return self.limit * torch.tanh(raw / self.limit), b

    def _ways(self, context: Tensor | None) -> list[tuple[Tensor | None, float]]:
        """Context and temperature of the attention, for each time that the inverse asks the network."""
        if not self.guidance:
            return [(context, 1.0)]
        return [(context, 1.0), (None if context is None else torch.zeros_like(context), self.guidance_temperature)]

    def _guided(self, raws: list[Tensor], x: Tensor) -> list[Tensor]:
        """a and b of the inverse from what the network says in each of ``_ways``."""
        given, *weak = [self._scale_and_shift(raw, x) for raw in raws]
        return [v + self.guidance * (v - w) for v, w in zip(given, *weak, strict=True)] if weak else list(given)

    def _turned(self, x: Tensor) -> Tensor:
        return x.flip(1) if self.reverse else x

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.output_shape(tuple(x.shape[1:]))
        x = self._turned(x)
        a, b = self._scale_and_shift(self.net(x, context), x)
        return self._turned((x - b) * (-a).exp()), -sum_dimensions(a)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        if self.solver == "sequential":
            return self._turned(self._sequential(self._turned(z), context))
        return self.iterate(z, context)[0]

    def iterate(
        self, z: Tensor, context: Tensor | None = None, watch: Callable[[Tensor], None] | None = None
    ) -> tuple[Tensor, int]:
        """Returns x and the number of passes of the network, by "jacobi", or by blocks if that is the solver.

        Args:
            watch: called with x after every pass.

        Raises:
            RuntimeError: after as many passes as there are elements in a block, numbers still change: they are not
                finite.
        """
        z = self._turned(z)
        length = z.shape[1]
        block = min(self.block, length) if self.solver == "gauss-seidel" else length
        x, passes, ways = z, 0, self._ways(context)
        for first in range(0, length, block):
            inside = slice(first, min(first + block, length))
            # Elements before the block are exact, and those after it do not matter to it.
            for _ in range(inside.stop - first + 1):
                a, b = self._guided([self.net(x[:, : inside.stop], *way)[:, first:] for way in ways], x)
                found = z[:, inside] * a.exp() + b
                change = (found - x[:, inside]).abs().amax() if x.numel() else x.new_zeros(())
                x, passes = torch.cat([x[:, :first], found, x[:, inside.stop :]], 1), passes + 1
                if watch is not None:
                    watch(self._turned(x))
                if change <= self.tolerance:
                    break
            else:
                # Without rounding the last pass changes nothing.
                if not change <= max(self.tolerance, 1e3 * torch.finfo(x.dtype).eps * x.abs().amax().item()):
                    raise RuntimeError(f"after {passes} passes numbers still change, by {change.item():.1e}")
        return self._turned(x), passes

    def _sequential(self, z: Tensor, context: Tensor | None) -> Tensor:
        ways = self._ways(context)
        if torch.is_grad_enabled():
            # Autograd keeps what the network saw: nothing is written in place, and each element takes a whole pass.
            x = z
            for t in range(1, z.shape[1]):
                a, b = self._guided([self.net(x[:, : t + 1], *way)[:, t:] for way in ways], x)
                x = torch.cat([x[:, :t], z[:, t : t + 1] * a.exp() + b, x[:, t + 1 :]], 1)
            return x
        memories = [self.net.memories(len(z)) for _ in ways]
        found = [z[:, 0]]
        for t in range(1, z.shape[1]):
            raws = [self.net.step(found[-1], kept, t - 1, *way) for way, kept in zip(ways, memories, strict=True)]
            a, b = self._guided(raws, z)
            found.append(z[:, t] * a.exp() + b)
        return torch.stack(found, 1)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 2 or shape[0] != self.net.length or 2 * shape[1] != self.net.num_outputs:
            raise ValueError(
                f"the net is for {self.net.length} elements of {self.net.num_outputs // 2} numbers, got {tuple(shape)}"
            )
        return tuple(shape)
