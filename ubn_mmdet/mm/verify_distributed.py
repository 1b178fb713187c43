"""Compares a detector on several ranks with one process that has all their images.

The ranks are processes on this machine's CPU that talk over gloo. Everything is in
float64, so that what ought to be equal differs by rounding alone, 1e-12 or so, and a norm
that merges nothing, or merges wrongly, by far more.

The losses of detectors draw samples at random, and divide by numbers of their own rank.
The loss here is a sum over all elements of the outputs of backbone, neck and dense heads,
with random weights that are fixed for each image. So gradients of the ranks, added up, are
those of one process. Norm layers move their state for :data:`STEPS` steps.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from mmcv.cnn import is_norm
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch import Tensor, nn

from ..layers import UBN, hide_padding
from ..layers.checks import check_count
from ..ops.padding import padded_images
from .rank_processes import RankError, RankProcesses

STEPS = 2
LIMIT = 1e-6  # of a relative difference
STRIDE = 32  # image sizes are multiples of it, so that maps of all levels exist
NOISE = 0.1  # on the parameters of norm layers, which may start silent

Size = tuple[int, int]


class Case(NamedTuple):
    """What the ranks get.

    Attributes:
        name: Of the case.
        images: The number of images of each rank.
        is_padded: Whether images differ in size, and are padded to that of the largest.
    """

    name: str
    images: tuple[int, ...]
    is_padded: bool = False

    def sizes(self, image_size: int) -> list[Size]:
        """Height and width of each image, those of the first rank first."""
        full, half = image_size, image_size // 2 // STRIDE * STRIDE or STRIDE
        sizes = [(full, full), (half, full), (full, half)]
        if not self.is_padded:
            sizes = sizes[:1]
        return [sizes[i % len(sizes)] for i in range(sum(self.images))]

    def part(self, rank: int) -> slice:
        """Which of all images a rank has."""
        stops = [0, *accumulate(self.images)]
        return slice(stops[rank], stops[rank + 1])


def cases(ranks: int) -> list[Case]:
    """All cases; that with an empty rank last, because it may fail and end the rest."""
    twos = (2,) * ranks
    return [
        Case('even', twos),
        Case('uneven', tuple(range(1, ranks + 1))),
        Case('padded', twos, is_padded=True),
        Case('empty', (0, *twos[1:])),
    ]


class Trace(NamedTuple):
    """What the last step was, by name; outputs in the order of calls."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]


class Difference(NamedTuple):
    """What is not equal.

    Attributes:
        kind: ``'output'``, ``'gradient'`` or ``'buffer'``.
        name: Of the layer, parameter or buffer.
        layer: The class of the layer.
        relative: The largest difference, divided by the largest value.
    """

    kind: str
    name: str
    layer: str
    relative: float

    def __str__(self) -> str:
        """Such as ``'output of backbone.bn1 (BatchNorm2d), by 0.31'``."""
        return f'{self.kind} of {self.name} ({self.layer}), by {self.relative:.2g}'


class Verdict(NamedTuple):
    """The outcome of a case.

    Attributes:
        case: The case.
        compared: How many outputs, gradients and buffers were compared.
        largest: The largest relative difference.
        differences: All above :data:`LIMIT`: outputs in the order of forward, gradients
            in that of backward, then buffers.
        norms: How many norm layers in training were compared.
        unreached: Norm layers in training that the forward did not reach.
        exempt: Buffers that were compared between ranks alone.
        failure: Why there is nothing to compare; None if there is.
    """

    case: Case
    compared: dict[str, int]
    largest: float
    differences: list[Difference]
    norms: int
    unreached: list[str]
    exempt: list[str]
    failure: str | None = None

    @property
    def is_equal(self) -> bool:
        """Whether the ranks did what one process does."""
        return not self.differences and self.failure is None

    def first(self) -> list[Difference]:
        """The first difference of each kind."""
        found: dict[str, Difference] = {}
        for difference in self.differences:
            found.setdefault(difference.kind, difference)
        return list(found.values())

    def record(self) -> dict:
        """For json."""
        return {
            **self._asdict(),
            'case': self.case._asdict(),
            'differences': [difference._asdict() for difference in self.differences],
            'is_equal': self.is_equal,
        }


