"""Compares a detector on several ranks with one process that has all their images.

The ranks are processes on this machine's CPU that talk over gloo. Everything is in
float64, so that what ought to be equal differs by rounding alone, 1e-12 or so, and a norm
that merges nothing, or merges wrongly, by far more.

The loss is a sum over all elements of the outputs of backbone, neck and dense heads, with
random weights that are fixed for each image: gradients of the ranks add up to those of one
process (docs/distributed.md). Norm layers move their state for :data:`STEPS` steps.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import accumulate, cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from mmcv.cnn import is_norm
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..checkpoints.files import write_checkpoint
from ..layers import UBN, hide_padding
from ..layers.checks import check_count
from ..layers.padding import announces_padding
from ..ops.padding import padded_images
from ..rank_processes import RankError, rank_processes
from .config_nodes import read_config

STEPS = 2
LIMIT = 1e-6  # of a relative difference
STRIDE = 32  # image sizes are multiples of it, so that maps of all levels exist
NOISE = 0.1  # on the parameters of norm layers, which may start silent

Size = tuple[int, int]
# What the last step was, by kind ('output', 'gradient' or 'buffer') and name: outputs in
# the order of forward, gradients in that of backward.
Trace = dict[tuple[str, str], Tensor]


class Case(NamedTuple):
    """What the ranks get.

    Attributes:
        name: Of the case.
        images: The number of images of each rank.
        sizes: Height and width of each image, those of the first rank first. Images that
            differ are padded to the size of the largest.
    """

    name: str
    images: tuple[int, ...]
    sizes: list[Size]

    def part(self, rank: int | None) -> slice:
        """Which of all images a rank has; None is one process, which has all."""
        if rank is None:
            return slice(None)
        stops = [0, *accumulate(self.images)]
        return slice(stops[rank], stops[rank + 1])


def verify(
    config: str | os.PathLike,
    ranks: int = 3,
    image_size: int = 64,
    options: Mapping[str, object] | None = None,
) -> Iterator[dict]:
    """Compare a detector on ``ranks`` processes with itself on one, case by case.

    Args:
        config: Of the detector. Its weights are random; its data are not needed.
        ranks: How many processes, at least 2.
        image_size: Height and width of the images, in pixels: a multiple of 32.
        options: Settings of the config to override.

    Yields:
        What :func:`compare` says of each of four cases. That with an empty rank is last,
        because a rank may fail of it.

    Raises:
        TypeError, ValueError: If a number is not one of those.
        ValueError: For a detector that has no norm layer in training.
        RankError: If a rank fails, as with nn.SyncBatchNorm, which does not train on a
            CPU; the message has the case and the traceback.
    """
    check_count('ranks', ranks, least=2)
    check_count('image_size', image_size)
    if image_size % STRIDE:
        raise ValueError(f'image_size must be a multiple of {STRIDE}, got {image_size}')
    torch.set_num_threads(1)  # as many as each rank has
    detector = build(config, options)
    if not any(is_norm(module) and module.training for module in detector.modules()):
        raise ValueError(
            'the detector has no norm layer in training: none, or all are in evaluation '
            '(norm_eval, frozen_stages)'
        )
    twos = (2,) * ranks
    full, half = image_size, image_size // 2 // STRIDE * STRIDE or STRIDE
    square = [(full, full)]
    cases = [
        Case(name, images, [*islice(cycle(sizes), sum(images))])
        for name, images, sizes in (
            ('even', twos, square),
            ('uneven', tuple(range(1, ranks + 1)), square),
            ('padded', twos, [*square, (half, full), (full, half)]),
            ('empty', (0, *twos[1:]), square),
        )
    ]
    with TemporaryDirectory() as name:
        work = Path(name), config, options, cases
        # Before the ranks run: the first of them to fail is then seen to be the first.
        write_traces(None, *work)
        try:
            with rank_processes(ranks, write_traces, *work) as processes:
                for case in cases:
                    files = [_file(work[0], case, rank) for rank in range(ranks)]
                    while not all(file.exists() for file in files):
                        processes.join(1.0)
                    joint = torch.load(_file(work[0], case, None))
                    yield compare(case, detector, joint, [*map(torch.load, files)])
        except RankError as error:
            raise RankError(f'{case.name} images: {error}') from None


def write_traces(
    rank: int | None,
    folder: Path,
    config: str | os.PathLike,
    options: Mapping[str, object] | None,
    cases: list[Case],
) -> None:
    """Write what a rank, or for None one process, does in each case, as it comes."""
    detector = build(config, options)
    start = {k: v.clone() for k, v in detector.state_dict().items()}
    found: Trace = {}
    _note_outputs(detector, found)
    for case in cases:
        detector.load_state_dict(start)
        part = case.part(rank)
        for step in range(STEPS):
            found.clear()
            detector.zero_grad()
            images = _images(case.sizes, seed=step)[part]
            results = _results(detector, images, case.sizes[part])
            _loss(results, part, len(case.sizes)).backward()
        for name, parameter in reversed(list(detector.named_parameters())):
            if parameter.grad is not None:
                found['gradient', name] = parameter.grad
        for name, buffer in detector.named_buffers():
            found['buffer', name] = buffer
        write_checkpoint(_file(folder, case, rank), found)


def _file(folder: Path, case: Case, rank: int | None) -> Path:
    return folder / f'{case.name}-{rank}.pth'


def build(config: str | os.PathLike, options: Mapping[str, object] | None) -> nn.Module:
    """The detector in float64 and training mode, equal in every process."""
    cfg = read_config(config, options)
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model).double().train()
    for module in detector.modules():
        if 'Drop' in type(module).__name__:
            module.eval()  # ranks draw other numbers than one process
        if is_norm(module):
            for parameter in module.parameters():
                parameter.data += NOISE * torch.randn_like(parameter)
    if announces_padding(detector):
        hide_padding(detector)
    return detector


def compare(case: Case, detector: nn.Module, joint: Trace, ranks: list) -> dict:
    """Compare the traces of the ranks with that of one process.

    Returns:
        What json is to keep. ``case``: what the ranks got. ``compared``: how many outputs,
        gradients and buffers. ``largest``: the largest difference, relative to the largest
        value. ``differences``: all above :data:`LIMIT`, with their ``kind``, the ``name``
        of layer, parameter or buffer, the class of the ``layer``, and how large they are,
        ``relative``; outputs come in the order of forward, gradients in that of backward,
        then buffers. ``norms``: how many norm layers in training were compared.
        ``unreached``: those that the forward did not reach. ``exempt``: buffers that were
        compared between ranks alone. ``is_equal``: whether there is no difference.
    """
    layers = dict(detector.named_modules())
    # Whole maps are compared within a rank only, so one process has more pairs of images.
    exempt = [
        f'{name}.condensation'
        for name, layer in layers.items()
        if isinstance(layer, UBN) and layer.condensation is not None
        if layer.condensation_feature == 'flat'
    ]
    # The gradient of a bias before a norm is 0, and rounding all that is computed of it:
    # the largest of all says what is small.
    gradients = [tensor for (kind, _), tensor in joint.items() if kind == 'gradient']
    floor = {'gradient': 1e-6 * max(tensor.abs().max().item() for tensor in gradients)}
    largest = 0.0
    differences: list[dict] = []
    for (kind, name), expected in joint.items():
        if name in exempt:
            expected = ranks[0][kind, name]
        found = [rank.get((kind, name)) for rank in ranks]
        relative = max(
            relative_difference(one, expected, floor.get(kind, 1e-6))
            for one in _as_of_one_process(kind, found)
        )
        largest = max(largest, relative)
        if relative > LIMIT:
            owner = (
                name.partition('#')[0] if kind == 'output' else name.rpartition('.')[0]
            )
            found_in = type(layers[owner]).__name__
            differences.append(
                {'kind': kind, 'name': name, 'layer': found_in, 'relative': relative}
            )
    training = {n for n, layer in layers.items() if is_norm(layer) and layer.training}
    reached = {name for name in training if ('output', name) in joint}
    return {
        'case': case._asdict(),
        'compared': dict(Counter(kind for kind, _ in joint)),
        'largest': largest,
        'differences': differences,
        'norms': len(reached),
        'unreached': sorted(training - reached),
        'exempt': exempt,
        'is_equal': not differences,
    }


def first_differences(verdict: dict) -> list[dict]:
    """The first of each kind."""
    first: dict[str, dict] = {}
    for difference in verdict['differences']:
        first.setdefault(difference['kind'], difference)
    return list(first.values())


def verdict_text(verdict: dict) -> str:
    """The case and what came of it, and a line for each of the first differences."""
    images = ' + '.join(map(str, verdict['case']['images']))
    compared = ', '.join(f'{n} {kind}s' for kind, n in verdict['compared'].items())
    lines = [
        f'{verdict["case"]["name"]}, {images} images: '
        f'{"equal" if verdict["is_equal"] else "DIFFERS"}; {verdict["norms"]} norm layers '
        f'in training, {compared}, largest difference {verdict["largest"]:.1g}'
    ]
    for difference in first_differences(verdict):
        line = '  first {kind} of {name} ({layer}), by {relative:.2g}'
        lines.append(line.format(**difference))
    return '\n'.join(lines)


def _as_of_one_process(kind: str, found: list[Tensor | None]) -> list[Tensor | None]:
    """What ought to be one process's: None where a rank lacks an output or a buffer.

    Outputs of the ranks one after the other, gradients added up, each rank's buffer.
    """
    there = [tensor for tensor in found if tensor is not None]
    if kind == 'gradient':
        return [torch.stack(there).sum(0)] if there else [None]
    if kind == 'output':
        return [torch.cat(there) if len(there) == len(found) else None]
    return found


def relative_difference(found: Tensor | None, expected: Tensor, floor: float) -> float:
    """The largest difference by the largest expected value or ``floor``; inf for nan."""
    if found is None or found.shape != expected.shape:
        return float('inf')
    if not expected.numel():
        return 0.0
    found, expected = found.double(), expected.double()
    difference = (found - expected).abs().max()
    relative = (difference / expected.abs().max().clamp(min=floor)).item()
    return float('inf') if math.isnan(relative) else relative


def _note_outputs(detector: nn.Module, found: Trace) -> None:
    """Note the output of each layer that has tensors of its own, and of each norm.

    A layer that is called again is ``name#2``, and so on.
    """

    def note(name: str, module: nn.Module, args: tuple, output: object) -> None:
        if isinstance(output, Tensor):
            key, calls = name, 1
            while ('output', key) in found:
                calls += 1
                key = f'{name}#{calls}'
            # A copy: an activation may work in place.
            found['output', key] = output.detach().clone()

    for name, module in detector.named_modules():
        if is_norm(module) or any(True for _ in module.parameters(recurse=False)):
            module.register_forward_hook(partial(note, name))


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
    if announces_padding(detector):
        announced = padded_images(sizes, images.shape[-2:])
    with announced:
        features = detector.extract_feat(images)
        heads: Any = (
            getattr(detector, name, None) for name in ('rpn_head', 'bbox_head')
        )
        dense = [head(features) for head in heads if _is_dense(head)]
    results = [leaf for leaf in tree_leaves([features, dense]) if leaf is not None]
    # A single one is for all images.
    if other := {len(result) for result in results} - {len(images), 1}:
        raise ValueError(
            f'{type(detector).__name__} makes maps of {other.pop()} samples from '
            f'{len(images)} images: its ranks cannot be compared image by image'
        )
    return results


def _is_dense(head: object) -> bool:
    """Whether it is a dense head that makes its outputs in ``forward``."""
    return (
        isinstance(head, BaseDenseHead)
        and type(head).forward is not BaseDenseHead.forward
    )


def _loss(results: list[Tensor], part: slice, total: int) -> Tensor:
    """The sum of all elements, with weights that are fixed for each image."""
    terms = []
    for seed, result in enumerate(results):
        generator = torch.Generator().manual_seed(seed)
        shape = total, *result.shape[1:]
        weights = torch.randn(shape, generator=generator, dtype=result.dtype)
        terms.append((weights[part] * result).sum())
    return torch.stack(terms).sum()
