"""torch.compile for training: the layers of a flow that hold a network, one compilation for all that are alike."""

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from nbflows.layers import AffineCoupling, AffineInjector, GaussianPrior, MixtureCoupling
from nbflows.nets.norm import ActNormAffine

# Not residual blocks, whose networks are differentiated twice, which compiled code cannot be; not ConvLSTM priors,
# whose recurrences would be unrolled; not ActNorm and 1x1 convolutions, of which a compiled call costs more than it
# saves. What compiling splines and masked autoregressive layers gains was not measured.
COMPILED = AffineCoupling, AffineInjector, GaussianPrior, MixtureCoupling


def compilable(module: nn.Module) -> list[nn.Module]:
    """The layers of a model that are compiled.

    Raises:
        ValueError: there are none.
    """
    layers: list[nn.Module] = [layer for layer in module.modules() if isinstance(layer, COMPILED)]
    if not layers:
        raise ValueError(
            f"nothing to compile: this model has no {' or '.join(kind.__name__ for kind in COMPILED)}, the layers that "
            "are compiled. Train without --compile"
        )
    return layers


def has_seen_data(module: nn.Module) -> bool:
    """Whether every ActNorm in a model is initialised: compiled networks take it for granted."""
    return all(layer.has_seen_data for layer in module.modules() if isinstance(layer, ActNormAffine))


class CompiledLayers:
    """The ``compilable`` layers of a model and their networks, compiled at their first use within ``active()``.

    In place: parameters, their names and the model's class stay as they are. Layers that are alike in kind, shapes and
    settings share one graph. Random numbers are those of an uncompiled run, but for attention weights dropped on a CPU.

    Args:
        module: a flow that has seen data.
        backend: backend of torch.compile.
    """

    def __init__(self, module: nn.Module, backend: str = "inductor"):
        self.layers = compilable(module)
        options: Any = {"fallback_random": True} if backend == "inductor" else None
        # Networks on their own too: where memory is short, backward calls them without their layer.
        self._calls: dict[nn.Module, Any] = {
            # What nn.Module.compile does, where it could be undone.
            part: torch.compile(part._call_impl, dynamic=False, backend=backend, options=options)
            for layer in self.layers
            for part in (layer, layer.get_submodule("net"))
        }

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within it the layers run compiled."""
        # Each kind of layer is a recompilation of the same code; torch gives up after 8, taking them for accidents, and
        # counts those of earlier models in this process. The old names of the limits, which torch 2.6 knows.
        limit = num_graphs() + 8 + 2 * len(self._calls)
        accumulated = max(torch._dynamo.config.accumulated_cache_size_limit, limit)
        with torch._dynamo.config.patch(cache_size_limit=limit, accumulated_cache_size_limit=accumulated):
            for part, call in self._calls.items():
                part._compiled_call_impl = call
            try:
                yield
            finally:
                for part in self._calls:
                    part._compiled_call_impl = None


@contextlib.contextmanager
def uncompiled(module: nn.Module) -> Iterator[None]:
    """Within it a model runs as written, whatever is compiled of it: with hooks on its modules, for example."""
    calls = {part: part._compiled_call_impl for part in module.modules()}
    for part in calls:
        part._compiled_call_impl = None
    try:
        yield
    finally:
        for part, call in calls.items():
            part._compiled_call_impl = call


def num_graphs() -> int:
    """How many graphs torch.compile has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def require_compiler(device: torch.device) -> None:
    """Raises RuntimeError where torch.compile has nothing to compile with."""
    if device.type == "cuda":
        # Its own compiler, Triton, starts its kernels with a few lines of C.
        candidates, what = [os.environ.get("CC"), "gcc", "clang", "cc"], "C"
    else:
        usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        candidates, what = [os.environ.get("CXX", usual)], "C++"
    candidates = [name for name in candidates if name]
    # "ccache g++" is a compiler too.
    if not any(shutil.which(shlex.split(name)[0]) for name in candidates):
        raise RuntimeError(
            f"--compile needs a {what} compiler, and there is no {' or '.join(candidates)}: install one, name it in "
            f"the environment variable {'CC' if what == 'C' else 'CXX'}, or train without --compile"
        )
