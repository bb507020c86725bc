"""nbflows: normalizing flows for images, to read, to teach and to train."""

from typing import NoReturn

from nbflows import layers, models, nets, upstream
from nbflows.bijection import Bijection
from nbflows.checks import BijectionError, check_bijection
from nbflows.compose import Identity, Inverse, Sequential, WithContext, set_memory
from nbflows.explorer import explore
from nbflows.flow import Flow
from nbflows.joint import JointFlow
from nbflows.labelled import LabelledFlow
from nbflows.multiscale import Multiscale
from nbflows.pixelflow import PixelFlow
from nbflows.pretrained import list_pretrained, load, load_pretrained
from nbflows.storage.weights import load_flow, save_flow
from nbflows.translation import TranslationFlow, Translations

_MOVED = {
    "data": ("reading", "toys"),
    "storage": ("download", "manifest", "unpickle", "weights"),
    "training": ("callbacks", "compiling", "runs", "schedule"),
}


def __getattr__(name: str) -> NoReturn:
    for folder, modules in _MOVED.items():
        if name in modules:
            raise ImportError(f"nbflows.{name} has moved: from nbflows.{folder} import {name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "Bijection",
    "BijectionError",
    "Flow",
    "Identity",
    "Inverse",
    "JointFlow",
    "LabelledFlow",
    "Multiscale",
    "PixelFlow",
    "Sequential",
    "TranslationFlow",
    "Translations",
    "WithContext",
    "check_bijection",
    "explore",
    "layers",
    "list_pretrained",
    "load",
    "load_flow",
    "load_pretrained",
    "models",
    "nets",
    "save_flow",
    "set_memory",
    "upstream",
]