def verify(
    config: str | os.PathLike,
    ranks: int = 3,
    image_size: int = 64,
    options: Mapping[str, object] | None = None,
) -> Iterator[Verdict]:
    """Compare a detector on ``ranks`` processes with itself on one, case by case.

    Args:
        config: Of the detector. Its weights are random; its data are not needed.
        ranks: How many processes, at least 2.
        image_size: Height and width of the images, in pixels: a multiple of 32.
        options: Settings of the config to override.

    Yields:
        The verdict on each of :func:`cases`. After a failure none follows: the ranks
        would wait for each other.

    Raises:
        TypeError, ValueError: If a number is not one of those.
        ValueError: For a detector that does not train on a CPU, or that has no norm layer
            in training.
        RankError: If a rank cannot build the detector.
    """
    check_count('ranks', ranks)
    if ranks < 2:
        raise ValueError(f'ranks must be at least 2, got {ranks}')
    check_count('image_size', image_size)
    if image_size % STRIDE:
        raise ValueError(f'image_size must be a multiple of {STRIDE}, got {image_size}')
    # The parent is the one process: its threads are as many as each rank has.
    torch.set_num_threads(1)
    work = str(config), dict(options or {}), image_size
    detector = build(*work[:2])
    _check_detector(detector)
    with TemporaryDirectory() as folder, RankProcesses(ranks, serve, work) as group:
        start = {k: v.clone() for k, v in detector.state_dict().items()}
        for case in cases(ranks):
            files = [str(Path(folder, f'{rank}.pth')) for rank in range(ranks)]
            group.send([(case, case.part(rank), f) for rank, f in enumerate(files)])
            detector.load_state_dict(start)
            joint = trace(detector, case.sizes(image_size), slice(None))
            try:
                group.receive()
            except RankError as error:
                yield Verdict(case, {}, 0, [], 0, [], [], str(error))
                return
            yield compare(case, detector, joint, [torch.load(f) for f in files])


def serve(
    rank: int, config: str, options: dict, image_size: int
) -> Callable[[tuple], None]:
    """What a rank does with a task: take its part of a case, and write its trace."""
    detector = build(config, options)
    start = {k: v.clone() for k, v in detector.state_dict().items()}

    def run(task: tuple[Case, slice, str]) -> None:
        case, part, file = task
        detector.load_state_dict(start)
        torch.save(tuple(trace(detector, case.sizes(image_size), part)), file)

    return run


def build(config: str, options: dict) -> nn.Module:
    """The detector in float64 and training mode, equal in every process."""
    register_all_modules()
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model).double().train()
    for module in detector.modules():
        if 'Drop' in type(module).__name__:
            module.eval()  # ranks draw other numbers than one process
        if is_norm(module):
            for parameter in module.parameters():
                parameter.data += NOISE * torch.randn_like(parameter)
    if _announces_padding(detector):
        hide_padding(detector)
    return detector


def trace(detector: nn.Module, sizes: list[Size], part: slice) -> Trace:
    """Train for some steps on a part of the images.

    Args:
        detector: As :func:`build` gives it; its state moves.
        sizes: Height and width of all images.
        part: The images that this process has.
    """
    for step in range(STEPS):
        outputs: dict[str, Tensor] = {}
        handles = _watch(detector, outputs)
        detector.zero_grad()
        images = _images(sizes, seed=step)[part]
        try:
            _loss(_results(detector, images, sizes[part]), part, len(sizes)).backward()
        finally:
            for handle in handles:
                handle.remove()
    gradients = {
        n: p.grad for n, p in detector.named_parameters() if p.grad is not None
    }
    buffers = {n: buffer.clone() for n, buffer in detector.named_buffers()}
    return Trace(outputs, gradients, buffers)


def compare(case: Case, detector: nn.Module, joint: Trace, ranks: list) -> Verdict:
    """Compare the traces of the ranks with that of one process."""
    parts = [Trace(*part) for part in ranks]
    exempt = _compared_between_ranks(detector)
    found = [
        *_outputs(joint, parts),
        *_gradients(joint, parts),
        *_buffers(joint, parts, exempt),
    ]
    layers = dict(detector.named_modules())
    differences = [
        Difference(kind, name, _layer_of(name, kind, layers), relative)
        for kind, name, relative in found
        if not relative <= LIMIT  # nan is one, too
    ]
    kinds = [kind for kind, _, _ in found]
    norms = {
        name for name, layer in layers.items() if is_norm(layer) and layer.training
    }
    return Verdict(
        case,
        {kind: kinds.count(kind) for kind in ('output', 'gradient', 'buffer')},
        max(relative for _, _, relative in found),
        differences,
        len(norms & joint.outputs.keys()),
        sorted(norms - joint.outputs.keys()),
        sorted(exempt),
    )


def _outputs(joint: Trace, parts: list[Trace]) -> Iterator[tuple[str, str, float]]:
    """Those of the ranks one after the other are those of one process."""
    for name, expected in joint.outputs.items():
        found = [part.outputs[name] for part in parts if name in part.outputs]
        if len(found) < len(parts):
            yield 'output', name, float('inf')  # a rank has not called the layer
        else:
            yield 'output', name, _relative(torch.cat(found), expected, 1e-6)


