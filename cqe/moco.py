"""Momentum contrast: a query encoder that learns, a key encoder that follows, a queue of negatives.

Source: Sec. 3.1 and Eq. 1-2 of the paper; He et al., MoCo (CVPR 2020).
"""

import copy
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.contrastive import info_nce, multi_positive_info_nce

EqualQualities = Literal["negatives", "skipped", "positives"]
_NO_QUALITY = -1  # label of the random rows that the queue starts with; no query has it


class MomentumContrast(nn.Module):
    """MoCo around any encoder that returns (representation, features).

    Args:
        encoder: the query encoder, which is kept after training; its representation is (N, D).
        representation_size: D.
        queue_length: K, the number of negatives; a multiple of the global batch.
        momentum: m of the key encoder's update, key = m key + (1 - m) query, 0..1.
        temperature: of the softmax, > 0.
        equal_qualities: how keys of other images count that have the query's quality: as "negatives" (the paper), not
            at all ("skipped"), or as "positives", together with the query's own key.
        gather: collects the keys of all ranks in rank order, so every rank has the same queue.

    Raises:
        ValueError: if a value is out of its range.

    Source: He et al., Momentum Contrast (CVPR 2020), Algorithm 1.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        representation_size: int,
        queue_length: int,
        momentum: float,
        temperature: float,
        equal_qualities: EqualQualities = "negatives",
        gather: Callable[[Tensor], Tensor] = lambda keys: keys,
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"moco.momentum must be within 0..1, got {momentum}")
        self.query_encoder = encoder
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum = momentum
        self.temperature = temperature
        self.equal_qualities = equal_qualities
        self.gather = gather
        self.register_buffer("queue", F.normalize(torch.randn(queue_length, representation_size), dim=1))  # (K, D)
        self.register_buffer("queue_quality", torch.full((queue_length,), _NO_QUALITY))  # (K,)
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.long))

    def forward(self, query_patches: Tensor, key_patches: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """The loss of one step. The key encoder moves first; at the end the keys enter the queue.

        Args:
            query_patches: (N, C, H, W) in [0, 1].
            key_patches: the same shape; patch i has the image and the quality of query i.
            quality: (N,) integers, equal where the qualities are. They are only compared with each other (and not even
                that where equal qualities are negatives). Which quality it is, or which is higher, is never used.

        Returns:
            "total": the contrastive loss. "positive_similarity": mean cosine of query and key. "contrast_accuracy":
            share of queries closer to their key than to every negative of the queue. Only "total" carries a gradient.
        """
        queries = F.normalize(self.query_encoder(query_patches)[0].float(), dim=1)  # (N, D)
        with torch.no_grad():
            self._follow()
            keys = F.normalize(self.key_encoder(key_patches)[0].float(), dim=1)  # (N, D)
            all_keys, all_qualities = self.gather(keys), self.gather(quality)  # of all ranks
        negatives = self.queue.clone()  # the queue changes below, and backward reads these rows later
        is_equal = quality[:, None] == self.queue_quality[None, :]  # (N, K)
        is_negative = torch.ones_like(is_equal) if self.equal_qualities == "negatives" else ~is_equal
        if self.equal_qualities == "positives":
            is_positive = torch.cat([quality[:, None] == all_qualities[None, :], is_equal], dim=1)
            candidates = torch.cat([all_keys, negatives])
            loss = multi_positive_info_nce(queries, candidates, is_positive, temperature=self.temperature)
        else:
            loss = info_nce(queries, keys, negatives, temperature=self.temperature, is_negative=is_negative)
        with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
            positive = (queries * keys).sum(dim=1)  # (N,)
            hardest = (queries @ negatives.T).masked_fill(~is_negative, -torch.inf).amax(dim=1)  # (N,)
            self._enqueue(all_keys, all_qualities)
        return {
            "total": loss,
            "positive_similarity": positive.mean(),
            "contrast_accuracy": (positive > hardest).float().mean(),
        }

    @torch.no_grad()
    def _follow(self) -> None:
        for key, query in zip(self.key_encoder.parameters(), self.query_encoder.parameters(), strict=True):
            key.lerp_(query, 1 - self.momentum)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, quality: Tensor) -> None:
        if len(self.queue) % len(keys):
            raise ValueError(
                f"moco.queue_length ({len(self.queue)}) must be a multiple of the global batch ({len(keys)})"
            )
        places = self.queue_position + torch.arange(len(keys), device=keys.device)  # never wraps: K is a multiple
        self.queue.index_copy_(0, places, keys.to(self.queue.dtype))
        self.queue_quality.index_copy_(0, places, quality)
        self.queue_position.add_(len(keys)).remainder_(len(self.queue))
