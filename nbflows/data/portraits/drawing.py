"""Draws portraits: each layer once for all values of its attributes, then all layers of an image over each other.

Pixels come from sums, products, quotients and square roots alone, which every machine rounds alike.
"""

from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
from numpy.typing import ArrayLike

from nbflows.data.portraits.attributes import ATTRIBUTES


class Canvas:
    """A transparent square with x and y from -1 to 1, y downwards.

    ``pixels`` are red, green and blue, premultiplied by the share that they cover, and the share that is left free.
    """

    def __init__(self, width: int):
        self.x, self.y = np.meshgrid(*2 * [(np.arange(width, dtype=np.float32) + 0.5) * (2 / width) - 1])
        self.edge = 2 / width
        self.pixels = np.zeros((width, width, 4), np.float32)
        self.pixels[..., 3] = 1

    def mask(self, distance: np.ndarray, soft: float = 0.0) -> np.ndarray:
        """1 where a signed distance is negative, 0 outside, smooth over a width of ``soft`` in between."""
        t = np.clip(0.5 - distance / max(soft, self.edge), 0, 1)
        return t * t * (3 - 2 * t)

    def paint(self, mask: np.ndarray, colour: ArrayLike, opacity: float = 1.0) -> None:
        """Covers what is there; ``colour`` is of shape ``(3,)`` or ``(H, W, 3)``."""
        cover = (mask * opacity)[..., None]
        self.pixels *= 1 - cover
        self.pixels[..., :3] += cover * np.asarray(colour, np.float32)

    def ellipse(self, x: float, y: float, width: float, height: float) -> np.ndarray:
        """About the distance to an ellipse with these half axes."""
        u, v = (self.x - x) / width, (self.y - y) / height
        return (np.sqrt(u * u + v * v) - 1) * min(width, height)

    def box(self, x: float, y: float, width: float, height: float, corner: float = 0.0) -> np.ndarray:
        """The distance to a box of these half sides with round corners."""
        u, v = abs(self.x - x) - (width - corner), abs(self.y - y) - (height - corner)
        outside = np.sqrt(np.maximum(u, 0) * np.maximum(u, 0) + np.maximum(v, 0) * np.maximum(v, 0))
        return outside + np.minimum(np.maximum(u, v), 0) - corner

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float) -> np.ndarray:
        """The distance to a stroke with round ends."""
        u, v, du, dv = self.x - x0, self.y - y0, x1 - x0, y1 - y0
        t = np.clip((u * du + v * dv) / (du * du + dv * dv), 0, 1)
        u, v = u - t * du, v - t * dv
        return np.sqrt(u * u + v * v) - width / 2

    def curve(self, x: float, y: float, half: float, bend: float, width: float) -> np.ndarray:
        """The distance to a stroke along a parabola, ``bend`` lower in the middle than at its ends."""
        points = [(x + half * t, y + bend * (1 - t * t)) for t in (-1, -0.6, -0.25, 0, 0.25, 0.6, 1)]
        parts = [self.line(*p, *q, width) for p, q in pairwise(points)]
        return np.minimum.reduce(parts)


def _equal_luma(luma: float, colours: str) -> list[np.ndarray]:
    """Colours, all shifted to one grey value: a grey picture says nothing of their hue."""
    rgb = [np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)], np.float64) for colour in colours.split()]
    return [colour + luma - colour @ np.array([19595, 38470, 7471]) / 65536 for colour in rgb]


def _hex(colours: str) -> list[np.ndarray]:
    return [np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)], np.float64) for colour in colours.split()]


