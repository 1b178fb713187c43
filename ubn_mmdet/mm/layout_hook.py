"""Keeps a run from starting with the weights of another norm."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .members import unwrapped


class CheckpointLayoutError(RuntimeError):
    """A checkpoint is of other norm layers than the model's."""


@HOOKS.register_module()
class CheckpointLayoutHook(Hook):
    """Stops a run whose pre-trained weights are of other norm layers than the model's.

    Every layer of this package takes BatchNorm's weights, and BatchNorm takes those of its
    own name from any checkpoint: neither fails when it is given the other's. Where a
    comparison needs weights that were trained with the same norm, this hook compares the
    keys of each norm layer with those in the file, for every module whose ``init_cfg`` is
    ``Pretrained``. It cannot tell apart norms with the same keys, such as BatchNorm with
    another start.

    Raises:
        CheckpointLayoutError: Before the first step, unless the run is resumed.
    """

    def before_train(self, runner: Any) -> None:
        """Compare."""
        if runner.iter:
            return
        for name, module, init_cfg in pretrained_modules(unwrapped(runner)):
            check_layout(name, module, init_cfg)


class Difference(NamedTuple):
    """What a file has less and more of a norm layer than the layer itself."""

    layer: str
    lacks: list[str]
    adds: list[str]

    def __str__(self) -> str:
        """Such as ``'bn1, where it lacks condensation'``."""
        parts = [
            f'{verb} {", ".join(keys)}'
            for verb, keys in (('lacks', self.lacks), ('adds', self.adds))
            if keys
        ]
        return f'{self.layer}, where it {" and ".join(parts)}'


def norm_differences(
    module: nn.Module, state: Mapping[str, Tensor]
) -> list[Difference]:
    """The norm layers of ``module`` whose keys in ``state`` are not their own.

    ``num_batches_tracked``, which old files lack, does not count.
    """
    found = []
    for name, layer in module.named_modules():
        if not isinstance(layer, _BatchNorm):
            continue
        prefix = f'{name}.' if name else ''
        own = set(layer.state_dict())
        theirs = {k.removeprefix(prefix) for k in state if k.startswith(prefix)}
        lacks, adds = own - theirs - _UNCOUNTED, theirs - own - _UNCOUNTED
        if lacks or adds:
            found.append(Difference(name, sorted(lacks), sorted(adds)))
    return found


def check_layout(name: str, module: nn.Module, init_cfg: Mapping[str, Any]) -> None:
    """Compare the norm layers of ``module`` with the file that ``init_cfg`` names.

    Args:
        name: Of the module in the model.
        module: What is loaded into.
        init_cfg: Of type ``Pretrained``.

    Raises:
        CheckpointLayoutError: If they differ.
    """
    differences = norm_differences(module, pretrained_state(init_cfg))
    if not differences:
        return
    place = f'model.{name}' if name else 'model'
    raise CheckpointLayoutError(
        f'{init_cfg["checkpoint"]} has not been trained with the norm of this config: it '
        f'has other tensors for {len(differences)} norm layer(s) of {place}, as for '
        f'{differences[0]}. The weights must come from a pre-training with the same '
        f'norm_cfg; {place}.init_cfg.checkpoint names them'
    )


def pretrained_modules(
    model: nn.Module,
) -> Iterator[tuple[str, nn.Module, Mapping[str, Any]]]:
    """The modules that load weights: name, module and ``init_cfg`` of each."""
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None)
        for each in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
            if each and each.get('type') == 'Pretrained':
                yield name, module, each


def pretrained_state(init_cfg: Mapping[str, Any]) -> dict[str, Tensor]:
    """What an ``init_cfg`` of type ``Pretrained`` loads, by the module's own names."""
    prefix = init_cfg.get('prefix') or ''
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    path = init_cfg['checkpoint']
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    state = checkpoint.get('state_dict', checkpoint)
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


_UNCOUNTED = {'num_batches_tracked'}
