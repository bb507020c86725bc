"""Lossless compression: images to bytes with the probabilities of a flow, and back, bit for bit."""

from nbflows.coding.ans import Bits, DiscreteGaussian
from nbflows.coding.bits_back import Message, decode, encode

__all__ = ["Bits", "DiscreteGaussian", "Message", "decode", "encode"]