BACKGROUND = dict(
    zip(
        ATTRIBUTES.values["background"],
        _equal_luma(186, "f7a48f f5c05c b4cf6e 7fd6b4 86c4ee bdb2f0 f3a3c8 cfc0a4"),
        strict=True,
    )
)
HUES = dict(
    zip(
        ATTRIBUTES.values["clothing_colour"],
        _equal_luma(98, "d0443f c9651f 77792b 2f8553 197f8c 3b66bd 8650b5 6a6672"),
        strict=True,
    )
)
SKIN = dict(zip(ATTRIBUTES.values["skin"], _hex("f0d0ba ecbd98 dca678 c58c5d 9c6643 774b32"), strict=True))
HAIR = dict(
    zip(ATTRIBUTES.values["hair_colour"], _hex("2b2730 64412b a4512a dfb35f a9a9b0 e0709f 3aa7a3"), strict=True)
)
EYES = dict(
    zip(ATTRIBUTES.values["eye_colour"][1:], _equal_luma(96, "8b4f22 8a7a1c 2c8f45 2c6fc9 8148c8"), strict=True)
)
FRAMES = dict(zip(ATTRIBUTES.values["glasses_colour"][1:], _hex("2a2a33 b93a3a 2f5cab c99a3c"), strict=True))

# How far the features move when the head turns; from where the light comes.
TURN = {"left": -0.075, "straight": 0.0, "right": 0.075}
LIGHT = {"left": -1.0, "front": 0.0, "right": 1.0}


def _lit(canvas: Canvas, colour: np.ndarray, light: str, strength: float) -> np.ndarray:
    """A colour that is lighter towards the light and at the top, ``(H, W, 3)``; colours of equal luma stay equal."""
    field = LIGHT[light] * canvas.x - 0.45 * canvas.y - 0.35
    return colour.astype(np.float32) * (1 + strength * field[..., None])


def _head(canvas: Canvas, face: str) -> np.ndarray:
    x, y = canvas.x, canvas.y
    width, height, up = {"oval": (0.47, 0.6, 0.56), "round": (0.5, 0.53, 0.56), "square": (0.475, 0.56, 0.56)}[face]
    u, v = x / width, (y + 0.02) / np.where(y < -0.02, np.float32(up), np.float32(height))
    u, v = u * u, v * v
    even = np.sqrt(u + v)
    if face == "square":
        corner = np.sqrt(np.sqrt(u * u + v * v))
        even = np.where(v * (y > -0.02) > 0, 0.35 * even + 0.65 * corner, even)
    return (even - 1) * 0.5


def _background(c: Canvas, background: str, backdrop: str) -> None:
    colour = BACKGROUND[background]
    everywhere = np.ones_like(c.x)
    c.paint(everywhere, colour)
    light, dark = colour + 0.42 * (246 - colour), colour * 0.88
    if backdrop == "disc":
        c.paint(c.mask(c.ellipse(0, 0.02, 0.88, 0.88)), light)
    elif backdrop == "halves":
        c.paint(c.mask(c.x + 0.35 * c.y), light)
    elif backdrop == "rays":
        for dx, dy in ((1, 0.12), (0.78, 0.72), (0.28, 1), (-0.28, 1), (-0.78, 0.72), (-1, 0.12)):
            size = np.sqrt(np.float32(dx * dx + dy * dy))
            u, v = dx / size, -dy / size
            along, across = c.x * u + (c.y - 0.1) * v, abs(c.y * u - 0.1 * u - c.x * v)
            c.paint(c.mask(across - 0.2 * along) * (along > 0), light)
    elif backdrop == "dots":
        for i, j in product(range(-2, 3), range(-2, 3)):
            c.paint(c.mask(c.ellipse(0.44 * i, 0.44 * j, 0.105, 0.105)), light)
    c.paint(c.mask(0.9 - c.y, 0.6), dark, 0.35)


def _hair_shades(c: Canvas, hair_colour: str, light: str) -> tuple[np.ndarray, np.ndarray]:
    colour = HAIR[hair_colour]
    return _lit(c, colour, light, 0.22), _lit(c, colour * 0.8, light, 0.2)


