"""A panel in a notebook that moves the latents of a flow: PyTorch computes, ipywidgets has the sliders."""

import io
import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nbflows import guidance
from nbflows.flow import Flow, first_layer
from nbflows.labelled import LabelledFlow
from nbflows.layers import GaussianNoise, PatchAutoregressive, Patches

HEIGHT = 256
BELOW, ZERO, ABOVE = (np.array(colour, dtype=float) for colour in ((42, 103, 173), (244, 241, 234), (187, 74, 34)))


class Pictured(widgets.VBox):
    """A widget whose stored output in a notebook is a picture with its text, which stands where no kernel runs."""

    picture: widgets.Image
    text: str
    # Pixels of the picture for one of the page.
    density = 1

    def _stored(self) -> bytes:
        return bytes(self.picture.value)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        data = dict(super()._repr_mimebundle_(**kwargs) or {})
        png = self._stored()
        with Image.open(io.BytesIO(png)) as opened:
            width = opened.width // self.density
        bundle = data | {"image/png": png, "text/plain": self.text}
        return bundle, {"image/png": {"alt": self.text, "width": width}}


class Panel(Pictured):
    """Shows the picture and the latents of a flow, with a temperature, a shift and new noise for each level.

    A flow given a class has a slider for it, and one that guidance steers a slider for its strength. Where a flow was
    trained with Gaussian noise, the picture is without it.
    """

    def __init__(self, flow: Flow, image: Tensor | None, context: Tensor | None, seed: int):
        if flow.num_grey_levels is None or len(flow.shape) != 3:
            raise ValueError(f"explore shows flows of images, which begin with Dequantize; this one has {flow.shape}")
        self.flow, self.context, self.grey_levels = flow, context, flow.num_grey_levels
        self.generator = torch.Generator(flow.device).manual_seed(seed)
        with torch.no_grad():
            z = self._draw() if image is None else flow.encode(image[None], context)[0]
        self.noise = flow.unpack(z)
        self.picture = widgets.Image(format="png", height=HEIGHT)
        self.score = widgets.Label()
        self.patches = next((layer for layer in flow.modules() if isinstance(layer, Patches)), None)
        self.classes, self.strength = self._conditions()
        names = [f", level {i}" for i in range(len(self.noise))] if len(self.noise) > 1 else [""]
        self.temperatures = [self._slider(f"temperature{name}", 1.0, 0, 1.5) for name in names]
        self.shifts = [self._slider(f"shift{name}", 0.0, -2, 2) for name in names]
        self.buttons = [widgets.Button(description=f"New noise{name}") for name in names]
        for i, button in enumerate(self.buttons):
            button.on_click(lambda _, i=i: self._resample(i))
        conditions = [slider for slider in (self.classes, self.strength) if slider is not None]
        rows = zip(self.temperatures, self.shifts, self.buttons, strict=True)
        super().__init__([self.picture, self.score, *(widgets.HBox(row) for row in (conditions, *rows))])
        self._show()

    def _conditions(self) -> tuple[widgets.IntSlider | None, widgets.FloatSlider | None]:
        """Sliders for the class and for guidance, where the flow has them."""
        flow, classes, strength = self.flow, None, None
        if isinstance(flow, LabelledFlow) and isinstance(flow.num_classes, int) and self.context is not None:
            classes = self._slider("class", int(self.context), 0, flow.num_classes - 1)
            if flow.label_dropout and any(isinstance(layer, PatchAutoregressive) for layer in flow.modules()):
                strength = self._slider("guidance", 0.0, 0, 4)
        return classes, strength

    def _slider(self, name: str, value: float, low: float, high: float) -> Any:
        kind, step = (widgets.IntSlider, 1) if isinstance(value, int) else (widgets.FloatSlider, 0.05)
        slider = kind(value=value, min=low, max=high, step=step, description=name)
        slider.style.description_width, slider.layout.width = "11em", "26em"
        slider.observe(lambda _: self._show(), "value")
        return slider

    def _draw(self) -> Tensor:
        return self.flow.draw_noise(1, generator=self.generator)

    def _resample(self, level: int) -> None:
        self.noise[level] = self.flow.unpack(self._draw())[level]
        self._show()

    @torch.no_grad()
    def _show(self) -> None:
        moved = zip(self.noise, self.temperatures, self.shifts, strict=True)
        levels = [noise * temperature.value + shift.value for noise, temperature, shift in moved]
        if self.classes is not None:
            self.context = torch.tensor([self.classes.value], device=self.flow.device)
        try:
            image = self._decode(self.flow.pack(levels))
        except RuntimeError as error:
            # An inverse that overflowed, far from the latents of data.
            self.score.value = str(error)
            return
        bits = self.flow.bits_per_dim(image, self.context).item()
        self.score.value = f"{bits:.3f} bits/dim"
        if self.patches is not None:
            levels = [self.patches.inverse(level) for level in levels]
        self.picture.value = _png(image[0], levels, self.grey_levels)
        self.text = f"A picture of {bits:.2f} bits/dim, and its latents, blue below 0 and orange above"

    def _decode(self, z: Tensor) -> Tensor:
        noisy = isinstance(first_layer(self.flow.bijection), GaussianNoise)
        decode = partial(guidance.decode, self.flow) if noisy else self.flow.decode
        with nullcontext() if self.strength is None else guidance.guided(self.flow, self.strength.value):
            return decode(z, self.context)


def _png(image: Tensor, levels: list[Tensor], grey_levels: int) -> bytes:
    """The picture, and beside it the latents of each level with their channels in rows."""
    pixels = image.cpu().double().mul(255 / (grey_levels - 1)).round().byte().permute(1, 2, 0).expand(-1, -1, 3)
    parts = [pixels.numpy(), *(_tiles(level[0].cpu().double().numpy()) for level in levels)]
    enlarged = [Image.fromarray(part) for part in parts]
    enlarged = [part.resize((round(part.width * HEIGHT / part.height), HEIGHT), 0) for part in enlarged]
    sheet = Image.new("RGB", (sum(part.width + 12 for part in enlarged) - 12, HEIGHT), "white")
    left = 0
    for part in enlarged:
        sheet.paste(part, (left, 0))
        left += part.width + 12
    file = io.BytesIO()
    sheet.save(file, format="png", optimize=True)
    return file.getvalue()


def _tiles(level: np.ndarray) -> np.ndarray:
    """Channels ``(C, H, W)`` in rows, one pixel apart, coloured by sign: ``(rows, columns, 3)``."""
    if level.ndim != 3:
        # A vector has no places: it fills a square, row by row.
        side = math.ceil(math.sqrt(level.size))
        level = np.pad(level.ravel(), (0, side**2 - level.size)).reshape(1, side, side)
    c, h, w = level.shape
    columns = 2 ** math.ceil(math.log2(math.sqrt(c)))
    sheet = np.full((-(-c // columns) * (h + 1) - 1, columns * (w + 1) - 1, 3), 255.0)
    strength = np.minimum(np.abs(level.reshape(c, h, w)) / 2.5, 1)[..., None] ** 0.8
    colours = ZERO + strength * (np.where(level.reshape(c, h, w)[..., None] < 0, BELOW, ABOVE) - ZERO)
    for k, channel in enumerate(colours):
        y, x = k // columns * (h + 1), k % columns * (w + 1)
        sheet[y : y + h, x : x + w] = channel
    return sheet.round().astype(np.uint8)
