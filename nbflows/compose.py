"""The ways to combine bijections: one after the other, backwards, with a network for the context."""

from collections.abc import Sequence
from typing import overload

from torch import Tensor, nn

from nbflows import recompute
from nbflows.bijection import Bijection, module_list, zero_log_det
from nbflows.recompute import CheapInverse, NotRecomputed


class Identity(CheapInverse):
    """z = x,   log_det = 0. As a prior it is the standard normal."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x, zero_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z


class Sequential(NotRecomputed):
    """Applies bijections in order: z = f_n(... f_1(x)),   log_det = sum of their log-determinants.

    Args:
        layers: the bijections, data side first. All of them get the same context.
        memory: what training keeps for backward. "plain": all that autograd keeps, which grows with the number of
            layers. "checkpoint": the input of each layer, from which backward recomputes the layer. "invertible": z
            alone, from which backward recovers the inputs through the inverses. Then memory does not grow with the
            number of layers that have a cheap inverse; the others are recomputed from their inputs. The gradients are
            the same up to rounding. ``memory`` can be changed at any time; ``set_memory`` does so in a whole model.

    Source: "invertible": Gomez et al., "The reversible residual network", 2017, section 3.2 (arXiv:1707.04585).
    """

    layers: Sequence[Bijection]
    memory: str

    def __init__(self, *layers: Bijection, memory: str = "plain"):
        super().__init__()
        for i, layer in enumerate(layers):
            if not isinstance(layer, Bijection):
                raise ValueError(f"Sequential takes bijections, but layer {i} is a {type(layer).__name__}")
        self.layers = module_list(layers)
        self.memory = recompute.check_memory(memory)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_det = x, zero_log_det(x)
        for part in recompute.parts(self.layers, self.memory):
            z, part_log_det = part(z, context)
            log_det = log_det + part_log_det
        return z, log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        for layer in reversed(self.layers):
            z = layer.inverse(z, context)
        return z

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        for layer in self.layers:
            shape = layer.output_shape(shape)
        return tuple(shape)

    def unpack(self, z: Tensor) -> list[Tensor]:
        return self.layers[-1].unpack(z) if self.layers else [z]

    def pack(self, levels: list[Tensor]) -> Tensor:
        return self.layers[-1].pack(levels) if self.layers else super().pack(levels)

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> Bijection: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequential": ...
    def __getitem__(self, index: int | slice) -> Bijection:
        """Returns one layer, or for a slice a ``Sequential`` of its layers."""
        return Sequential(*self.layers[index], memory=self.memory) if isinstance(index, slice) else self.layers[index]


def set_memory(module: nn.Module, memory: str) -> None:
    """Sets what training keeps for backward in every ``Sequential`` and ``Multiscale`` of a model.

    Args:
        module: for example a ``Flow``.
        memory: "plain", "checkpoint" or "invertible", see ``Sequential``.
    """
    recompute.check_memory(memory)
    for part in module.modules():
        if isinstance(part, NotRecomputed) and part.memory is not None:
            part.memory = memory


class Inverse(Bijection):
    """Runs a bijection backwards: z = f^-1(x),   log_det = -log|det df/dx| at z.

    Args:
        bijection: f. Its ``output_shape`` must keep the shape.
    """

    def __init__(self, bijection: Bijection):
        super().__init__()
        self.bijection = bijection

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = self.bijection.inverse(x, context)
        _, log_det = self.bijection(z, context)
        return z, -log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        x, _ = self.bijection(z, context)
        return x

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.bijection.output_shape(shape) != tuple(shape):
            raise ValueError(f"Inverse needs a bijection that keeps the shape {tuple(shape)}")
        return tuple(shape)


class WithContext(NotRecomputed):
    """Encodes the context by a network, once, before a bijection sees it: f(x, network(context)).

    Args:
        bijection: f.
        network: any module from the outer context to the context of f.
    """

    def __init__(self, bijection: Bijection, network: nn.Module):
        super().__init__()
        self.bijection = bijection
        self.network = network

    def _features(self, x: Tensor, context: Tensor | None) -> Tensor:
        if context is None:
            raise ValueError("WithContext got no context; pass one to the call")
        # The network may compute in half precision; f may not be able to.
        return self.network(context).to(x.dtype)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection(x, self._features(x, context))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.bijection.inverse(z, self._features(z, context))

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.bijection.output_shape(shape)

    def unpack(self, z: Tensor) -> list[Tensor]:
        return self.bijection.unpack(z)

    def pack(self, levels: list[Tensor]) -> Tensor:
        return self.bijection.pack(levels)