def _hair_back(c: Canvas, hair: str, hair_colour: str, light: str) -> None:
    colour, dark = _hair_shades(c, hair_colour, light)
    if hair == "afro":
        c.paint(c.mask(c.ellipse(0, -0.2, 0.74, 0.7)), colour)
    elif hair == "bob":
        shape = np.minimum(c.ellipse(0, -0.12, 0.6, 0.6), c.box(0, 0.16, 0.6, 0.36, 0.16))
        c.paint(c.mask(shape), dark)
    elif hair == "long":
        shape = np.minimum(c.ellipse(0, -0.12, 0.58, 0.6), c.box(0, 0.4, 0.58, 0.56, 0.14))
        c.paint(c.mask(shape), dark)
    elif hair == "curly":
        for x, y in ((-0.5, -0.1), (0.5, -0.1), (-0.54, -0.32), (0.54, -0.32)):
            c.paint(c.mask(c.ellipse(x, y, 0.15, 0.16)), dark)
    elif hair == "bun":
        c.paint(c.mask(c.ellipse(0, -0.76, 0.22, 0.2)), colour)
        c.paint(c.mask(c.curve(0, -0.62, 0.15, 0.03, 0.05)), dark)


def _body(c: Canvas, skin: str, light: str) -> None:
    c.paint(c.mask(c.box(0, 0.62, 0.19, 0.34, 0.08)), _lit(c, SKIN[skin] * 0.86, light, 0.1))


def _clothing(c: Canvas, clothing: str, clothing_colour: str, light: str) -> None:
    colour = HUES[clothing_colour]
    main, dark = _lit(c, colour * 1.05, light, 0.14), _lit(c, colour * 0.76, light, 0.14)
    bright = _lit(c, colour + 0.62 * (240 - colour), light, 0.14)
    shoulders = np.maximum(c.ellipse(0, 1.12, 0.86, 0.46), -c.ellipse(0, 0.62, 0.235, 0.16))
    if clothing == "v-neck":
        shoulders = np.maximum(
            c.ellipse(0, 1.12, 0.86, 0.46), -np.maximum(abs(c.x) * 0.8 + (c.y - 0.99) * 0.6, 0.6 - c.y)
        )
    body = c.mask(shoulders)
    c.paint(body, main)
    if clothing == "tee":
        c.paint(c.mask(abs(c.ellipse(0, 0.62, 0.26, 0.185)) - 0.03) * body, dark)
    elif clothing == "v-neck":
        c.paint(c.mask(abs(abs(c.x) * 0.8 + (c.y - 0.99) * 0.6) - 0.035) * body, bright)
    elif clothing == "shirt":
        for side in (-1, 1):
            collar = np.maximum(c.line(side * 0.21, 0.68, side * 0.09, 0.86, 0.16), 0.6 - c.y)
            c.paint(c.mask(collar), bright)
        c.paint(c.mask(c.line(0, 0.9, 0, 1.1, 0.035)), dark)
    elif clothing == "hoodie":
        c.paint(c.mask(abs(c.ellipse(0, 0.62, 0.33, 0.22)) - 0.075) * c.mask(0.56 - c.y), dark)
        for side in (-1, 1):
            c.paint(c.mask(c.line(side * 0.12, 0.84, side * 0.13, 0.97, 0.045)), bright)
    elif clothing == "raglan":
        for side in (-1, 1):
            c.paint(c.mask(0.36 - side * c.x - 0.25 * (1 - c.y)) * body, bright)
        c.paint(c.mask(abs(c.ellipse(0, 0.62, 0.26, 0.185)) - 0.03) * body, dark)
    else:
        for y in (0.8, 0.96):
            c.paint(c.mask(abs(c.y - y - 0.1 * c.x * c.x) - 0.04) * body, bright)


def _face(c: Canvas, skin: str, light: str, face: str, pose: str) -> None:
    colour, turn = SKIN[skin], TURN[pose]
    lit, shade = _lit(c, colour, light, 0.13), _lit(c, colour * np.array([0.86, 0.78, 0.77]), light, 0.1)
    # The shadow of the chin.
    c.paint(
        c.mask(c.ellipse(0, 0.53, 0.3, 0.16), 0.1) * c.mask(abs(c.x) - 0.19), colour * np.array([0.68, 0.6, 0.6]), 0.7
    )
    for side in (-1, 1):
        c.paint(c.mask(c.ellipse(side * 0.475 - 0.6 * turn, 0.06, 0.09, 0.125)), lit)
        c.paint(c.mask(c.ellipse(side * 0.485 - 0.6 * turn, 0.065, 0.045, 0.07)), shade, 0.8)
    head = c.mask(_head(c, face))
    c.paint(head, lit)
    # Its side away from the light.
    away = LIGHT[light]
    c.paint(head * (1 - c.mask(c.ellipse(0.13 * away + 0.3 * turn, -0.08, 0.5, 0.66), 0.14)), shade, 0.75)
    c.paint(head * c.mask(c.ellipse(0.2 * away + turn, -0.3, 0.24, 0.13), 0.2), colour + 0.45 * (246 - colour), 0.3)