def _gradients(joint: Trace, parts: list[Trace]) -> Iterator[tuple[str, str, float]]:
    """Those of the ranks add up to those of one process.

    That of a bias before a norm is 0, and rounding all that is computed of it: the
    largest of all gradients says what is small.
    """
    floor = 1e-6 * max(grad.abs().max().item() for grad in joint.gradients.values())
    for name, expected in reversed(joint.gradients.items()):
        found = [part.gradients.get(name, torch.zeros(())) for part in parts]
        yield 'gradient', name, _relative(sum(found), expected, floor)


def _buffers(
    joint: Trace, parts: list[Trace], exempt: Iterable[str]
) -> Iterator[tuple[str, str, float]]:
    """Every rank has those of one process, or, where exempt, of the first rank."""
    for name, of_joint in joint.buffers.items():
        expected = parts[0].buffers[name] if name in exempt else of_joint
        found = [_relative(part.buffers[name], expected, 1e-6) for part in parts]
        yield 'buffer', name, max(found)


def _relative(found: Any, expected: Tensor, floor: float) -> float:
    """The largest difference by the largest expected value, or by ``floor``."""
    if found.shape != expected.shape:
        return float('inf')
    if not expected.numel():
        return 0.0
    found, expected = found.double(), expected.double()
    difference = (found - expected).abs().max()
    return (difference / expected.abs().max().clamp(min=floor)).item()


def _compared_between_ranks(detector: nn.Module) -> set[str]:
    """Buffers that one process has others of, by design.

    Whole maps are compared within a rank only, so one process has more pairs of images.
    """
    return {
        f'{name}.condensation'
        for name, layer in detector.named_modules()
        if isinstance(layer, UBN) and layer.condensation is not None
        if layer.condensation_feature == 'flat'
    }


def _layer_of(name: str, kind: str, layers: Mapping[str, nn.Module]) -> str:
    """The class of the layer whose output, or whose tensor, has that name."""
    owner = name.partition('#')[0] if kind == 'output' else name.rpartition('.')[0]
    return type(layers[owner]).__name__


def _watch(detector: nn.Module, outputs: dict[str, Tensor]) -> list:
    """Note the output of each layer that has tensors of its own, and of each norm.

    A layer that is called again is ``name#2``, and so on.
    """

    def note(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: object) -> None:
            if isinstance(output, Tensor):
                calls = sum(key.partition('#')[0] == name for key in outputs)
                key = f'{name}#{calls + 1}' if calls else name
                # A copy: an activation may work in place.
                outputs[key] = output.detach().clone()

        return hook

    return [
        module.register_forward_hook(note(name))
        for name, module in detector.named_modules()
        if is_norm(module) or any(True for _ in module.parameters(recurse=False))
    ]


def _images(sizes: list[Size], seed: int) -> Tensor:
    """``(N, 3, H, W)`` of noise, zero where padded; all images have another mean."""
    generator = torch.Generator().manual_seed(seed)
    full = [max(sides) for sides in zip(*sizes, strict=True)]
    shape = len(sizes), 3, *full
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    images += torch.randn(shape[:2], generator=generator)[..., None, None]
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return images


def _results(detector: Any, images: Tensor, sizes: list[Size]) -> list[Tensor]:
    """The outputs of backbone and neck, and of dense heads."""
    announced: Any = nullcontext()
    if _announces_padding(detector):
        announced = padded_images(sizes, images.shape[-2:])
    with announced:
        features = detector.extract_feat(images)
        heads = (getattr(detector, name, None) for name in ('rpn_head', 'bbox_head'))
        dense = [head(features) for head in heads if isinstance(head, BaseDenseHead)]
    return list(_tensors([features, dense]))


def _loss(results: list[Tensor], part: slice, total: int) -> Tensor:
    """The sum of all elements, with weights that are fixed for each image."""
    terms = []
    for seed, result in enumerate(results):
        generator = torch.Generator().manual_seed(seed)
        shape = total, *result.shape[1:]
        weights = torch.randn(shape, generator=generator, dtype=result.dtype)
        terms.append((weights[part] * result).sum())
    return torch.stack(terms).sum()


def _tensors(tree: object) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for child in tree:
            yield from _tensors(child)


def _announces_padding(detector: Any) -> bool:
    return getattr(detector.data_preprocessor, 'announces_padding', False)


def _check_detector(detector: nn.Module) -> None:
    for name, module in detector.named_modules():
        if type(module).__name__ == 'SyncBatchNorm':
            raise ValueError(
                f'{name} is a SyncBatchNorm, which does not train on several CPU '
                'processes; the norm of configs/_base_/norms/bn-merged.py computes the same'
            )
    if not any(is_norm(module) and module.training for module in detector.modules()):
        raise ValueError(
            'the detector has no norm layer in training: none, or all are in evaluation '
            '(norm_eval, frozen_stages)'
        )
