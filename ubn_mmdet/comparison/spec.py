"""What a comparison of norms is to run: settings, and the list of its runs.

A comparison is a small Python file that assigns the fields of :class:`Comparison`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .results import MAIN_METRICS


class SpecError(ValueError):
    """A comparison that cannot be run; the message says what is wrong."""


@dataclass(frozen=True)
class Norm:
    """One of the norms that are compared.

    Attributes:
        name: As in the results.
        preset: The file ``configs/_base_/norms/<preset>.py``.
        options: What else this norm's runs set in the config, ``{'dotted.key': value}``.
    """

    name: str
    preset: str
    options: dict = field(default_factory=dict)

    @classmethod
    def read(cls, value: str | Mapping) -> 'Norm':
        """From a name, whose preset is the same in lower case, or a dict of the fields.

        The dict may have two short forms of options besides. ``lr`` is the optimizer's
        learning rate. ``backbone`` is the checkpoint of a classifier with this norm, whose
        backbone the detector starts from; ``{seed}`` in its path is the run's seed.
        """
        entries: dict = {'name': value} if isinstance(value, str) else dict(value)
        entries.setdefault('preset', str(entries.get('name')).lower())
        if 'backbone' in entries:
            start = {'_delete_': True, 'type': 'Pretrained', 'prefix': 'backbone.'}
            start['checkpoint'] = entries.pop('backbone')
            start = {'model.backbone.init_cfg': start}
            entries['options'] = start | entries.get('options', {})
        norm = cls(**_with_lr(entries))
        # A name is a folder's, too.
        if not isinstance(norm.name, str) or not re.fullmatch(r'\w[\w.+-]*', norm.name):
            raise SpecError(
                'the name of a norm is made of letters, digits and ._+-, and starts with '
                f'a letter or digit; got {norm.name!r}'
            )
        return norm


@dataclass(frozen=True)
class Contrast:
    """A difference that the comparison is to decide about, named before it is run.

    Attributes:
        norm: The norm that is expected to differ.
        metric: What it is expected to differ in.
        baseline: The norm that it is compared with.
    """

    norm: str
    metric: str
    baseline: str = 'BN'


@dataclass(frozen=True)
class Run:
    """One training."""

    norm: Norm
    seed: int

    def __str__(self) -> str:
        return f'{self.norm.name} seed {self.seed}'


@dataclass(frozen=True)
class Comparison:
    """Everything that the runs have in common, and what sets them apart.

    Attributes:
        name: As in the results.
        data: A COCO-format folder, or one of images to classify; relative to the current
            directory.
        detector: A config of the toolbox for detection or instance segmentation, or of
            MMPreTrain for classification, below ``configs/`` or a path. Its norm is
            replaced.
        image_size: Images are resized to fit into a square of this many pixels, or into
            (longer side, shorter side).
        epochs: The schedule of the detector's config is stretched to these.
        batch_size: Images of a step of one process.
        all_runs: Seed by seed within each of the file's ``groups``, so that all norms get
            on alike.
        primary: The differences that the comparison is to decide about. All others are
            reported without a verdict.
        processes: Processes that train together, each with a batch of its own.
        workers: Processes that load data for each of these; 0 loads in the process itself.
            Augmentation depends on their number.
        options: What to override in the config, ``{'dotted.key': value}``.

    Raises:
        SpecError: For impossible values.
    """

    name: str
    data: str
    detector: str
    image_size: int | tuple[int, int]
    epochs: int
    batch_size: int
    all_runs: tuple[Run, ...]
    primary: tuple[Contrast, ...] = ()
    processes: int = 1
    workers: int = 0
    options: dict = field(default_factory=dict)

    @classmethod
    def read(cls, value: Mapping) -> 'Comparison':
        """From the variables of a file; ``lr`` is a short form, as in :meth:`Norm.read`.

        Raises:
            SpecError: For unknown, missing or impossible ones.
        """
        try:
            entries = _with_lr(value)
            entries['all_runs'] = tuple(
                run for each in entries.pop('groups', ()) for run in group(**each)
            )
            entries['primary'] = tuple(
                Contrast(**each) for each in entries.get('primary', ())
            )
            return cls(**entries)
        except TypeError as error:  # it names what is unknown or missing
            raise SpecError(str(error)) from None

    @classmethod
    def open(cls, path: str | os.PathLike) -> 'Comparison':
        """Read a Python file, a config of the toolbox whose variables are the fields.

        ``_base_`` and ``_delete_`` work as in the toolbox's other configs. Variables that
        start with an underscore are the file's own.

        Raises:
            SpecError: If there is no such file, or as for :meth:`read`.
        """
        from mmengine.config import Config

        path = Path(path)
        if not path.is_file():
            raise SpecError(f'there is no comparison {path}')
        try:
            content = Config.fromfile(path).to_dict()
        except Exception as error:  # whatever a Python file may raise
            raise SpecError(
                f'{path} cannot be read: {type(error).__name__}: {error}'
            ) from error
        public = {key: x for key, x in content.items() if not key.startswith('_')}
        try:
            return cls.read({'name': path.stem} | public)
        except SpecError as error:
            raise SpecError(f'{path}: {error}') from None

    def __post_init__(self) -> None:
        size = self.image_size
        sizes = (size, size) if isinstance(size, int) else tuple(size)
        if len(sizes) != 2:
            raise SpecError(f'image_size must be one number or two, got {list(sizes)}')
        for side in sizes:
            _check_count('image_size', side)
        for name in 'epochs', 'batch_size', 'processes':
            _check_count(name, getattr(self, name))
        _check_count('workers', self.workers, least=0)
        self._check_runs()

    def _check_runs(self) -> None:
        if not self.all_runs:
            raise SpecError('a comparison needs at least one norm with one seed')
        norms: dict[str, Norm] = {}
        for run in self.all_runs:
            _check_count('a seed', run.seed, least=0)
            if norms.setdefault(run.norm.name, run.norm) != run.norm:
                raise SpecError(
                    f'the norm {run.norm.name} is defined twice, with different settings'
                )
            if self.all_runs.count(run) > 1:
                raise SpecError(f'{run} is listed twice')
        for contrast in self.primary:
            for name in contrast.norm, contrast.baseline:
                if name not in norms:
                    raise SpecError(
                        f'a primary contrast is about {name!r}; the norms are '
                        f'{", ".join(norms)}'
                    )
            if contrast.metric not in MAIN_METRICS:
                raise SpecError(
                    'the metric of a primary contrast is one of '
                    f'{", ".join(MAIN_METRICS)}; got {contrast.metric!r}'
                )
            if self.primary.count(contrast) > 1:
                raise SpecError('a primary contrast is listed twice')

    def runs(
        self, only: Sequence[str] = (), seeds: Sequence[int] = ()
    ) -> Iterator[Run]:
        """The runs of some norms and seeds; of all where none are named."""
        for run in self.all_runs:
            if (not only or run.norm.name in only) and (not seeds or run.seed in seeds):
                yield run

    def planned(self) -> dict[str, list[int]]:
        """The seeds of each norm, by its name, in the order of the groups."""
        found: dict[str, list[int]] = {}
        for run in self.all_runs:
            found.setdefault(run.norm.name, []).append(run.seed)
        return found

    def detector_name(self) -> str:
        """The detector config's stem without norm, schedule and data.

        ``mask-rcnn_r18-scratch_fpn_bn_6e_shapes`` is ``mask-rcnn_r18-scratch_fpn``.
        """
        stem = re.sub(r'_\d+[ex]_\w+$', '', Path(self.detector).stem)
        return re.sub(r'_(u|sync)?bn(?=-|_|$)', '', stem)


def group(norms: Iterable[str | Mapping], seeds: Iterable[int]) -> list[Run]:
    """The runs of norms with the same seeds."""
    read = [Norm.read(each) for each in norms]
    return [Run(norm, seed) for seed in seeds for norm in read]


def _with_lr(entries: Mapping) -> dict:
    """``entries`` with their ``lr``, if any, as one of the options."""
    rest = dict(entries)
    if 'lr' in rest:
        lr = rest.pop('lr')
        if isinstance(lr, bool) or not isinstance(lr, int | float) or not lr > 0:
            raise SpecError(f'lr must be a number above 0, got {lr!r}')
        options, key = rest.get('options', {}), 'optim_wrapper.optimizer.lr'
        if both := [name for name in options if f'{key}.'.startswith(f'{name}.')]:
            raise SpecError(f'lr and the option {both[0]} both set the learning rate')
        rest['options'] = {key: lr} | options
    return rest


def _check_count(name: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f'{name} must be an integer of at least {least}, got {value!r}')