def _cheeks(c: Canvas, cheeks: str, pose: str) -> None:
    turn = TURN[pose]
    for side in (-1, 1):
        if cheeks == "blush":
            c.paint(c.mask(c.ellipse(side * 0.29 + turn, 0.17, 0.12, 0.075), 0.1), (238, 96, 96), 0.42)
        elif cheeks == "freckles":
            for x, y in ((0.2, 0.14), (0.28, 0.19), (0.36, 0.13), (0.28, 0.1)):
                c.paint(c.mask(c.ellipse(side * x + turn, y, 0.026, 0.026)), (140, 72, 40), 0.6)


def _nose(c: Canvas, nose: str, light: str, pose: str) -> None:
    turn, side = 1.35 * TURN[pose], -LIGHT[light] or 1.0
    shadow = (120, 52, 34)
    if nose == "small":
        c.paint(c.mask(c.curve(turn, 0.115, 0.055, 0.035, 0.045)), shadow, 0.5)
    elif nose == "long":
        c.paint(c.mask(c.line(turn + 0.03 * side, -0.03, turn + 0.05 * side, 0.115, 0.045), 0.03), shadow, 0.4)
        c.paint(c.mask(c.curve(turn, 0.118, 0.07, 0.03, 0.045)), shadow, 0.5)
    else:
        c.paint(c.mask(c.ellipse(turn, 0.1, 0.1, 0.06), 0.04), shadow, 0.22)
        c.paint(c.mask(c.curve(turn, 0.11, 0.1, 0.04, 0.045)), shadow, 0.5)


def _beard(c: Canvas, beard: str, hair_colour: str, face: str, pose: str) -> None:
    turn, colour = TURN[pose], HAIR[hair_colour] * 0.8
    head = c.mask(_head(c, face) - 0.015)
    around = c.ellipse(turn, 0.3, 0.15, 0.085)
    if beard in ("stubble", "full"):
        jaw = np.maximum(0.03 - c.y, -c.ellipse(0.6 * turn, -0.12, 0.4, 0.34))
        if beard == "stubble":
            c.paint(head * c.mask(jaw, 0.12), (5, 5, 5), 0.1)
            c.paint(head * c.mask(jaw, 0.12), colour * 0.5, 0.26)
        else:
            c.paint(head * c.mask(np.maximum(jaw, -around)), colour)
            c.paint(c.mask(np.maximum(_head(c, face) - 0.05, 0.3 - c.y)) * c.mask(-around), colour)
    elif beard == "goatee":
        c.paint(c.mask(np.maximum(c.ellipse(0.8 * turn, 0.46, 0.14, 0.13), 0.385 - c.y)), colour)
        c.paint(c.mask(c.line(turn - 0.1, 0.222, turn + 0.1, 0.222, 0.05)), colour)


def _moustache(c: Canvas, beard: str, hair_colour: str, pose: str) -> None:
    turn, colour = TURN[pose], HAIR[hair_colour] * 0.8
    if beard in ("moustache", "full"):
        for side in (-1, 1):
            curl = np.minimum(
                c.line(turn + side * 0.04, 0.235, turn + side * 0.12, 0.24, 0.105),
                c.line(turn + side * 0.12, 0.245, turn + side * 0.2, 0.265, 0.06),
            )
            c.paint(c.mask(curl), colour)


