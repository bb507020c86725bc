"""A flow that also classifies: p(x, y) = p(x) p(y | x), where both factors use the same layers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nbflows.bijection import zero_log_det
from nbflows.compose import Sequential as Chain
from nbflows.flow import Flow, log_standard_normal


class JointFlow(Flow):
    """A flow with class probabilities p(y | x) = softmax(linear(features)).

    ``heads[i]`` maps the output of layer i to features ``(B, F_i)``; the features of all heads are joined.

    Args:
        layers: the layers of the flow, data side first.
        shape: the shape of one example.
        heads: maps a layer's index to the head that reads its output.
        num_features: the number of features of all heads together.
        num_classes: labels are 0..num_classes - 1.

    Source: Nalisnick et al., "Hybrid models with deep and invertible features", 2019 (arXiv:1902.02767); the heads come
    from Chen et al., "Residual flows for invertible generative modeling", 2019 (arXiv:1906.02735).
    """

    bijection: Chain

    def __init__(
        self,
        layers: Chain,
        shape: Sequence[int],
        heads: dict[int, nn.Module],
        num_features: int,
        num_classes: int,
    ):
        super().__init__(layers, shape)
        if not heads or not all(0 <= i < len(layers) for i in heads):
            raise ValueError(f"heads read layers 0..{len(layers) - 1}, got {sorted(heads)}")
        self.heads = nn.ModuleDict({str(i): head for i, head in sorted(heads.items())})
        self.classifier = nn.Linear(num_features, num_classes)
        self.num_classes = num_classes

    def log_prob_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log p(x) in nats ``(B,)``, as ``log_prob``, and the class scores ``(B, num_classes)`` in one pass."""
        self._check(x, None)
        z, log_det, features, start = x, zero_log_det(x), [], 0
        for i, head in self.heads.items():
            z, part_log_det = self.bijection[start : int(i) + 1](z)
            log_det = log_det + part_log_det
            features.append(head(z))
            start = int(i) + 1
        z, part_log_det = self.bijection[start:](z)
        log_det = log_det + part_log_det
        # Class probabilities are never computed in half precision.
        with torch.autocast(z.device.type, enabled=False):
            logits = self.classifier(torch.cat(features, dim=1).to(self.classifier.weight.dtype))
        return log_standard_normal(z, log_det.dtype) + log_det, logits

    def classify(self, x: Tensor) -> Tensor:
        """Returns class probabilities ``(B, num_classes)``; for image flows with one draw of dequantization noise."""
        return self.log_prob_and_logits(x)[1].softmax(1)
