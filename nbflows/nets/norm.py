"""ActNorm without its log-determinant: a scale and a shift per channel that the first batch sets."""

from typing import Any

import torch
from torch import Tensor, nn

from nbflows import ranks
from nbflows.derivatives import traced


class ActNormAffine(nn.Module):
    """Shifts and scales each channel: z = (x + bias) exp(log_scale).

    The first batch in training mode sets both, once, so that every channel of z has mean 0 and standard deviation 1
    over that batch, which is the union over all ranks. From then on they are ordinary parameters.

    Args:
        num_channels: channels of the input.

    Shapes: ``(B, C, H, W)`` or ``(B, D)``; kept.
    Raises:
        RuntimeError: used in eval mode before it has seen data.
        ValueError: a channel of the first batch has no variance, or values that are not finite; nothing is set then.
    Source: Kingma and Dhariwal, "Glow", 2018, section 3.1 (arXiv:1807.03039).
    """

    initialized: Tensor

    def __init__(self, num_channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.log_scale = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("initialized", torch.tensor(False))
        self._seen = False

    @property
    def has_seen_data(self) -> bool:
        """Whether bias and scale are set."""
        # Reading the buffer synchronises with the GPU, so the answer is cached: an initialised norm stays initialised.
        # While a graph is recorded the buffer cannot be read.
        if not self._seen and not traced():
            self._seen = bool(self.initialized)
        return self._seen

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._seen = not self.initialized.is_meta and bool(self.initialized)

    def forward(self, x: Tensor) -> Tensor:
        self.see(x)
        return (x + self.per_channel(self.bias, x)) * self.per_channel(self.log_scale, x).exp()

    def see(self, x: Tensor) -> None:
        """Sets bias and scale from a first batch in training mode; raises RuntimeError if they are not set after it."""
        # A replica of DataParallel and a call of torch.func would lose the values.
        if not self.has_seen_data and self.training and not getattr(self, "_is_replica", False) and not traced():
            self._initialize(x.detach())
        self.require_data()

    def require_data(self) -> None:
        """Raises RuntimeError if bias and scale are not set."""
        if not self.has_seen_data:
            raise RuntimeError(
                "ActNorm has not seen data yet: run one batch in train() mode, without wrappers, or load a checkpoint"
            )

    @staticmethod
    def per_channel(parameter: Tensor, x: Tensor) -> Tensor:
        """A parameter ``(C,)`` in a shape that broadcasts over a batch."""
        return parameter.view(-1, *[1] * (x.dim() - 2))

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        # Statistics over all ranks: each rank alone would initialise differently and stay different, because later they
        # share only gradients. Apple's GPUs have no float64.
        values = x.transpose(0, 1).flatten(1).to(torch.float32 if x.device.type == "mps" else torch.float64)
        count = ranks.sum_over_ranks(values.new_tensor(values.shape[1]))
        mean = ranks.sum_over_ranks(values.sum(1)) / count
        std = (ranks.sum_over_ranks((values - mean[:, None]).square().sum(1)) / count).sqrt()
        # Every check comes before the first change, because an initialised norm stays initialised.
        if not count:
            raise ValueError("ActNorm cannot start from a first batch that is empty")
        for fault, channels, fix in (
            (
                "has NaN or infinite values",
                ~(mean.isfinite() & std.isfinite()),
                "see that the data and weights are finite",
            ),
            # Rounding leaves a little variance in a constant channel.
            (
                "does not vary",
                std <= 4 * torch.finfo(x.dtype).eps * mean.abs(),
                "give a larger or more varied first batch, or add dequantization noise",
            ),
        ):
            if channels.any():
                numbers = ", ".join(str(i) for i in channels.nonzero().flatten().tolist())
                raise ValueError(
                    f"ActNorm cannot scale channel {numbers} of {len(std)}: in the first batch ({int(count)} values "
                    f"each) it {fault}; {fix}"
                )
        self.bias.copy_(-mean)
        self.log_scale.copy_(-std.log())
        self.initialized.fill_(True)


def require_data(net: nn.Module) -> None:
    """Raises RuntimeError if a norm in a network has not seen data; an inverse must not initialise it from noise."""
    for module in net.modules():
        if isinstance(module, ActNormAffine):
            module.require_data()
