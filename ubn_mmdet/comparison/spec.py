"""What a comparison of norms is to run: settings, and the list of its runs.

A comparison is a small Python file that assigns the fields of :class:`Comparison`.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .results import MAIN_METRICS

_TUPLE = '__tuple__'  # the key of a tuple in json


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

        The dict may have a ``backbone`` besides: the checkpoint of a classifier with this
        norm, whose backbone the detector starts from. ``{seed}`` in its path is the
        run's seed.
        """
        entries = {'name': value} if isinstance(value, str) else dict(value)
        entries.setdefault('preset', str(entries.get('name')).lower())
        options = _tuples_again(entries.get('options', {}))
        if 'backbone' in entries:
            start = {'_delete_': True, 'type': 'Pretrained', 'prefix': 'backbone.'}
            start['checkpoint'] = entries.pop('backbone')
            options = {'model.backbone.init_cfg': start, **options}
        norm = _make(cls, 'a norm', {**entries, 'options': options})
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
class Group:
    """Norms that run with the same seeds."""

    norms: tuple[Norm, ...]
    seeds: tuple[int, ...]


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
        groups: Which norms run with which seeds.
        image_size: Images are resized to fit into a square of this many pixels, or into
            (longer side, shorter side).
        epochs: The schedule of the detector's config is stretched to these.
        batch_size: Images of a step of one process.
        primary: The differences that the comparison is to decide about. All others are
            reported without a verdict.
        processes: Processes that train together, each with a batch of its own.
        workers: Processes that load data for each of these; 0 loads in the process itself.
            Augmentation depends on their number.
        options: What to override in the config, ``{'dotted.key': value}``.
        classes: Keep the most frequent of the training images only; None for all.
        train_images: Train on this many images, drawn once; None for all.
    """

    name: str
    data: str
    detector: str
    groups: tuple[Group, ...]
    image_size: int | tuple[int, int]
    epochs: int
    batch_size: int
    primary: tuple[Contrast, ...] = ()
    processes: int = 1
    workers: int = 0
    options: dict = field(default_factory=dict)
    classes: int | None = None
    train_images: int | None = None

    @classmethod
    def read(cls, value: Mapping) -> 'Comparison':
        """From a dict of the fields, as :meth:`to_dict` gives it.

        Raises:
            SpecError: For unknown, missing or impossible fields.
        """
        entries = dict(value)
        entries['options'] = _tuples_again(entries.get('options', {}))
        entries['primary'] = tuple(
            _make(Contrast, 'a primary contrast', each)
            for each in entries.get('primary', ())
        )
        entries['groups'] = tuple(_read_group(g) for g in entries.get('groups', ()))
        if isinstance(size := entries.get('image_size'), list):
            entries['image_size'] = tuple(size)
        comparison = _make(cls, 'a comparison', entries)
        comparison._check_numbers()
        comparison._check_runs()
        return comparison

    def _check_numbers(self) -> None:
        size = self.image_size
        if isinstance(size, tuple) and len(size) != 2:
            raise SpecError(f'image_size must be one number or two, got {list(size)}')
        for side in size if isinstance(size, tuple) else [size]:
            _check_count('image_size', side)
        for name in ('epochs', 'batch_size', 'processes'):
            _check_count(name, getattr(self, name))
        _check_count('workers', self.workers, least=0)
        for name in ('classes', 'train_images'):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))

    def _check_runs(self) -> None:
        if not self.groups:
            raise SpecError('a comparison needs at least one group of norms and seeds')
        norms: dict[str, Norm] = {}
        seen = set()
        for run in self.runs():
            if norms.setdefault(run.norm.name, run.norm) != run.norm:
                raise SpecError(f'the norm {run.norm.name} has two meanings')
            if str(run) in seen:
                raise SpecError(f'{run} is listed twice')
            seen.add(str(run))
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
        if len(set(self.primary)) < len(self.primary):
            raise SpecError('a primary contrast is listed twice')

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

    def to_dict(self) -> dict:
        """For :meth:`read`; also what json can hold."""
        value = asdict(self)
        norms = (norm for group in value['groups'] for norm in group['norms'])
        for holder in (value, *norms):
            holder['options'] = _mark_tuples(holder['options'])
        return value

    def runs(
        self, only: Sequence[str] = (), seeds: Sequence[int] = ()
    ) -> Iterator[Run]:
        """The runs, seed by seed within a group, so that all norms get on alike.

        Args:
            only: Names of norms; all if empty.
            seeds: All if empty.
        """
        for group in self.groups:
            for seed in group.seeds:
                for norm in group.norms:
                    if (not only or norm.name in only) and (not seeds or seed in seeds):
                        yield Run(norm, seed)

    def norm_names(self) -> list[str]:
        """The names of all norms, in the order of the groups."""
        return list(dict.fromkeys(run.norm.name for run in self.runs()))

    def detector_name(self) -> str:
        """The detector config's stem without norm, schedule and data.

        ``mask-rcnn_r18-scratch_fpn_bn_6e_shapes`` is ``mask-rcnn_r18-scratch_fpn``.
        """
        stem = re.sub(r'_\d+[ex]_\w+$', '', Path(self.detector).stem)
        return re.sub(r'_(u|sync)?bn(?=-|_|$)', '', stem)


def _read_group(value: Mapping) -> Group:
    group = _make(Group, 'a group', value)
    if not group.norms or not group.seeds:
        raise SpecError('a group needs at least one norm and one seed')
    for seed in group.seeds:
        _check_count('a seed', seed, least=0)
    return Group(tuple(map(Norm.read, group.norms)), tuple(group.seeds))


def _make(cls: Any, what: str, value: Mapping) -> Any:
    """A dataclass from a dict; fields that are unknown or missing are named."""
    known = {each.name: each for each in fields(cls)}
    for key in value:
        if key not in known:
            raise SpecError(f'{what} has no {key!r}; there are {", ".join(known)}')
    for name, each in known.items():
        needed = each.default is MISSING and each.default_factory is MISSING
        if needed and name not in value:
            raise SpecError(f'{what} needs {name!r}')
    return cls(**value)


def _check_count(name: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpecError(f'{name} must be an integer of at least {least}, got {value!r}')


def _mark_tuples(value: object) -> object:
    """What json can hold, with tuples as such: parts of the toolbox take no list."""
    if isinstance(value, Mapping):
        return {key: _mark_tuples(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_mark_tuples(item) for item in value]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    return value


def _tuples_again(value: Any) -> Any:
    """What :func:`_mark_tuples` was given."""
    if isinstance(value, Mapping):
        if set(value) == {_TUPLE}:
            return tuple(_tuples_again(item) for item in value[_TUPLE])
        return {key: _tuples_again(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_tuples_again(item) for item in value]
    return value


def fingerprint(value: object) -> str:
    """A short hash of what json can write; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