def _mouth(c: Canvas, mouth: str, pose: str) -> None:
    x, lips, inside, teeth = TURN[pose], (168, 62, 58), (98, 28, 36), (244, 240, 234)
    if mouth == "frown":
        c.paint(c.mask(c.curve(x, 0.345, 0.13, -0.06, 0.055)), lips)
    elif mouth == "flat":
        c.paint(c.mask(c.line(x - 0.11, 0.31, x + 0.11, 0.31, 0.055)), lips)
    elif mouth == "smile":
        c.paint(c.mask(c.curve(x, 0.27, 0.16, 0.085, 0.055)), lips)
    elif mouth == "grin":
        shape = np.maximum(c.ellipse(x, 0.265, 0.175, 0.13), 0.265 - c.y)
        c.paint(c.mask(shape - 0.025), lips)
        c.paint(c.mask(shape), teeth)
    elif mouth == "laugh":
        shape = np.maximum(c.ellipse(x, 0.255, 0.18, 0.19), 0.255 - c.y)
        c.paint(c.mask(shape - 0.015), inside)
        c.paint(c.mask(shape) * c.mask(c.y - 0.305), teeth)
        c.paint(c.mask(shape) * c.mask(c.ellipse(x, 0.45, 0.1, 0.07)), (222, 98, 100))
    else:
        c.paint(c.mask(c.ellipse(x, 0.32, 0.085, 0.105)), lips)
        c.paint(c.mask(c.ellipse(x, 0.32, 0.055, 0.075)), inside)


def _eyes(c: Canvas, eyes: str, eye_colour: str, gaze: str, pose: str) -> None:
    if eyes == "hidden" or (eyes == "shut") != (eye_colour == "none"):
        return
    look, dark = {"left": -0.05, "ahead": 0.0, "right": 0.05}[gaze], (44, 30, 34)
    for side in (-1, 1):
        x, y = 0.2 * side + TURN[pose], -0.015
        if eyes == "shut":
            c.paint(c.mask(c.curve(x, y + 0.03, 0.105, -0.075, 0.055)), dark)
            continue
        height = {"open": 0.1, "wide": 0.13, "sleepy": 0.1}[eyes]
        shape = c.ellipse(x, y, 0.125, height)
        if eyes == "sleepy":
            shape = np.maximum(shape, y - 0.015 - c.y)
        white = c.mask(shape)
        c.paint(white, (246, 244, 240))
        c.paint(white * c.mask(c.ellipse(x + look, y, 0.082, 0.088)), EYES[eye_colour])
        c.paint(white * c.mask(c.ellipse(x + look, y, 0.04, 0.044)), (26, 20, 26))
        if eyes != "sleepy":
            c.paint(c.mask(c.ellipse(x + look + 0.035, y - 0.035, 0.022, 0.022)), (250, 250, 250))
            c.paint(c.mask(c.curve(x, y - 0.05 - 0.5 * (height - 0.1), 0.125, -height + 0.045, 0.036)), dark, 0.9)
        else:
            c.paint(c.mask(c.line(x - 0.12, y - 0.015, x + 0.12, y - 0.015, 0.045)), dark, 0.9)


def _brows(c: Canvas, brows: str, hair_colour: str, pose: str) -> None:
    colour = HAIR[hair_colour] * 0.8
    inner, outer, bend = {
        "flat": (0, 0, 0),
        "raised": (-0.06, -0.05, -0.04),
        "angry": (0.045, -0.04, 0),
        "worried": (-0.06, 0.03, 0),
    }[brows]
    for side in (-1, 1):
        x, y = TURN[pose], -0.2
        ends = (
            x + side * 0.1,
            y + inner,
            x + side * 0.2,
            y + bend + 0.5 * (inner + outer) - 0.012,
            x + side * 0.31,
            y + outer,
        )
        c.paint(c.mask(np.minimum(c.line(*ends[:4], 0.056), c.line(*ends[2:], 0.05))), colour)


