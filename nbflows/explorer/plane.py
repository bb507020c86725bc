"""Two widgets of a notebook: an increasing curve whose knots move, and a film of points that a training bends."""

import io
import math
from collections.abc import Callable

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from nbflows.explorer.panel import Pictured
from nbflows.layers.spline import Spline
from nbflows.plotting import pushed_densities

GAP, HIGHEST = 0.1, 3.0


class Knots(Pictured):
    """Shows a curve z = f(x) through knots, and the density that it makes of a normal latent z."""

    density = 2

    def __init__(self, function: Callable[[Tensor], Tensor], low: float, high: float, count: int, names: tuple):
        self.low, self.high, self.names = low, high, names
        self.places = torch.linspace(low, high, count, dtype=torch.float64)
        self.sliders = [
            widgets.FloatSlider(
                value=height, min=-HIGHEST, max=HIGHEST, step=0.05, description=f"{x:.3g}", orientation="vertical"
            )
            for x, height in zip(self.places.tolist(), function(self.places).tolist(), strict=True)
        ]
        for i, slider in enumerate(self.sliders):
            slider.layout.width = "4em"
            slider.observe(lambda _, i=i: self._move(i), "value")
        self.text = (
            f"An increasing curve through {count} knots. At its left the bell of the latent in eight coloured bands, "
            f"below it the density of {names[0]} with the same bands, high where the curve is steep."
        )
        self.picture, self.moving = widgets.Image(format="png", width=760), False
        note = widgets.Label(f"Drag the knots. Below each is its {names[0]}.")
        super().__init__([self.picture, note, widgets.HBox(self.sliders)])
        self._show()

    def _move(self, i: int) -> None:
        """A knot pushes its neighbours, so that the curve goes on rising."""
        if self.moving:
            return
        self.moving = True
        # The neighbours that it pushes need room within the sliders.
        below, above = i * GAP, (len(self.sliders) - 1 - i) * GAP
        self.sliders[i].value = min(max(self.sliders[i].value, below - HIGHEST), HIGHEST - above)
        for k in range(i + 1, len(self.sliders)):
            self.sliders[k].value = max(self.sliders[k].value, self.sliders[k - 1].value + GAP)
        for k in reversed(range(len(self.sliders) - 1)):
            self.sliders[k].value = min(self.sliders[k].value, self.sliders[k + 1].value - GAP)
        self.moving = False
        self._show()

    def _show(self) -> None:
        heights = self.places.new_tensor([slider.value for slider in self.sliders])
        # The spline is on [-1, 1]; at a knot its slope is the geometric mean of those beside it.
        t = torch.linspace(-1, 1, 602, dtype=torch.float64)[1:-1]
        steps = heights.diff() * (len(heights) - 1) / 2
        logs = steps.log()
        ends = 1.5 * logs[[0, -1]] - 0.5 * logs[[1, -2]]
        slopes = torch.cat([ends[:1], (logs[1:] + logs[:-1]) / 2, ends[1:]]).exp()
        at = torch.linspace(-1, 1, len(heights), dtype=torch.float64)
        knots = (values[:, None].expand(-1, len(t)) for values in (at, heights, slopes))
        z, log_slope = Spline(len(heights) - 1, bound=1.0).curve(t, *knots)
        half = (self.high - self.low) / 2
        x, slope = self.low + half * (t + 1), log_slope.exp() / half
        density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi) * slope
        eighths = torch.special.ndtri(torch.linspace(0, 1, 9, dtype=torch.float64).clamp(1e-3, 1 - 1e-3))
        edges = torch.from_numpy(np.interp(eighths.numpy(), z.numpy(), x.numpy()))
        figure = pushed_densities({"": (z, slope)}, x, density, edges, names=self.names)
        main = figure.axes[0]
        main.set(xlim=(self.low, self.high), ylim=(-1.1 * HIGHEST, 1.1 * HIGHEST))
        main.plot(self.places, heights, "o", color="black", markersize=7, zorder=3, clip_on=False)
        self.picture.value = _png(figure)


class Film(Pictured):
    """Shows the same points at several stages, coloured by where they are at the first one; a slider runs through."""

    density = 2

    def __init__(self, stages: dict[str, Tensor], data: Tensor):
        self.stages, self.data = list(stages.items()), data.numpy()
        first = self.stages[0][1]
        self.angles = torch.atan2(first[:, 1], first[:, 0]).numpy()
        last = len(self.stages) - 1
        self.text = (
            "Points in the plane at five stages of a training, each in the colour that it has at the first stage, over "
            f"the data in grey: a round cloud {self.stages[0][0]}, on the data {self.stages[-1][0]}."
        )
        self.picture = widgets.Image(format="png", width=520)
        self.slider = widgets.IntSlider(value=last, min=0, max=last, description="stage", readout=False)
        self.slider.observe(lambda _: self._show(), "value")
        player = widgets.Play(value=last, min=0, max=last, interval=200)
        widgets.jslink((player, "value"), (self.slider, "value"))
        super().__init__([self.picture, widgets.HBox([player, self.slider])])
        self._show()

    def _show(self) -> None:
        figure, axes = plt.subplots(figsize=(5.2, 4.2))
        self._draw(axes, self.slider.value)
        self.picture.value = _png(figure)

    def _draw(self, axes: Axes, stage: int) -> None:
        label, points = self.stages[stage]
        axes.scatter(*self.data.T, s=3, color="0.75", linewidth=0)
        axes.scatter(*points.numpy().T, s=3, c=self.angles, cmap="hsv", linewidth=0)
        axes.set_title(label, size=11)
        axes.set(xlim=(-2.5, 3.2), ylim=(-2.1, 2.3), xticks=[], yticks=[])
        axes.set_aspect("equal")

    def _stored(self) -> bytes:
        figure, all_axes = plt.subplots(1, 5, figsize=(8, 1.7))
        for i, axes in enumerate(all_axes):
            # More of the stages are early ones, when most happens.
            self._draw(axes, round((len(self.stages) - 1) * (i / 4) ** 2))
        return _png(figure)


def _png(figure: Figure) -> bytes:
    raw, png = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=2 * figure.dpi)
    plt.close(figure)
    Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(png, format="png", optimize=True)
    return png.getvalue()
