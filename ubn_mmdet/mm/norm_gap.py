"""AP of one trained detector with other statistics in its norm layers, without training."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn

from ..checkpoints.files import check_new, write_checkpoint
from ..files import write_whole
from ..layers import convert_batchnorm, precise_statistics
from ..layers.checks import check_choice, check_count
from ..layers.precise import RUNNING, moving_norms
from ..markdown import markdown_table
from ..records import RecordError, check_record, read_json
from .config_nodes import all_nodes, read_config, type_name

STATISTICS = 'running', 'precise', 'batch'
PADDINGS = 'counted', 'left-out'
ALL = 'all'
COMPONENTS = 'data_preprocessor', 'backbone', 'neck', 'heads'
SWITCHABLE = 'DetDataPreprocessor', 'PaddingAware'  # same settings, same weights
# UBN that computes BatchNorm and can leave padding out.
BATCHNORM: dict[str, Any] = {
    'centering': False,
    'scaling': None,
    'kernel_size': 1,
    'condensation_threshold': None,
}

Averages = dict[str, list[Tensor]]  # running mean and variance, by the layer's name
Metrics = dict[str, float]


class Row(NamedTuple):
    """What norm layers normalise with in one evaluation.

    Attributes:
        padding: One of :data:`PADDINGS`: whether padded pixels are in statistics and
            features.
        statistics: One of :data:`STATISTICS`.
        component: Whose layers have these statistics; the others have running ones.
    """

    padding: str
    statistics: str
    component: str


def norm_gap(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    batches: int = 40,
    batch_size: int = 8,
    statistics: Sequence[str] = STATISTICS,
    paddings: Sequence[str] = PADDINGS,
    options: Mapping[str, object] | None = None,
    save_precise: str | os.PathLike | None = None,
) -> Iterator[tuple[Row, Metrics]]:
    """Evaluate a detector with each of its statistics.

    Args:
        config: Of the detector, with its data.
        checkpoint: Its weights.
        out: A json file that gets each result as it comes. Results that it has already,
            of the same settings, are not computed again.
        batches: Batches of training images, augmented as in training, that the precise
            statistics are of (:func:`~ubn_mmdet.precise_statistics`).
        batch_size: Images of each, and of each batch of validation images.
        statistics: Which of :data:`STATISTICS`.
        paddings: Which of :data:`PADDINGS`.
        options: Settings of the config to override.
        save_precise: A new file for the weights with precise statistics, of the first of
            ``paddings``; None for none.

    Yields:
        Each of :func:`rows`, and the metrics of the config's evaluator.

    Raises:
        FileExistsError: If ``save_precise`` is there, or ``out`` with other settings.
        TypeError, ValueError: If a setting is not one of those described.
        ValueError: For a checkpoint of another detector, or of one that diverged; if
            there are fewer training images, no statistics that move in training, or a
            data preprocessor that cannot leave padding out.
    """
    check_count('batches', batches)
    check_count('batch_size', batch_size)
    for kind in statistics:
        check_choice('statistics', kind, STATISTICS)
    for padding in paddings:
        check_choice('padding', padding, PADDINGS)
    if save_precise is not None:
        check_new(save_precise)
    cfg = _read(config, batch_size, options)
    record = {
        'checkpoint': hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest(),
        'config': cfg.to_dict(),
        'batches': batches,
        'batch_size': batch_size,
    }
    known = _read_results(Path(out), record)
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if 'left-out' in paddings:
        kind = type_name(preprocessor)
        if kind not in SWITCHABLE:
            raise ValueError(
                f'only {" and ".join(SWITCHABLE)} can leave padding out, and the data '
                f'preprocessor is {kind}: choose padding counted alone'
            )
        preprocessor['type'] = 'PaddingAware'
    with TemporaryDirectory() as logs:
        cfg.work_dir = logs
        # Visualizers are shared by name: that of the config may be a training's.
        cfg.visualizer = {'type': 'Visualizer', 'name': logs}
        detector = _Detector(cfg, str(checkpoint), batches)
        if 'precise' in statistics or save_precise is not None:
            detector.check_images()
        if save_precise is not None:
            detector.save_precise(save_precise, paddings[0])
        for row in rows(detector.components, statistics, paddings):
            if row not in known:
                known[row] = detector.evaluate(row)
                results = [{**r._asdict(), 'metrics': m} for r, m in known.items()]
                content = {'settings': record, 'results': results}
                text = json.dumps(content, default=str, indent=1)
                write_whole(out, text.encode() + b'\n')
            yield row, known[row]


def _read(
    config: str | os.PathLike, batch_size: int, options: Mapping[str, object] | None
) -> Config:
    """The config of a detector that is to be evaluated, and nothing else."""
    cfg = read_config(config, options)
    cfg.load_from = None
    cfg.resume = False
    cfg.launcher = 'none'
    cfg.custom_hooks = []  # they belong to training: an EMA would put back its own
    cfg.default_hooks = {**cfg.get('default_hooks', {}), 'checkpoint': None}
    cfg.randomness = {'seed': 0}
    cfg.train_dataloader.batch_size = batch_size
    cfg.val_dataloader.batch_size = batch_size
    for evaluator in all_nodes(cfg.val_evaluator):
        evaluator.pop('outfile_prefix', None)  # predictions of training stay
    cfg.pop('work_dir', None)
    return cfg


def _read_results(out: Path, record: dict) -> dict[Row, Metrics]:
    if not out.exists():
        return {}
    found = read_json(out)
    if not isinstance(found, dict) or 'settings' not in found:
        raise RecordError(f'{out} holds something else; name another file')
    check_record(out, found['settings'], record, 'results')
    return {
        Row(*(result[field] for field in Row._fields)): result['metrics']
        for result in found['results']
    }


def rows(
    components: Sequence[str],
    statistics: Sequence[str] = STATISTICS,
    paddings: Sequence[str] = PADDINGS,
) -> list[Row]:
    """The evaluations: each of the statistics for all layers, and by component.

    Running statistics are evaluated once, as the other components have them anyway. Where
    there is one component, it is all layers. A data preprocessor, ``InputBN``, never has
    the statistics of a batch in evaluation.
    """
    parts = [ALL, *components] if len(components) > 1 else [ALL]
    parts_of = {
        'running': [ALL],
        'precise': parts,
        'batch': [part for part in parts if part != 'data_preprocessor'],
    }
    return [
        Row(padding, kind, component)
        for padding in paddings
        for kind in statistics
        for component in parts_of[kind]
    ]


def component_of(name: str) -> str:
    """The component that a layer of that name belongs to."""
    first = name.partition('.')[0]
    return first if first in COMPONENTS else 'heads'


def gap_table(found: Mapping[Row, Metrics]) -> str:
    """The mean APs in Markdown, and how far each is from that of running statistics.

    COCO's evaluator has no metrics where a detector finds nothing.
    """
    names = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
    shown = [name for name in names if name.endswith('mAP')] or names or ['metrics']
    paddings = list(dict.fromkeys(row.padding for row in found))
    kinds = dict.fromkeys((row.statistics, row.component) for row in found)

    def cell(padding: str, kind: tuple[str, str], name: str) -> str:
        metrics = found.get(Row(padding, *kind))
        if metrics is None:
            return ''
        if name not in metrics:
            return 'nothing found'
        text = f'{metrics[name]:.3f}'
        running = found.get(Row(padding, 'running', ALL), {})
        if name not in running or kind[0] == 'running':
            return text
        return f'{text} ({metrics[name] - running[name]:+.3f})'

    columns = [(padding, name) for name in shown for padding in paddings]
    header = ['statistics', 'of', *(f'{n}, padding {p}' for p, n in columns)]
    lines = [[*kind, *(cell(p, kind, n) for p, n in columns)] for kind in kinds]
    return markdown_table(header, lines, words=2)


class _Detector:
    """A trained detector that is evaluated again and again.

    Its BatchNorm layers become UBN with every stage off, which computes the same and can
    leave padding out.
    """

    def __init__(self, cfg: Config, path: str, batches: int) -> None:
        self._cfg = cfg
        self._batches = batches
        self._runner = Runner.from_cfg(cfg)
        try:
            self._loaded = self._runner.load_checkpoint(path, 'cpu', strict=True)
        except RuntimeError as error:
            raise ValueError(f'{path} is not of this detector: {error}') from error
        for name, value in self._runner.model.state_dict().items():
            if not value.isfinite().all():
                raise ValueError(f'{path} has values in {name} that are not finite')
        self._model: Any = convert_batchnorm(self._runner.model, **BATCHNORM)
        self._norms = moving_norms(self._model.train())
        found = {component_of(name) for name in self._norms}
        self.components = sorted(found, key=COMPONENTS.index)
        self._running = self._averages()
        self._precise: dict[str, Averages] = {}
        self._batch_statistics = BatchStatisticsHook()
        self._runner.register_hook(self._batch_statistics)

    def check_images(self) -> None:
        """Raise ValueError if there are too few for precise statistics."""
        there = len(self._train_loader().dataset)
        size = self._cfg.train_dataloader.batch_size
        if there < self._batches * size:
            raise ValueError(
                f'{self._batches} batches of {size} are {self._batches * size} images, '
                f'and the training data has {there}'
            )

    def evaluate(self, row: Row) -> Metrics:
        """The metrics with the statistics of a row."""
        if row.component == ALL:
            chosen = list(self._norms)
        else:
            chosen = [n for n in self._norms if component_of(n) == row.component]
        self._put(self._running)
        self._batch_statistics.layers = []
        if row.statistics == 'precise':
            precise = self._precise_averages(row.padding)
            self._put({name: precise[name] for name in chosen})
        if row.statistics == 'batch':
            self._batch_statistics.layers = [self._norms[name] for name in chosen]
        self._choose(row.padding)
        return {name: float(value) for name, value in self._runner.val().items()}

    def save_precise(self, path: str | os.PathLike, padding: str) -> None:
        """Write the weights with precise statistics."""
        self._put(self._precise_averages(padding))
        state, meta = self._model.state_dict(), self._loaded.get('meta', {})
        write_checkpoint(path, {'meta': meta, 'state_dict': state})

    def _precise_averages(self, padding: str) -> Averages:
        """Those of batches whose layers all have statistics of the batch."""
        if padding not in self._precise:
            model = self._model
            self._choose(padding)
            set_random_seed(0)
            precise_statistics(
                model,
                islice(self._train_loader(), self._batches),  # the last may be smaller
                lambda data: model(**model.data_preprocessor(data, True), mode='loss'),
            )
            self._precise[padding] = self._averages()
            self._put(self._running)
        return self._precise[padding]

    def _averages(self) -> Averages:
        """Copies of what the layers have now."""
        return {
            name: [norm.get_buffer(average).clone() for average in RUNNING]
            for name, norm in self._norms.items()
        }

    def _put(self, averages: Averages) -> None:
        for name, values in averages.items():
            for average, value in zip(RUNNING, values, strict=True):
                self._norms[name].get_buffer(average).copy_(value)

    def _choose(self, padding: str) -> None:
        """Tell the data preprocessor, a ``PaddingAware`` if it is to leave padding out."""
        self._model.data_preprocessor.announces_padding = padding == 'left-out'

    def _train_loader(self) -> Any:
        return Runner.build_dataloader(self._cfg.train_dataloader, seed=0)


class BatchStatisticsHook(Hook):
    """Lets ``layers`` normalise as in training, and leaves their state as it is."""

    def __init__(self) -> None:
        self.layers: list[nn.Module] = []

    def before_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Keep the layers' state, and let them train."""
        for layer in self.layers:
            layer.train()
        buffers = [buffer for layer in self.layers for buffer in layer.buffers()]
        self._state = [(buffer, buffer.clone()) for buffer in buffers]

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Put the state back."""
        for buffer, value in self._state:
            buffer.copy_(value)
        for layer in self.layers:
            layer.eval()
