"""The same encoder, trained with labels. It shows how close contrast without labels comes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QualityClassifier(nn.Module):
    """An encoder and a linear layer that names the quality. The layer is dropped after training.

    Args:
        encoder: returns (representation, features); its representation is (N, D).
        representation_size: D.
        qualities: the qualities that occur.
    """

    def __init__(self, encoder: nn.Module, *, representation_size: int, qualities: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("qualities", torch.tensor(sorted(set(qualities))))  # (classes,), rising
        self.head = nn.Linear(representation_size, len(self.qualities))

    def forward(self, query_patches: Tensor, key_patches: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """The loss of one step, on the query patches only: momentum contrast has gradients for that many too.

        Args:
            query_patches: (N, C, H, W) in [0, 1].
            key_patches: not used.
            quality: (N,) integers, each one of `qualities`.

        Returns:
            "total": cross-entropy in nats. "label_accuracy": share of patches whose quality is named correctly.
        """
        logits = self.head(self.encoder(query_patches)[0].float())  # (N, classes)
        labels = torch.searchsorted(self.qualities, quality)
        return {
            "total": F.cross_entropy(logits, labels),
            "label_accuracy": (logits.argmax(dim=1) == labels).float().mean(),
        }
