"""The contract that every layer keeps, and the ways to combine layers."""

import torch
from torch import Tensor, nn

from nbflows import recompute


class Bijection(nn.Module):
    """An invertible map between data x and noise z, of known volume change.

    ``forward`` always goes data -> noise and returns ``(z, log_det)``; ``inverse`` always goes noise -> data
    and returns x alone. ``log_det`` is log|det dz/dx|, summed over all dimensions, in nats, shape ``(B,)``.
    Images are ``(B, C, H, W)``, vectors ``(B, D)``; a ``shape`` argument leaves B out. ``context`` is None or a
    tensor with the same B: a layer uses it or passes it on. A call stores nothing on the module.

    Attributes:
        recomputed_from: what backward takes to compute the layer anew where memory is short, see ``Sequential``:
            "output" if the inverse is as cheap as forward; "input"; None for a bijection of other bijections, which
            see to it themselves, or one that has next to nothing to keep.
    """

    recomputed_from: str | None = "input"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps data to noise: ``(z, log_det)``."""
        raise NotImplementedError

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps noise back to data."""
        raise NotImplementedError

    def recompute(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Finds x again and repeats ``forward`` from there: ``(x, leaf, z, log_det)``.

        z and log_det are differentiable; their gradient with respect to ``leaf`` is that with respect to x.
        """
        with torch.no_grad():
            x = self.inverse(z, context)
        leaf = x.detach().requires_grad_()
        return x, leaf, *self(leaf, context)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of z for an x of this shape. Raises ValueError for a shape that the layer cannot take."""
        return tuple(shape)

    def unpack(self, z: Tensor) -> list[Tensor]:
        """Cuts a latent into its levels, finest first: one level, unless the bijection is multi-scale."""
        return [z]

    def pack(self, levels: list[Tensor]) -> Tensor:
        """Joins the levels of ``unpack`` to one latent."""
        (z,) = levels
        return z


def zero_log_det(x: Tensor) -> Tensor:
    """The log-determinant of a map that keeps volume: zeros ``(B,)``, at least float32."""
    dtype = torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float32
    return torch.zeros(x.shape[0], dtype=dtype, device=x.device)


def sum_dimensions(x: Tensor) -> Tensor:
    """Sums all but the batch dimension, in at least float32: ``(B, ...)`` to ``(B,)``."""
    return x.flatten(1).sum(1, dtype=torch.promote_types(x.dtype, torch.float32))


class Identity(Bijection):
    """z = x,   log_det = 0. As a prior it is the standard normal."""

    recomputed_from = "output"

    def forward(self, x, context=None):
        return x, zero_log_det(x)

    def inverse(self, z, context=None):
        return z


class Sequential(Bijection):
    """Applies bijections in order: z = f_n(... f_1(x)),   log_det = sum of theirs.

    Args:
        layers: the bijections, data side first. All of them get the same context.
        memory: what training keeps for backward. "plain": all that autograd keeps, in proportion to the number of
            layers. "checkpoint": the input of each layer, which is computed anew from it. "invertible": z alone, from
            which backward goes back through the inverses; the memory does not grow with the number of layers that have
            a cheap inverse, and the others are computed anew from their inputs. The gradients are the same, to
            rounding. A change of ``memory`` later on changes nothing else; of a whole model: ``set_memory``.

    Source: "invertible": Gomez et al., "The reversible residual network", 2017, section 3.2 (arXiv:1707.04585).
    """

    recomputed_from = None

    def __init__(self, *layers: Bijection, memory: str = "plain"):
        super().__init__()
        for i, layer in enumerate(layers):
            if not isinstance(layer, Bijection):
                raise ValueError(f"Sequential takes bijections, but layer {i} is a {type(layer).__name__}")
        self.layers = nn.ModuleList(layers)
        self.memory = recompute.check_memory(memory)

    def forward(self, x, context=None):
        z, log_det = x, zero_log_det(x)
        for part in recompute.parts(self.layers, self.memory):
            z, part_log_det = part(z, context)
            log_det = log_det + part_log_det
        return z, log_det

    def inverse(self, z, context=None):
        for layer in reversed(self.layers):
            z = layer.inverse(z, context)
        return z

    def output_shape(self, shape):
        for layer in self.layers:
            shape = layer.output_shape(shape)
        return tuple(shape)

    def unpack(self, z):
        return self.layers[-1].unpack(z) if self.layers else [z]

    def pack(self, levels):
        return self.layers[-1].pack(levels) if self.layers else super().pack(levels)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int | slice) -> Bijection:
        """One layer; of a slice, a ``Sequential`` of these layers."""
        return Sequential(*self.layers[index], memory=self.memory) if isinstance(index, slice) else self.layers[index]


def set_memory(module: nn.Module, memory: str) -> None:
    """Sets what training keeps for backward in every ``Sequential`` and ``Multiscale`` of a model.

    Args:
        module: for example a ``Flow``.
        memory: "plain", "checkpoint" or "invertible", see ``Sequential``.
    """
    recompute.check_memory(memory)
    for part in module.modules():
        if isinstance(part, Bijection) and hasattr(part, "memory"):
            part.memory = memory


class Inverse(Bijection):
    """Runs a bijection backwards: z = f^-1(x),   log_det = -log|det df/dx| at z.

    Args:
        bijection: f. Its ``output_shape`` must keep the shape.
    """

    def __init__(self, bijection: Bijection):
        super().__init__()
        self.bijection = bijection

    def forward(self, x, context=None):
        z = self.bijection.inverse(x, context)
        _, log_det = self.bijection(z, context)
        return z, -log_det

    def inverse(self, z, context=None):
        x, _ = self.bijection(z, context)
        return x

    def output_shape(self, shape):
        if self.bijection.output_shape(shape) != tuple(shape):
            raise ValueError(f"Inverse needs a bijection that keeps the shape {tuple(shape)}")
        return tuple(shape)


class WithContext(Bijection):
    """Gives a bijection what a network makes of the context, computed once: f(x, network(context)).

    Args:
        bijection: f.
        network: any module from the outer context to the context that f looks at.
    """

    recomputed_from = None

    def __init__(self, bijection: Bijection, network: nn.Module):
        super().__init__()
        self.bijection = bijection
        self.network = network

    def _features(self, x, context):
        if context is None:
            raise ValueError("WithContext got no context; pass one to the call")
        # Whatever the network computes in: f may do without half precision.
        return self.network(context).to(x.dtype)

    def forward(self, x, context=None):
        return self.bijection(x, self._features(x, context))

    def inverse(self, z, context=None):
        return self.bijection.inverse(z, self._features(z, context))

    def output_shape(self, shape):
        return self.bijection.output_shape(shape)

    def unpack(self, z):
        return self.bijection.unpack(z)

    def pack(self, levels):
        return self.bijection.pack(levels)
