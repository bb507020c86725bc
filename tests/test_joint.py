"""A flow that classifies too."""

import torch

from nbflows import models


def test_a_joint_flow_gives_the_likelihood_of_the_flow_in_the_same_pass():
    flow = models.digits_joint_residual_flow(num_blocks=(1, 1), hidden_channels=8, features_per_level=4).double()
    images = torch.randint(17, (6, 1, 8, 8)).byte()
    flow.log_prob_and_logits(images)
    for mode in (True, False):
        flow.train(mode)
        torch.manual_seed(3)
        log_prob, logits = flow.log_prob_and_logits(images)
        torch.manual_seed(3)
        torch.testing.assert_close(flow.log_prob(images), log_prob, rtol=1e-12, atol=0)
        assert logits.shape == (6, 10) and logits.dtype == torch.float64
    torch.manual_seed(3)
    chances = flow.classify(images)
    torch.testing.assert_close(chances, logits.softmax(1))
    torch.testing.assert_close(chances.sum(1), torch.ones(6, dtype=torch.float64))
    log_prob, logits = flow.train().log_prob_and_logits(images)
    (log_prob.sum() + logits.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())
    assert list(flow.heads) == ["1", "2"] and not any("end" in name for name, _ in flow.named_parameters())
