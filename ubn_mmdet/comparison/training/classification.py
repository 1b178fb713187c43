"""What is particular to comparisons of classifiers: pre-training, through MMPreTrain."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...data.image_folder import ImageFolder, list_file
from ...mm.config_nodes import nodes_of
from ...mm.datasets import SPLIT_OF_LOADER, use_image_folder
from ..results import metric_name
from .logs import read_scalars

LEFTOVERS: tuple[str, ...] = ()
PACKAGES = ('mmpretrain',)
_SIZED = ('RandomResizedCrop', 'Resize')


def use_folder(cfg: Config, folder: ImageFolder, size: int | tuple[int, int]) -> None:
    """Train and evaluate on ``folder``, with square images, in place."""
    if not isinstance(size, int):
        raise ValueError(f'image_size must be one number, got {size!r}')
    use_image_folder(cfg, folder)
    for loader in SPLIT_OF_LOADER:
        sized = nodes_of(cfg[f'{loader}_dataloader'], *_SIZED)
        if not sized:
            raise ValueError(f'its {loader} pipeline has no {" or ".join(_SIZED)}')
        for node in sized:
            node.scale = (size, size)


def listing(folder: ImageFolder, split: str) -> Path:
    """The file that says what a split is."""
    return folder.root / list_file(split)


def images(folder: ImageFolder, split: str) -> Iterator[Path]:
    """The files of a split, in the order of its list."""
    for line in listing(folder, split).read_text().splitlines():
        yield folder.root / split / line.rpartition(' ')[0]


def prepare(cfg: Config, run_dir: Path) -> list[Hook]:
    """Nothing is to be kept, and no hook is needed."""
    return []


def outcome(runner: Runner, run_dir: Path, folder: ImageFolder) -> dict:
    """Accuracy in percent after the last epoch."""
    _, evaluations = read_scalars(run_dir)
    last = evaluations[max(evaluations)]
    return {
        metric_name(key): value
        for key, value in last.items()
        if key.startswith('accuracy/')
    }
