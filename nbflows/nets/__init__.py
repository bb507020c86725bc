"""Conditioner networks: plain modules without any knowledge of flows."""

from nbflows.nets.attention import GatedAttention, GatedAttentionNet, position_code
from nbflows.nets.causal import CausalImageNet
from nbflows.nets.conv_lstm import ConvLSTM
from nbflows.nets.convnet import ConvNet
from nbflows.nets.gated import GatedConvNet
from nbflows.nets.glow import ActNormConvNet, ZeroConv
from nbflows.nets.levels import PickLevels
from nbflows.nets.lipschitz import LipschitzConvNet, LipschitzMLP, LipSwish
from nbflows.nets.masked import MADE
from nbflows.nets.mlp import MLP
from nbflows.nets.operator_norm import OperatorNorm, update_norms
from nbflows.nets.pointwise import PointwiseConv
from nbflows.nets.pooled import PooledFeatures
from nbflows.nets.sequence import CausalSequenceNet

__all__ = [
    "MADE",
    "MLP",
    "ActNormConvNet",
    "CausalImageNet",
    "CausalSequenceNet",
    "ConvLSTM",
    "ConvNet",
    "GatedAttention",
    "GatedAttentionNet",
    "GatedConvNet",
    "LipSwish",
    "LipschitzConvNet",
    "LipschitzMLP",
    "OperatorNorm",
    "PickLevels",
    "PointwiseConv",
    "PooledFeatures",
    "ZeroConv",
    "position_code",
    "update_norms",
]
