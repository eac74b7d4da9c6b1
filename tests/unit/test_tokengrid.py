"""Token masks by hand."""

import torch

from headimpact.vlm.tokengrid import token_mask


def test_a_token_mask_of_a_tiny_object_is_its_best_covered_token():
    covered = torch.tensor([0.0, 0.1, 0.3, 0.2])
    assert token_mask(covered, 0.5).tolist() == [False, False, True, False]
    assert not token_mask(torch.zeros(4), 0.5).any()
    assert token_mask(torch.tensor([0.5, 0.49, 0.9, 0.0]), 0.5).tolist() == [True, False, True, False]
