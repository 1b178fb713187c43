"""UBN's statistics: a gate keeps a batch of too dissimilar samples out of them."""

import torch
from torch import Tensor

from ...ops import algebra
from ...ops.normalizer import Averages
from ..checks import check_choice, check_number
from .stage import Entry, Layer
from .statistics import (
    Batch,
    BatchStatistics,
    Summary,
    is_finite,
    move,
    move_mean_and_var,
    to_store,
)

CONDENSATION_MOMENTUM = 0.1


class GatedStatistics(BatchStatistics):
    """The batch's statistics while its samples are alike, else the running ones.

    ``condensation``, the moving average of the batches' mean pairwise cosine, opens the
    gate while it is above a threshold. With the gate closed, a batch is normalised with
    the running statistics, held constant, and leaves them alone (UBN, arXiv 2311.15993).

    Args:
        threshold: In [0, 1); None for no gate.
        feature: What samples are compared by: ``'flat'``, whole maps, or ``'pooled'``,
            their channel means.
        opens: Which batches the gate is open for: ``'similar'`` ones, or, the other way
            round, ``'dissimilar'`` ones.
    """

    def __init__(
        self,
        threshold: float | None = 0.15,
        feature: str = 'flat',
        opens: str = 'similar',
    ) -> None:
        if threshold is not None:
            check_number(
                'condensation_threshold',
                threshold,
                lambda v: 0 <= v < 1,
                'None or within [0, 1)',
            )
        check_choice('condensation_feature', feature, algebra.SUMMARIES)
        check_choice('condensation_opens', opens, ('similar', 'dissimilar'))
        self.threshold = threshold
        self.feature = feature
        self.opens = opens

    def entries(self) -> tuple[Entry, ...]:
        """``condensation``, ``()``."""
        if self.threshold is None:
            return ()
        return (Entry('condensation', neutral=1.0, per_channel=False, learnt=False),)

    def wants_gram(self, layer: Layer) -> bool:
        """Whether whole maps are compared."""
        return self._is_on(layer) and self.feature == 'flat'

    def summary(
        self,
        layer: Layer,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        gram: Tensor | None = None,
    ) -> Summary | None:
        """What the condensation follows from."""
        if not self._is_on(layer):
            return super().summary(layer, x, mean, var, gram)
        return algebra.SUMMARIES[self.feature](x, mean, var, gram)

    @torch.no_grad()
    def advance(self, layer: Layer, batch: Batch, moves: bool) -> Tensor | None:
        """Move condensation, gate and running statistics; whether the gate is open."""
        if not self._is_on(layer):
            return super().advance(layer, batch, moves)
        if moves:
            mean, var = to_store(layer, batch)
            assert batch.summary is not None  # the gate has asked for one
            c = algebra.CONDENSATIONS[self.feature](*batch.summary)
            is_valid = is_finite(batch, mean, var, c)  # one question for all averages
            if batch.exists is not None:
                is_valid = is_valid & batch.exists
            move([layer.condensation], [c], CONDENSATION_MOMENTUM, is_valid)
        # A tensor: to read it back would make the host wait in every layer.
        if self.opens == 'similar':
            is_open = layer.condensation > self.threshold
        else:
            is_open = layer.condensation <= self.threshold
        if batch.exists is not None:
            is_open = is_open & batch.exists
        if moves:
            move_mean_and_var(layer, mean, var, is_valid & is_open)
        return is_open

    def averages(self, layer: Layer, moves: bool) -> Averages | None:
        """What moves; None where samples are compared by anything but whole maps."""
        averages = super().averages(layer, moves)
        if averages is None or self.threshold is None or not self._is_on(layer):
            return averages
        if self.feature != 'flat':
            return None
        return averages._replace(
            condensation=layer.condensation,
            condensation_momentum=CONDENSATION_MOMENTUM,
            threshold=self.threshold,
            opens_above=self.opens == 'similar',
        )

    def _is_on(self, layer: Layer) -> bool:
        return layer.condensation is not None and self.threshold is not None
