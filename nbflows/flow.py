"""Flow: a bijection and standard normal noise make a distribution that scores, encodes, decodes and samples."""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nbflows import inputs, recompute
from nbflows.bijection import Bijection, sum_dimensions
from nbflows.derivatives import traced
from nbflows.progress import bar


def log_standard_normal(z: Tensor, dtype: torch.dtype) -> Tensor:
    """log N(z; 0, I), summed over all dimensions in ``dtype``: ``(B,)``."""
    return sum_dimensions(-0.5 * (z.to(dtype).square() + math.log(2 * math.pi)))


class Flow(nn.Module):
    """The distribution of x when z = bijection(x) is standard normal noise.

    log p(x) = log N(z; 0, I) + log_det.  For an image flow (first layer ``Dequantize``) this is a lower bound of the
    log-probability of the discrete image, estimated with one draw of the dequantization noise. ``flow(x)`` is
    ``flow.log_prob(x)``.

    Args:
        bijection: data -> noise.
        shape: the shape of one example, ``(C, H, W)`` or ``(D,)``; every layer is checked against it here.
        context_shape: the shape of one example's context; None if the flow takes no context.

    Raises:
        TypeError: an argument of one of its methods is not a dense tensor of real numbers.
        ValueError: the tensor has another shape or precision than the flow, is on another device, or contains NaN or
            infinities. The last two are not checked within torch.compile, torch.export and torch.func.

    Attributes:
        built_by: the name and the arguments of the builder in ``nbflows.models`` that made it; None if none did.
        has_exact_probabilities: whether ``log_prob`` is that of integer images, not a bound of it with drawn noise.
    """

    built_by: tuple[str, dict] | None = None
    has_exact_probabilities = False
    _like: Tensor

    def __init__(self, bijection: Bijection, shape: Sequence[int], context_shape: Sequence[int] | None = None):
        super().__init__()
        if not isinstance(bijection, Bijection):
            kind = type(bijection).__name__
            raise TypeError(f"a Flow takes one bijection, got a {kind}; Sequential(*layers) makes one of several")
        self.bijection = bijection
        self.shape = tuple(shape)
        self.context_shape = None if context_shape is None else tuple(context_shape)
        self.latent_shape = bijection.output_shape(self.shape)
        # Follows .to() and .double(), so that noise is drawn on the right device also in a flow without parameters.
        self.register_buffer("_like", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of coordinates, float32 unless ``double()`` was called."""
        return self._like.dtype

    @property
    def num_grey_levels(self) -> int | None:
        """The number of grey levels of the images; None for a flow on real numbers."""
        return getattr(first_layer(self.bijection), "num_grey_levels", None)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns ``log_prob(x, context)``."""
        return self.log_prob(x, context)

    def _check(self, x: Tensor, context: Tensor | None, latents: bool = False) -> None:
        shape = self.latent_shape if latents else self.shape
        require_tensor(x, f"a batch of {shape}")
        if not x.dim() or tuple(x.shape[1:]) != shape:
            raise ValueError(f"expected a batch of {shape}, got a tensor of {tuple(x.shape)}")
        self._check_device(x, "z" if latents else "x")
        self._check_precision()
        if x.dtype != self.dtype and (latents or _takes_reals(first_layer(self.bijection))):
            raise ValueError(
                f"this flow computes in {self.dtype}, got {x.dtype}: give it x.to(flow.dtype)"
                + (", or make it flow.double()" if x.dtype == torch.float64 else "")
            )
        _require_finite_rows(x, "latents" if latents else "examples")
        self._check_context(context, len(x))

    def _check_device(self, x: Tensor, name: str) -> None:
        # torch.func may call a flow on the meta device with weights of another one.
        if x.device != self.device and not traced():
            raise ValueError(
                f"{name} is on {x.device}, the flow is on {self.device}: move one of them, {name}.to(flow.device)"
            )

    def _check_precision(self) -> None:
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"a flow computes in float32 or float64, but this one was converted to {self.dtype}: for half "
                "precision in its networks alone use flow.float() within torch.autocast"
            )

    def _check_context(self, context: Tensor | None, *num_rows: int) -> None:
        if (context is None) != (self.context_shape is None):
            wanted = "takes no context" if self.context_shape is None else f"needs a context of {self.context_shape}"
            raise ValueError(f"this flow {wanted}")
        if context is None or self.context_shape is None:
            return
        require_tensor(context, f"a context of {(num_rows[0], *self.context_shape)}")
        if tuple(context.shape) not in [(rows, *self.context_shape) for rows in num_rows]:
            raise ValueError(
                f"expected a context of {(num_rows[0], *self.context_shape)}, one row per example, "
                f"got {tuple(context.shape)}"
            )
        self._check_device(context, "context")
        _require_finite_rows(context, "rows of the context")

    def encode(
        self, x: Tensor, context: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Maps data to noise: z ``(B, *latent_shape)``, every level of it, and log_det ``(B,)`` in nats.

        Args:
            dtype: the precision, with a copy of the flow and without gradients; default: that of the flow. In float32 a
                deep flow returns some wrong grey levels; torch.float64, here and in ``decode``, returns all correctly.
        """
        if dtype not in (None, self.dtype):
            return self._in(dtype, "encode", x, context)
        self._check(x, context)
        return self.bijection(x, self.encode_context(context))

    def decode(self, z: Tensor, context: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Maps noise to data ``(B, *shape)``; uint8 for image flows. ``dtype`` as in ``encode``."""
        if dtype not in (None, self.dtype):
            return self._in(dtype, "decode", z, context)
        self._check(z, context, latents=True)
        return self.bijection.inverse(z, self.encode_context(context))

    @torch.no_grad()
    def _in(self, dtype: torch.dtype, function: str, x: Tensor, context: Tensor | None) -> Any:
        require_tensor(x, "a batch")
        x = x.to(dtype) if x.is_floating_point() else x
        return getattr(deepcopy(self).to(dtype), function)(x, context)

    def encode_context(self, context: Tensor | None) -> Tensor | None:
        """Returns the context that the layers see: the context itself, unless a subclass encodes it first."""
        return context

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x) in nats, ``(B,)``; for image flows a one-draw estimate of a lower bound."""
        z, log_det = self.encode(x, context)
        return log_standard_normal(z, log_det.dtype) + log_det

    def bits_per_dim(
        self, x: Tensor, context: Tensor | None = None, num_draws: int = 1, chunk_size: int = 256
    ) -> Tensor:
        """-log2 p(x) / D with D dimensions, ``(B,)``; lower is better, 8 is a uniform guess for 8-bit images.

        With M = ``num_draws`` > 1, p(x) is the mean over M draws of the dequantization noise: the importance-weighted
        bound, which tightens as M grows (Burda et al., 2016, arXiv:1509.00519). Scores with different M are not
        comparable. If log-determinants are estimates (``SeriesLogDet``), only M = 1 is unbiased: their noise alone
        increases a mean of exponentials.

        Args:
            num_draws: M.
            chunk_size: images per pass through the flow; bounds the memory. With gradients and several chunks, backward
                recomputes each chunk.
        """
        return -self.log_prob_bound(x, context, num_draws, chunk_size) / (math.prod(self.shape) * math.log(2))

    def log_prob_bound(
        self, x: Tensor, context: Tensor | None = None, num_draws: int = 1, chunk_size: int = 256
    ) -> Tensor:
        """Returns the bound of ``bits_per_dim``, with the same arguments, as log p(x) in nats: ``(B,)``."""
        num_draws, chunk_size = inputs.whole(num_draws, "num_draws", 1), inputs.whole(chunk_size, "chunk_size", 1)
        self._check(x, context)
        rows = torch.arange(len(x), device=x.device).repeat_interleave(num_draws)
        chunks = rows.split(chunk_size)
        # Otherwise autograd keeps all chunks, which takes as much memory as one large chunk.
        score = self.log_prob if len(chunks) == 1 else partial(recompute.checkpoint, self, self.log_prob)
        log_probs = [score(x[chunk], None if context is None else context[chunk]) for chunk in chunks]
        bound = torch.cat(log_probs).view(len(x), num_draws).logsumexp(1) - math.log(num_draws)
        # In training NonFiniteError says more.
        if not self.training and not traced() and bound.isnan().any():
            require_finite(self)
        return bound

    @torch.no_grad()
    def sample(
        self,
        num_samples: int | Sequence[int],
        context: Tensor | None = None,
        temperature: float | Sequence[float] = 1.0,
        generator: torch.Generator | None = None,
        chunk_size: int = 256,
        progress: bool = False,
    ) -> Tensor:
        """Draws ``(num_samples, *shape)``, on the device of the flow.

        Args:
            num_samples: the number of samples, or a shape such as ``(3, 4)``.
            context: one row per sample, or one row for all samples.
            temperature: scales the noise: one number, or one per level (finest first). Below 1: more typical samples.
            generator: random generator of the noise, on the device of the flow; default: torch's global one.
            chunk_size: samples per pass through the flow; bounds the memory and does not change the noise.
            progress: show a progress bar if there is more than one pass.
        """
        return self._sample(num_samples, context, temperature, generator, chunk_size, progress)

    def rsample(
        self,
        num_samples: int | Sequence[int],
        context: Tensor | None = None,
        temperature: float | Sequence[float] = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws as ``sample`` does, with gradients for the parameters and the context of a flow on real numbers.

        Raises:
            ValueError: samples of image flows are integers and have no gradients.
        """
        samples = self._sample(num_samples, context, temperature, generator)
        if not samples.is_floating_point():
            raise ValueError("samples of this flow are integers, which have no gradients: use sample, or decode")
        return samples

    def sample_and_log_prob(
        self, num_samples: int, context: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns samples and their ``log_prob``, with gradients where ``rsample`` has them: for the reverse KL.

        The samples of an image flow have no gradients, and their log-probabilities are one-draw estimates of a bound.
        """
        samples = self._sample(inputs.whole(num_samples, "num_samples", 0), context, 1.0, generator)
        if context is not None:
            context = context.expand(len(samples), *context.shape[1:])
        return samples, self.log_prob(samples, context)

    def _sample(
        self,
        num_samples: int | Sequence[int],
        context: Tensor | None,
        temperature: float | Sequence[float],
        generator: torch.Generator | None,
        chunk_size: int = 256,
        progress: bool = False,
    ) -> Tensor:
        size = sample_shape(num_samples)
        num_samples, chunk_size = math.prod(size), inputs.whole(chunk_size, "chunk_size", 1)
        self._check_precision()
        self._check_context(context, num_samples, 1)
        context = self._encode_contexts(context, chunk_size)
        if context is not None and len(context) == 1:
            context = context.expand(num_samples, *context.shape[1:])
        chunks = []
        try:
            for rows, z in self._noise_chunks(num_samples, temperature, generator, chunk_size, progress):
                chunks.append(self.bijection.inverse(z, None if context is None else context[rows]))
        except (ValueError, RuntimeError):
            # The layer's message names its input. The weights are checked only now, because that is slower than a pass.
            require_finite(self)
            raise
        samples = torch.cat(chunks)
        if samples.is_floating_point() and not traced() and not samples.isfinite().all():
            require_finite(self)
        return samples.view(*size, *samples.shape[1:])

    def draw_noise(
        self,
        num_samples: int,
        temperature: float | Sequence[float] = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draws what ``sample`` decodes: standard normal noise ``(num_samples, *latent_shape)`` times temperature."""
        num_samples = inputs.whole(num_samples, "num_samples", 0)
        if not isinstance(generator, torch.Generator | None):
            raise TypeError(
                f"generator is a torch.Generator, got {generator!r:.50}: torch.Generator(flow.device).manual_seed(3)"
            )
        z = torch.randn(num_samples, *self.latent_shape, generator=generator, dtype=self.dtype, device=self.device)
        levels = self.unpack(z)
        try:
            temperatures = list(cast(Sequence[float], temperature))
        except TypeError:  # One number, from Python, torch or numpy.
            temperatures = [cast(float, temperature)] * len(levels)
        if len(temperatures) != len(levels):
            raise ValueError(
                f"temperature is one number, or one per level; this flow has {len(levels)}, got {temperature}"
            )
        temperatures = [inputs.number(t, "temperature", 0) for t in temperatures]
        return self.pack([t * level for t, level in zip(temperatures, levels, strict=True)])

    def _noise_chunks(
        self,
        num_samples: int,
        temperature: float | Sequence[float],
        generator: torch.Generator | None,
        chunk_size: int,
        progress: bool,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Draws the noise of all samples and yields it in chunks, each with its rows; one chunk if it is empty."""
        chunks = self.draw_noise(num_samples, temperature, generator).split(chunk_size)
        chunks = bar(chunks, "sampling", show=progress and len(chunks) > 1, leave=None)
        for i, chunk in enumerate(chunks):
            yield slice(i * chunk_size, i * chunk_size + len(chunk)), chunk

    def _encode_contexts(self, context: Tensor | None, chunk_size: int) -> Tensor | None:
        """Encodes the context in chunks of ``chunk_size`` rows."""
        if context is None:
            return None
        return torch.cat([cast(Tensor, self.encode_context(part)) for part in context.split(chunk_size)])

    def unpack(self, z: Tensor) -> list[Tensor]:
        """Cuts a latent into its levels, finest first; a flow that is not multi-scale has one level."""
        return self.bijection.unpack(z)

    def pack(self, levels: list[Tensor]) -> Tensor:
        """Joins the levels of ``unpack`` into one latent."""
        return self.bijection.pack(levels)

    def __getstate__(self) -> dict:
        if any(parametrize.is_parametrized(module) for module in self.modules()):
            raise TypeError(
                "a flow with parametrized weights cannot be pickled: save_flow(flow, file) and load_flow(file) keep "
                "it, and so does its state_dict"
            )
        return self.__dict__

    def __deepcopy__(self, memo: dict) -> "Flow":
        # Not by __getstate__: parametrized weights can be copied, though not pickled.
        copied = memo[id(self)] = self.__new__(type(self))
        copied.__dict__ = deepcopy(self.__dict__, memo)
        return copied


def first_layer(bijection: Bijection) -> Bijection:
    """Returns the layer that sees the data, also in a flow of one layer or of nested ``Sequential``."""
    while isinstance(layers := getattr(bijection, "layers", None), nn.ModuleList) and layers:
        bijection = cast(Bijection, layers[0])
    return bijection


def sample_shape(num_samples: int | Sequence[int]) -> list[int]:
    """Returns a number of samples, or a shape of them, as a list. Raises ValueError for negative numbers."""
    size = num_samples if isinstance(num_samples, (tuple, list)) else [num_samples]
    return [inputs.whole(count, "num_samples", 0) for count in size]


def _takes_reals(layer: Bijection) -> bool:
    """Whether a layer takes real numbers: dequantization takes integers, and a user's own layer may take anything."""
    return not hasattr(layer, "num_grey_levels") and type(layer).__module__.startswith("nbflows.")


def require_finite(flow: nn.Module, where: str = "") -> None:
    """Raises ValueError if a weight of a flow is NaN or infinite; it names the first one, after ``where``."""
    for name, tensor in flow.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{where}{name} has values that are not finite: the flow cannot be used, train it again")


def require_tensor(x: object, wanted: str) -> None:
    """Raises TypeError, with the fix, if x is not a dense tensor of real numbers."""
    if not isinstance(x, Tensor):
        fix = "; torch.as_tensor makes a tensor of it" if hasattr(x, "__array__") or isinstance(x, list) else ""
        raise TypeError(f"expected {wanted} as a tensor, got a {type(x).__name__}{fix}")
    for is_wrong, kind, fix in (
        (x.is_complex(), "complex", "torch.view_as_real(x) has both parts"),
        (x.is_nested, "nested", "give examples of the same shape, torch.stack(x.unbind())"),
        (x.layout != torch.strided, "sparse" if "sparse" in str(x.layout) else str(x.layout), "give x.to_dense()"),
    ):
        if is_wrong:
            raise TypeError(f"expected {wanted} as a dense tensor of real numbers, got a {kind} one: {fix}")


def _require_finite_rows(x: Tensor, what: str) -> None:
    if not x.is_floating_point() or traced() or x.isfinite().all():
        return
    bad = (~x.flatten(1).isfinite()).any(1)
    first = bad.nonzero()[0].item()
    raise ValueError(
        f"{bad.sum()} of {len(x)} {what} contain NaN or infinite numbers, for example number {first}: leave them out"
    )
