"""A trained detector with precise running statistics in place of its own."""

import os
from collections.abc import Mapping
from itertools import islice

from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner

from ..checkpoints.files import check_new, write_checkpoint
from ..layers import precise_statistics
from ..layers.checks import check_count
from .config_nodes import all_nodes


def evaluate_precise(
    config: str | os.PathLike,
    checkpoint: str | os.PathLike,
    work_dir: str | os.PathLike,
    batches: int = 40,
    batch_size: int = 8,
    out: str | os.PathLike | None = None,
    options: Mapping[str, object] | None = None,
) -> dict[str, tuple[float, float]]:
    """Evaluate a detector as it is, and with precise running statistics.

    Args:
        config: Of the detector, with its data.
        checkpoint: Its weights.
        work_dir: Where the toolbox logs.
        batches: Batches of training images, augmented as in training, that the precise
            statistics are of (:func:`~ubn_mmdet.precise_statistics`).
        batch_size: Images of each.
        out: A new file for the weights with these statistics; None for none.
        options: Settings of the config to override.

    Returns:
        ``{metric: (as it is, precise)}`` for the metrics of the config's evaluator.

    Raises:
        FileExistsError: If ``out`` is there.
        TypeError, ValueError: If a number is not a positive integer.
        ValueError: If there are fewer training images, or no statistics that move in
            training.
    """
    check_count('batches', batches)
    check_count('batch_size', batch_size)
    if out is not None:
        check_new(out)
    register_all_modules()
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(dict(options or {}))
    cfg.work_dir = str(work_dir)
    cfg.load_from = None
    cfg.resume = False
    cfg.custom_hooks = []  # they belong to training: an EMA would put back its own
    cfg.randomness = {'seed': 0}
    cfg.train_dataloader.batch_size = batch_size
    for evaluator in all_nodes(cfg.val_evaluator):
        evaluator.pop('outfile_prefix', None)  # predictions of training stay
    runner = Runner.from_cfg(cfg)
    model = runner.model
    loaded = runner.load_checkpoint(str(checkpoint), map_location='cpu', strict=True)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    there, wanted = len(loader.dataset), batches * batch_size
    if there < wanted:
        raise ValueError(
            f'{batches} batches of {batch_size} are {wanted} images, and the training '
            f'data has {there}'
        )
    before = runner.val()
    precise_statistics(
        model,
        islice(loader, batches),  # a smaller one would be the last of all
        lambda data: model(**model.data_preprocessor(data, True), mode='loss'),
    )
    after = runner.val()
    if out is not None:
        weights = {'meta': loaded.get('meta', {}), 'state_dict': model.state_dict()}
        write_checkpoint(out, weights)
    return {name: (before[name], after[name]) for name in before}
