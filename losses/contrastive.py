"""Stage 1's loss: InfoNCE over a queue, with one positive (the paper's) or several."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    queries: Tensor, keys: Tensor, negatives: Tensor, *, temperature: float, is_negative: Tensor | None = None
) -> Tensor:
    """Contrastive loss of each query against its key and a queue of negatives.

    Args:
        queries: (N, D), rows of unit length.
        keys: (N, D), rows of unit length; row i is the positive of query i. No gradient flows here.
        negatives: (K, D), rows of unit length. No gradient flows here.
        temperature: softmax temperature, > 0.
        is_negative: (N, K) bool, says which negatives count for which query; None counts all. A query without negatives
            has a loss of zero.

    Returns:
        Scalar mean over N, in nats, computed in float32. Equals log(K + 1) when all similarities are equal and all
        negatives count.

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
    if is_negative is not None and is_negative.shape != (len(queries), len(negatives)):
        raise ValueError(
            f"is_negative must be ({len(queries)}, {len(negatives)}), a row per query and a column per negative, "
            f"got {tuple(is_negative.shape)}"
        )
    queries, keys, negatives = queries.float(), keys.detach().float(), negatives.detach().float()
    with torch.autocast(queries.device.type, enabled=False):  # autocast would compute the product in bfloat16
        positive = (queries * keys).sum(dim=1, keepdim=True)  # (N, 1)
        negative = queries @ negatives.T  # (N, K)
        if is_negative is not None:
            negative = negative.masked_fill(~is_negative, -torch.inf)
        # DEVIATION: the denominator of Eq. 1-2 has the negatives alone. MoCo and the release have the positive too.
        logits = torch.cat([positive, negative], dim=1) / temperature  # (N, 1 + K)
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def multi_positive_info_nce(queries: Tensor, keys: Tensor, is_positive: Tensor, *, temperature: float) -> Tensor:
    """Contrastive loss where a query may have any number of positives among the keys.

    Args:
        queries: (N, D), rows of unit length.
        keys: (K, D), rows of unit length. No gradient flows here.
        is_positive: (N, K) bool, at least one true in each row; all other keys are the query's negatives.
        temperature: softmax temperature, > 0.

    Returns:
        Scalar mean over N of the mean over a query's positives, in nats, computed in float32. Equals log(K) when all
        similarities are equal, and `info_nce` where each query has one positive.

    Raises:
        ValueError: if shapes disagree or the temperature is not positive.

    Source: Khosla et al., Supervised Contrastive Learning (NeurIPS 2020), Eq. (2).
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries must be (N, D) and keys (K, D), got {tuple(queries.shape)} and {tuple(keys.shape)}")
    if is_positive.shape != (len(queries), len(keys)):
        raise ValueError(
            f"is_positive must be ({len(queries)}, {len(keys)}), a row per query and a column per key, "
            f"got {tuple(is_positive.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    queries, keys = queries.float(), keys.detach().float()
    with torch.autocast(queries.device.type, enabled=False):
        log_shares = F.log_softmax(queries @ keys.T / temperature, dim=1)  # (N, K)
        return -((log_shares * is_positive).sum(dim=1) / is_positive.sum(dim=1)).mean()
