"""Stage 1's loss: InfoNCE over a queue of negatives."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Contrastive loss of each query against its key and a queue of negatives.

    Args:
        queries: (N, D), rows of unit length.
        keys: (N, D), rows of unit length; row i is the positive of query i. No gradient flows here.
        negatives: (K, D), rows of unit length. No gradient flows here.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar mean over N, in nats, computed in float32. Equals log(K + 1) when all similarities are equal.

    Raises:
        ValueError: if shapes disagree or the temperature is not positive.

    Source: Eq. (1) and (2) of the paper; He et al., MoCo (CVPR 2020), Eq. (1).
    """
    if queries.shape != keys.shape or queries.ndim != 2 or negatives.ndim != 2:
        raise ValueError(
            f"queries and keys must both be (N, D) and negatives (K, D), got {tuple(queries.shape)}, "
            f"{tuple(keys.shape)} and {tuple(negatives.shape)}"
        )
    if queries.shape[1] != negatives.shape[1]:
        raise ValueError(f"negatives must have {queries.shape[1]} columns as the queries do, got {negatives.shape[1]}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    queries, keys, negatives = queries.float(), keys.detach().float(), negatives.detach().float()
    with torch.autocast(queries.device.type, enabled=False):  # it would take the product in bfloat16 all the same
        positive = (queries * keys).sum(dim=1, keepdim=True)  # (N, 1)
        negative = queries @ negatives.T  # (N, K)
        # DEVIATION: Eq. 1-2 sum the negatives alone in the denominator; MoCo, and the release, have the positive too.
        logits = torch.cat([positive, negative], dim=1) / temperature  # (N, 1 + K)
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))
