"""The stages of the pipeline: what is done with the mean, the statistics, the scale and
the affine part. A stage has settings, and no tensors: it declares those it wants, and
the layer registers them flat, under the names that checkpoints have.
"""

from .affine import (
    Centering,
    ChannelAffine,
    DepthwiseAffine,
    NormalizedScaling,
    RawScaling,
)
from .equalizing import L2Equalizing
from .grouped import GroupStatistics, PieceAffine
from .memorized import MemorizedStatistics
from .memory import MemoryStatistics
from .power import PowerStatistics
from .renorm import RenormStatistics
from .shrunk import ShrunkStatistics
from .stage import Entry, Stage
from .statistics import BatchStatistics, GatedStatistics, Statistics

__all__ = [
    'BatchStatistics',
    'Centering',
    'ChannelAffine',
    'DepthwiseAffine',
    'Entry',
    'GatedStatistics',
    'GroupStatistics',
    'L2Equalizing',
    'MemorizedStatistics',
    'MemoryStatistics',
    'NormalizedScaling',
    'PieceAffine',
    'PowerStatistics',
    'RawScaling',
    'RenormStatistics',
    'ShrunkStatistics',
    'Stage',
    'Statistics',
]
