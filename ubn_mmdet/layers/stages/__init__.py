"""The stages of the pipeline: what is done with the mean, the statistics, the scale and
the affine part. A stage has settings, and no tensors: it declares those it wants, and
the layer registers them flat, under the names that checkpoints have.
"""

from .affine import ChannelAffine, DepthwiseAffine
from .centering import Centering
from .gated import GatedStatistics
from .grouped import GroupStatistics, PieceAffine
from .memory import MemoryStatistics
from .power import PowerStatistics
from .renorm import RenormStatistics
from .scaling import NormalizedScaling, RawScaling
from .stage import Entry, Stage
from .statistics import BatchStatistics, Statistics

__all__ = [
    'BatchStatistics',
    'Centering',
    'ChannelAffine',
    'DepthwiseAffine',
    'Entry',
    'GatedStatistics',
    'GroupStatistics',
    'MemoryStatistics',
    'NormalizedScaling',
    'PieceAffine',
    'PowerStatistics',
    'RawScaling',
    'RenormStatistics',
    'Stage',
    'Statistics',
]