def _glasses(c: Canvas, glasses: str, glasses_colour: str, pose: str) -> None:
    if glasses == "none" or glasses_colour == "none":
        return
    x, colour = TURN[pose], FRAMES[glasses_colour]
    lens = {
        "round": lambda side: c.ellipse(x + side * 0.205, 0, 0.17, 0.165),
        "square": lambda side: c.box(x + side * 0.21, 0, 0.175, 0.125, 0.035),
        "sunglasses": lambda side: np.maximum(c.ellipse(x + side * 0.21, 0.01, 0.19, 0.19), -0.1 - c.y),
    }[glasses]
    for side in (-1, 1):
        c.paint(c.mask(c.line(x + side * 0.37, -0.04, side * 0.48, -0.02, 0.045)), colour)
        if glasses == "sunglasses":
            c.paint(c.mask(lens(side) - 0.018), colour)
            c.paint(c.mask(lens(side) + 0.02), (46, 44, 56))
            c.paint(
                c.mask(lens(side) + 0.02)
                * c.mask(c.line(x + side * 0.21 - 0.06, 0.04, x + side * 0.21 + 0.05, -0.08, 0.05)),
                (120, 124, 144),
            )
        else:
            c.paint(c.mask(lens(side)), (228, 236, 244), 0.16)
            c.paint(c.mask(abs(lens(side)) - 0.021), colour)
    c.paint(c.mask(c.curve(x, -0.02, 0.05, -0.025, 0.045)), colour)


def _earrings(c: Canvas, earrings: str, pose: str) -> None:
    for side in (-1, 1):
        x, gold = side * 0.5 - 0.6 * TURN[pose], (246, 206, 84)
        if earrings == "studs":
            c.paint(c.mask(c.ellipse(x, 0.185, 0.045, 0.045)), gold)
        elif earrings == "hoops":
            c.paint(c.mask(abs(c.ellipse(x, 0.265, 0.075, 0.095)) - 0.022), gold)


def _hair_front(c: Canvas, hair: str, hair_colour: str, light: str) -> None:
    colour, dark = _hair_shades(c, hair_colour, light)
    x, y = c.x, c.y
    cap = c.ellipse(0, -0.1, 0.525, 0.56)
    if hair == "buzz":
        c.paint(c.mask(np.maximum(c.ellipse(0, -0.07, 0.49, 0.53), y + 0.33 - 1.1 * x * x)), colour, 0.82)
    elif hair == "short":
        # Parted on one side.
        line = y + 0.3 - 0.9 * (x + 0.22) * (x + 0.22) + 0.1 * x
        c.paint(c.mask(np.maximum(cap, np.maximum(line, y - 0.04))), colour)
        c.paint(c.mask(c.curve(0.06, -0.42, 0.3, -0.1, 0.035)), dark, 0.7)
    elif hair == "spiky":
        shape = np.maximum(c.ellipse(0, -0.07, 0.515, 0.53), y + 0.33 - 1.0 * x * x)
        for px, py, qx in (
            (-0.44, -0.62, -0.36),
            (-0.2, -0.82, -0.16),
            (0.08, -0.86, 0.06),
            (0.34, -0.74, 0.26),
            (0.54, -0.52, 0.4),
        ):
            t = np.clip((-0.3 - y) / (-0.3 - py), 0, 1)
            shape = np.minimum(
                shape, np.maximum(abs(x - qx - t * (px - qx)) - 0.17 * (1 - t), np.maximum(y + 0.34, py - y))
            )
        c.paint(c.mask(shape), colour)
    elif hair == "curly":
        c.paint(c.mask(np.maximum(cap, y + 0.36 - 0.9 * x * x)), colour)
        for i, (px, py) in enumerate(
            (
                (-0.46, -0.28),
                (0.46, -0.28),
                (-0.4, -0.5),
                (0.4, -0.5),
                (-0.2, -0.62),
                (0.2, -0.62),
                (0, -0.64),
                (-0.26, -0.4),
                (0.02, -0.42),
                (0.28, -0.4),
            )
        ):
            c.paint(c.mask(c.ellipse(px, py, 0.155, 0.145)), colour if i % 2 else dark)
    elif hair == "afro":
        c.paint(c.mask(np.maximum(c.ellipse(0, -0.16, 0.58, 0.6), y + 0.33 - 1.05 * x * x)), colour)
    elif hair == "bob":
        sides = np.maximum(np.maximum(c.box(0, 0.1, 0.6, 0.42, 0.14), 0.43 - abs(x)), -0.4 - y)
        c.paint(c.mask(np.minimum(np.maximum(c.ellipse(0, -0.12, 0.6, 0.6), y + 0.265 - 0.2 * x * x), sides)), colour)
        c.paint(c.mask(c.curve(0, -0.44, 0.34, -0.1, 0.04)), dark, 0.6)
    elif hair == "long":
        sides = np.maximum(np.maximum(c.box(0, 0.3, 0.58, 0.66, 0.14), 0.42 - abs(x)), -0.4 - y)
        part = y + 0.46 - 1.5 * abs(x) + 0.7 * x * x
        c.paint(c.mask(np.minimum(np.maximum(c.ellipse(0, -0.12, 0.58, 0.6), part), sides)), colour)
        c.paint(c.mask(c.line(0, -0.7, 0, -0.48, 0.035)), dark, 0.8)
    elif hair == "bun":
        c.paint(c.mask(np.maximum(c.ellipse(0, -0.08, 0.5, 0.54), y + 0.36 - 0.95 * x * x)), colour)
    elif hair == "mohawk":
        c.paint(c.mask(np.maximum(c.ellipse(0, -0.07, 0.49, 0.53), y + 0.33 - 1.1 * x * x)), colour, 0.35)
        c.paint(c.mask(c.box(0, -0.6, 0.15, 0.32, 0.1)), colour)
        c.paint(c.mask(c.line(0.03, -0.8, 0.03, -0.42, 0.05)), dark, 0.6)


