"""L_txt: the cross-entropy of a rationale's words."""

from torch import Tensor
from torch.nn import functional as F


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each next word: (B, T, V) scores and (B, T) token ids to (B, T)."""
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
