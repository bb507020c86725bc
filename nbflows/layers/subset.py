"""Integers to noise without dequantization: an autoregressive model of grey levels, as a flow of one layer."""

import math

import torch
from torch import Tensor

from nbflows.bijection import sum_dimensions
from nbflows.layers.dequantize import check_grey_levels
from nbflows.nets import CausalImageNet
from nbflows.recompute import NotRecomputed

# Every grey level has at least this probability: even a latent in float32 hits its bin, and no image is impossible.
FLOOR = 2.0**-24


class SubsetAutoregressive(NotRecomputed):
    """Maps each grey level to a part of the unit interval as long as its probability, and the interval to noise.

    With the conditional distribution function F_i of value i given the values before it, and u uniform on [0, 1):

        v_i = F_i(x_i - 1) + u_i p_i(x_i),   z_i = Phi^-1(v_i),   log_det = sum_i( log p_i(x_i) - log N(z_i; 0, 1) ).

    The parts of the grey levels fill the interval, so log N(z; 0, I) + log_det = log p(x) exactly, whatever u is: there
    is no dequantization gap. ``log_prob`` computes it without z. z is standard normal if x is as the network says.
    Probabilities are (1 - K ``FLOOR``) softmax(logits) + ``FLOOR``. ``inverse`` takes one step for each value.

    Args:
        net: maps integers ``(B, C, H, W)`` to logits ``(B, C, H, W, K)`` of each value given those before it, and has
            ``steps``, ``shape`` and ``num_grey_levels``: ``nets.CausalImageNet``.

    Shapes: integers ``(B, C, H, W)`` to reals of the same shape; ``inverse`` returns uint8.
    Source: Nielsen and Winther, "Closing the dequantization gap: PixelCNN as a single-layer flow", 2020
    (arXiv:2002.02547); the normal instead of the uniform latent is ours.
    """

    _like: Tensor

    def __init__(self, net: CausalImageNet):
        super().__init__()
        self.net = net
        self.num_grey_levels = net.num_grey_levels
        # Follows .to() and .double(), because integers do not tell the precision of the flow.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns the exact log p(x) of integers, ``(B,)`` in nats."""
        chosen = self._logits(x).log_softmax(-1).gather(-1, x.long()[..., None])[..., 0]
        # log((1 - K floor) p + floor), in the precision of the coordinates.
        scaled = math.log1p(-self.num_grey_levels * FLOOR)
        return sum_dimensions(torch.logaddexp(chosen + scaled, chosen.new_tensor(math.log(FLOOR))))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        levels = x.long()[..., None]
        p = self._probabilities(self._logits(x))
        own = p.gather(-1, levels)[..., 0]
        below = p.cumsum(-1).gather(-1, levels)[..., 0] - own
        # Off the edges by more than z in float32 is rounded.
        edge = (FLOOR / 4 / own).clamp(max=0.5)
        u = torch.rand(x.shape, dtype=self._like.dtype, device=x.device).to(p.dtype)
        z = torch.special.ndtri(below + own * torch.minimum(torch.maximum(u, edge), 1 - edge))
        log_det = own.log() + 0.5 * (z.square() + math.log(2 * math.pi))
        return z.to(self._like.dtype), sum_dimensions(log_det).to(self._like.dtype)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.generate(z)

    def generate(self, z: Tensor, known: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Returns the images ``(B, C, H, W)`` of latents, value by value.

        Args:
            known: upper rows ``(B, C, rows, W)``, which the images begin with; the latents of these rows are not read.
            temperature: the logits are divided by it. At 1 each value has its probability, and images are those of
                ``inverse``; near 0 it is the most probable one.
        """
        x = torch.zeros(z.shape, dtype=torch.uint8, device=z.device)
        rows = 0 if known is None else known.shape[2]
        if known is not None:
            x[:, :, :rows] = known
        wanted = torch.special.ndtr(z.to(self._exact(z)))
        for (channel, row, column), logits in self.net.steps(x, rows):
            p = self._probabilities(logits, temperature)
            # The number of levels whose part ends before the latent's place.
            level = (p.cumsum(-1) <= wanted[:, channel, row, column, None]).sum(-1)
            x[:, channel, row, column] = level.clamp(max=self.num_grey_levels - 1)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            raise ValueError(f"SubsetAutoregressive takes integers 0..{self.num_grey_levels - 1}, got {x.dtype}")
        check_grey_levels(x, self.num_grey_levels)
        # Probabilities stay in the flow's precision, whatever the network computes in.
        return self.net(x).to(self._like.dtype)

    def _probabilities(self, logits: Tensor, temperature: float = 1.0) -> Tensor:
        logits = logits.to(self._exact(logits))
        if temperature != 1:
            # Without the floor: it would be the only one that a low temperature leaves.
            return (logits / max(temperature, 1e-6)).softmax(-1)
        return (1 - self.num_grey_levels * FLOOR) * logits.softmax(-1) + FLOOR

    @staticmethod
    def _exact(like: Tensor) -> torch.dtype:
        """float64, where a device has it: in float32 sums of probabilities are as rough as small probabilities."""
        return torch.float32 if like.device.type == "mps" else torch.float64

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if tuple(shape) != self.net.shape:
            raise ValueError(f"the network is for images of {self.net.shape}, got {tuple(shape)}")
        return tuple(shape)
