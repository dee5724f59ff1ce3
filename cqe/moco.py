"""Momentum contrast: a query encoder that learns, a key encoder that follows, a queue of negatives.

Source: Sec. 3.1 and Eq. 1-2 of the paper; He et al., MoCo (CVPR 2020).
"""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.contrastive import info_nce


class MomentumContrast(nn.Module):
    """MoCo around any encoder that returns (representation, features).

    Args:
        encoder: the query encoder, the one that is kept; its representation is (N, D).
        representation_size: D.
        queue_length: K, the number of negatives; a multiple of the global batch.
        momentum: m of the key encoder's update, key = m key + (1 - m) query, 0..1.
        temperature: of the softmax, > 0.
        gather: brings the keys of all ranks together in rank order, so that every rank keeps the same queue.

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
        gather: Callable[[Tensor], Tensor] = lambda keys: keys,
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"moco.momentum must be within 0..1, got {momentum}")
        self.query_encoder = encoder
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.momentum = momentum
        self.temperature = temperature
        self.gather = gather
        self.register_buffer("queue", F.normalize(torch.randn(queue_length, representation_size), dim=1))  # (K, D)
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.long))

    def forward(self, query_patches: Tensor, key_patches: Tensor) -> dict[str, Tensor]:
        """One step's loss; moves the key encoder first and puts the keys into the queue last.

        Args:
            query_patches: (N, C, H, W) in [0, 1].
            key_patches: the same shape; patch i is of the image of query i.

        Returns:
            "total": the InfoNCE loss. "positive_similarity": mean cosine of query and key. "contrast_accuracy": share
            of queries closer to their key than to every negative of the queue. Only "total" carries a gradient.
        """
        queries = F.normalize(self.query_encoder(query_patches)[0].float(), dim=1)  # (N, D)
        with torch.no_grad():
            self._follow()
            keys = F.normalize(self.key_encoder(key_patches)[0].float(), dim=1)  # (N, D)
        negatives = self.queue.clone()  # the queue changes below, before backward reads it
        loss = info_nce(queries, keys, negatives, temperature=self.temperature)
        with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
            positive = (queries * keys).sum(dim=1)  # (N,)
            hardest = (queries @ negatives.T).amax(dim=1)  # (N,)
            self._enqueue(self.gather(keys))
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
    def _enqueue(self, keys: Tensor) -> None:
        if len(self.queue) % len(keys):
            raise ValueError(
                f"moco.queue_length ({len(self.queue)}) must be a multiple of the global batch ({len(keys)})"
            )
        places = self.queue_position + torch.arange(len(keys), device=keys.device)  # never wraps: K is a multiple
        self.queue.index_copy_(0, places, keys.to(self.queue.dtype))
        self.queue_position.add_(len(keys)).remainder_(len(self.queue))
