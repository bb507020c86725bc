"""The ways to combine bijections: one after the other, backwards, with a network for the context."""

from torch import nn

from nbflows import recompute
from nbflows.bijection import Bijection, zero_log_det


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
