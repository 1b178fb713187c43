"""BatchNorm with a small start ("Revisiting Batch Norm Initialization", ECCV 2022)."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from .pipeline import PipelineNorm, Stages
from .stages import BatchStatistics, ChannelAffine


class InitBN(PipelineNorm, _BatchNorm):
    """BatchNorm whose weight starts small (ECCV 2022, arXiv 2110.13989).

    There its weight also learns at a hundredth of the learning rate, and norm parameters
    and biases have no weight decay: that is the optimizer's, see
    ``InitBNOptimWrapperConstructor`` in ``ubn_mmdet/mm/optim.py``.

    Args:
        num_features: Channels ``C`` of the input ``(N, C, H, W)``.
        initial_weight: What ``weight`` starts from, also where a toolbox's generic
            initialiser writes 1.
        **common: ``eps``, ``momentum``, ``affine``, ``track_running_stats``, ``sync``,
            ``sync_group_size``, ``device`` and ``dtype``, as in :class:`PipelineNorm`.

    Parameters and buffers are BatchNorm's, and so are its checkpoints.

    Input, output and errors are those of :class:`PipelineNorm`.
    """

    def __init__(
        self, num_features: int, initial_weight: float = 0.1, **common: Any
    ) -> None:
        stages: Stages[BatchStatistics] = Stages(affine=ChannelAffine(initial_weight))
        super().__init__(num_features, stages, **common)

    def extra_repr(self) -> str:
        """BatchNorm's, and what the weight starts from."""
        initial_weight = self.stages.affine.initial_weight
        return f'{super().extra_repr()}, initial_weight={initial_weight}'
