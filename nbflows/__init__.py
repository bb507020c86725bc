"""nbflows: normalizing flows for images, to read, to teach and to train."""

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
