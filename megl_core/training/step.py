"""What is trained: the model and, where it has any, the learnt parameters of its objective."""

from torch import Tensor, nn

from megl_core.models.grounding import leak_at
from megl_core.models.megl import MEGL
from megl_core.objectives.objective import Objective, Targets


class TrainingStep(nn.Module):
    """Images and targets in, losses out.

    One module, so that DistributedDataParallel, optimizer and checkpoint cover all that is learnt.
    """

    def __init__(self, model: MEGL, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, images: Tensor, targets: Targets, progress: float) -> dict[str, Tensor]:
        """The objective's terms for (B, 3, S, S) uint8 images.

        Args:
            images: of this process.
            targets: of the same samples.
            progress: in [0, 1], how much of the training is done; sets the leak and the weights.
        """
        output = self.model(
            images,
            targets.labels,
            targets.tokens[:, :-1] if self.model.can_write else None,
            leak_at(self.model.config.grounding, progress),
            input_gradients=self.objective.needs_pixels,
        )
        terms: dict[str, Tensor] = self.objective(output, targets, progress)
        return terms