def _headwear(c: Canvas, headwear: str, hat_colour: str, light: str) -> None:
    if headwear == "none" or hat_colour == "none":
        return
    colour = HUES[hat_colour]
    main, dark = _lit(c, colour * 1.1, light, 0.18), _lit(c, colour * 0.78, light, 0.16)
    bright = _lit(c, colour + 0.5 * (240 - colour), light, 0.1)
    x, y = c.x, c.y
    bow = 0.16 * x * x
    if headwear == "headband":
        c.paint(c.mask(np.maximum(abs(y + 0.4 - bow) - 0.065, abs(x) - 0.53)), main)
        c.paint(c.mask(np.maximum(abs(y + 0.4 - bow) - 0.014, abs(x) - 0.53)), bright)
    elif headwear == "beanie":
        c.paint(c.mask(c.ellipse(0, -0.85, 0.13, 0.12)), bright)
        c.paint(c.mask(np.maximum(c.ellipse(0, -0.3, 0.6, 0.52), y + 0.3)), main)
        c.paint(c.mask(c.box(0, -0.36, 0.63, 0.095, 0.06)), dark)
        for i in range(-3, 4):
            c.paint(c.mask(c.line(0.17 * i, -0.41, 0.17 * i, -0.31, 0.03)), main, 0.8)
    elif headwear == "cap":
        c.paint(c.mask(np.maximum(c.ellipse(0, -0.3, 0.57, 0.54), y + 0.28 + 0.1 * x * x)), main)
        c.paint(
            c.mask(abs(c.ellipse(0, -0.3, 0.2, 0.56)) - 0.012)
            * c.mask(y + 0.4)
            * c.mask(c.ellipse(0, -0.3, 0.57, 0.54)),
            dark,
            0.7,
        )
        c.paint(c.mask(c.ellipse(0, -0.84, 0.06, 0.035)), dark)
        c.paint(c.mask(np.maximum(c.ellipse(0, -0.33, 0.5, 0.13), -0.38 - y + 0.25 * x * x)), dark)
        c.paint(c.mask(c.box(0, -0.56, 0.12, 0.085, 0.05)), bright)
    else:
        c.paint(c.mask(np.maximum(c.box(0, -0.62, 0.44, 0.33, 0.18), y + 0.33)), main)
        c.paint(c.mask(c.box(0, -0.42, 0.445, 0.075)), bright)
        c.paint(c.mask(c.ellipse(0, -0.33, 0.86, 0.105)), dark)


# From back to front: what each layer depends on is what its function takes.
LAYERS: tuple[Callable, ...] = (
    _background,
    _hair_back,
    _body,
    _clothing,
    _face,
    _cheeks,
    _nose,
    _beard,
    _mouth,
    _moustache,
    _eyes,
    _brows,
    _earrings,
    _hair_front,
    _glasses,
    _headwear,
)
