"""Momentum contrast: a query encoder that learns, a key encoder that follows, a queue of negatives.

Source: Sec. 3.1 and Eq. 1-2 of the paper; He et al., MoCo (CVPR 2020).
"""

import copy
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.distributed import Dealt
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
        deal: deals the key patches of all ranks out among them, so that BatchNorm sees a key and its query in different
            company and its statistics do not give the pair away (Sec. 3.3 of MoCo). None: each rank keeps its own.

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
        deal: Callable[[Tensor], Dealt] | None = None,
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
        self.deal = deal
        self._step: _Keys | None = None
        self.register_buffer("queue", F.normalize(torch.randn(queue_length, representation_size), dim=1))  # (K, D)
        self.register_buffer("queue_quality", torch.full((queue_length,), _NO_QUALITY))  # (K,)
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def begin_step(self, key_patches: Tensor, quality: Tensor, num_parts: int) -> None:
        """Begin a step that comes in several parts: `forward` is then called with each part of the batch, in order.

        The key encoder moves once, every part is contrasted with the same queue and the keys of the whole batch, and
        the keys enter the queue with the last part. In both encoders BatchNorm sees each part for itself.

        Args:
            key_patches, quality: of the whole batch, as in `forward`.
            num_parts: how many equal parts the batch has.
        """
        self._follow()
        dealt = self.deal(key_patches) if self.deal else None
        patches = dealt.rows if dealt else key_patches
        parts = [self.key_encoder(part)[0].float() for part in patches.chunk(num_parts)]
        keys = F.normalize(torch.cat(parts), dim=1)  # (N, D)
        all_keys = self.gather(keys)
        if dealt:
            keys, all_keys = all_keys[dealt.own], all_keys[dealt.order]
        self._step = _Keys(keys, all_keys, self.gather(quality))

    def forward(self, query_patches: Tensor, key_patches: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """The loss of one step, or of a part of the step that `begin_step` began.

        The key encoder moves first; at the end the keys enter the queue.

        Args:
            query_patches: (N, C, H, W) in [0, 1].
            key_patches: the same shape; patch i has the image and the quality of query i.
            quality: (N,) integers, equal where the qualities are. They are only compared with each other (and not even
                that where equal qualities are negatives). Which quality it is, or which is higher, is never used.

        Returns:
            "total": the contrastive loss. "positive_similarity": mean cosine of query and key. "contrast_accuracy":
            share of queries closer to their key than to every negative of the queue. Only "total" carries a gradient.
        """
        if self._step is None:
            self.begin_step(key_patches, quality, 1)
        queries = F.normalize(self.query_encoder(query_patches)[0].float(), dim=1)  # (N, D)
        keys, all_keys, all_qualities = self._step.next(len(queries)), self._step.of_all, self._step.qualities_of_all
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
            if self._step.is_over:
                self._enqueue(all_keys, all_qualities)
                self._step = None
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


class _Keys:
    """The keys of a step, (N, D), those of all ranks and their qualities, in rank order; and which are still unused."""

    def __init__(self, own: Tensor, of_all: Tensor, qualities_of_all: Tensor) -> None:
        self.of_all, self.qualities_of_all = of_all, qualities_of_all
        self._unused = own

    def next(self, count: int) -> Tensor:
        """The keys of the next part, (count, D)."""
        keys, self._unused = self._unused[:count], self._unused[count:]
        return keys

    @property
    def is_over(self) -> bool:
        return not len(self._unused)
