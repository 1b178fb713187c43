"""One run of a comparison, in a process of its own: ``python -m ... SPEC``.

The specification is what ``ubn_mmdet.comparison.driver`` writes; the result goes to
``result.json`` in the run's folder. The exit status is 0 for a run that diverged, too.
"""

import json
import os
import pickle
import resource
import statistics
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import cv2
import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from ...checkpoints.files import write_checkpoint
from ...files import write_whole
from ...machine import describe_machine
from ...mm.condensation_hook import FILE as CONDENSATION
from ...mm.condensation_hook import CondensationHook
from ...mm.tools import join_ranks_on_cpu
from ..results import DIVERGED, FINISHED, metric_name
from ..spec import Comparison, Norm, Run
from .configs import config_hash, data_hash, resolve
from .hooks import CatchUpHook, DivergedError, ReseedHook, WatchHook
from .initial_values import write_start
from .logs import EVALUATED, read_scalars
from .task import Folder, read_folder, task_of

MAX_POINTS = 100
RESULT = 'result.json'
_CHECKPOINT = 'final.pth'


def main(spec_file: str) -> None:
    """Train, or go on training, and leave ``result.json``."""
    spec = json.loads(Path(spec_file).read_text())
    run_dir = Path(spec['run_dir'])
    # A cluster may start a job again that had just ended.
    if (run_dir / RESULT).exists():
        return
    os.chdir(spec['directory'])
    torch.set_num_threads(spec['threads'])
    cv2.setNumThreads(spec['threads'])
    register_all_modules()

    comparison = Comparison.read(spec['comparison'])
    run = Run(Norm.read(spec['norm']), spec['seed'])
    folder = read_folder(spec['folder'])
    cfg = resolve(comparison, run, folder)
    found = config_hash(cfg, folder, data_hash(folder), comparison.processes)
    if found != spec['config_hash']:
        raise RuntimeError(
            f'the config has the hash {found}, planned was {spec["config_hash"]}: '
            'the data or the toolbox have changed since'
        )
    result = train(cfg, run.seed, run_dir, folder, comparison.processes)
    if is_main_process():
        write_whole(run_dir / RESULT, json.dumps(result).encode())
        _tidy(run_dir, result['status'], task_of(folder).LEFTOVERS)


def train(
    cfg: Config, seed: int, run_dir: Path, folder: Folder, processes: int = 1
) -> dict:
    """Train to the end or to divergence; what a result says of it.

    Args:
        cfg: From :func:`~.configs.resolve`; completed in place.
        seed: Of the run.
        run_dir: Where everything goes; a checkpoint there is resumed from.
        folder: The data.
        processes: How many train together, this one included.
    """
    task = task_of(folder)
    hooks = task.prepare(cfg, run_dir)
    prepare(cfg, seed, run_dir, processes)
    if processes > 1:
        join_ranks_on_cpu()
    runner = Runner.from_cfg(cfg)
    progress = run_dir / 'progress.json'
    watch = WatchHook(progress, cfg.default_hooks.logger.interval)
    for hook in hooks:
        runner.register_hook(hook, priority='HIGHEST')
    runner.register_hook(CondensationHook())
    # After the toolbox's own hooks, which note the loss.
    for hook in (ReseedHook(seed), watch, CatchUpHook()):
        runner.register_hook(hook, priority='LOWEST')
    result = {'status': FINISHED, 'error': None}
    try:
        runner.train()
    except DivergedError as error:
        result = {'status': DIVERGED, 'error': str(error)}
    except Exception as error:
        if _is_finite(runner.model):
            raise
        text = f'the weights are not finite: {type(error).__name__}: {error}'
        result = {'status': DIVERGED, 'error': text}
        if processes > 1:
            # The others may wait for this process: its exit status ends them.
            result |= _about(runner, run_dir, task.PACKAGES)
            write_whole(run_dir / RESULT, json.dumps(result).encode())
            raise
    if not is_main_process():
        return result
    if result['status'] == FINISHED:
        result |= _keep(run_dir) | task.outcome(runner, run_dir, folder)
    return result | _about(runner, run_dir, task.PACKAGES)


def _about(runner: Runner, run_dir: Path, packages: Iterable[str]) -> dict:
    """What a result says of how a run went, finished or not."""
    training, evaluations = read_scalars(run_dir)
    return {
        'curves': _curves(training, evaluations),
        'seconds_per_step': _median(record['time'] for record in training.values()),
        'peak_memory_mb': _peak_memory(),
        'parameters': sum(p.numel() for p in runner.model.parameters()),
        # Runs of different devices never share a table.
        'device': describe_machine(torch.device(get_device()))['device'],
        'versions': {
            name: import_module(name).__version__
            for name in ('torch', 'mmengine', 'mmcv', *packages)
        },
    }


def prepare(cfg: Config, seed: int, run_dir: Path, processes: int) -> None:
    """Complete the config: where files go, what it starts from, how it is logged."""
    cfg.work_dir = str(run_dir)
    cfg.launcher = 'pytorch' if processes > 1 else 'none'
    cfg.default_hooks.checkpoint = {
        'type': 'CheckpointHook',
        'interval': 1,
        # The hook deletes before it writes.
        'max_keep_ckpts': 2,
    }
    # Where PyTorch has nothing but deterministic operations for a detector.
    cfg.randomness.deterministic = get_device() == 'cpu'
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    latest = latest_checkpoint(run_dir)
    cfg.resume = latest is not None
    if latest is None:
        start = run_dir / f'start_{os.environ.get("RANK", 0)}.pth'
        write_start(start, cfg, seed)
        latest = start
    cfg.load_from = str(latest)


def latest_checkpoint(run_dir: Path) -> Path | None:
    """The last epoch's checkpoint that can be read.

    One that was cut short is passed over. What the toolbox keeps in ``last_checkpoint`` is
    an absolute path, which does not survive that the folder is moved.
    """
    paths = {int(path.stem.split('_')[1]): path for path in run_dir.glob('epoch_*.pth')}
    for epoch in sorted(paths, reverse=True):
        try:
            torch.load(paths[epoch], map_location='cpu', weights_only=False)
        except (EOFError, OSError, RuntimeError, ValueError, pickle.UnpicklingError):
            continue
        return paths[epoch]
    return None


def _keep(run_dir: Path) -> dict:
    """Keep the weights of a run that has come to its end, less the optimizer's state."""
    latest = latest_checkpoint(run_dir)
    assert latest is not None
    checkpoint = torch.load(latest, map_location='cpu', weights_only=False)
    weights = {key: checkpoint[key] for key in ('meta', 'state_dict')}
    (run_dir / _CHECKPOINT).unlink(missing_ok=True)
    write_checkpoint(run_dir / _CHECKPOINT, weights)
    return {'checkpoint': _CHECKPOINT, 'condensation': CONDENSATION}


def _tidy(run_dir: Path, status: str, leftovers: Iterable[str]) -> None:
    patterns = ['start_*.pth', *leftovers]
    if status == FINISHED:
        patterns += ['epoch_*.pth', 'last_checkpoint']
    for pattern in patterns:
        for path in run_dir.glob(pattern):
            path.unlink()


def _curves(training: dict, evaluations: dict) -> dict[str, list]:
    """Loss over steps, AP or accuracy over epochs."""
    steps = sorted(training)
    stride = max(1, -(-len(steps) // MAX_POINTS))
    shown = steps[::-1][::stride][::-1]  # the last one always
    curves = {
        'iteration': shown,
        'loss': [training[step]['loss'] for step in shown],
        'epoch': sorted(evaluations),
    }
    for key in EVALUATED:
        values = [evaluations[epoch].get(key) for epoch in curves['epoch']]
        if any(value is not None for value in values):
            curves[metric_name(key)] = values
    return curves


def _median(values: Iterable[float]) -> float | None:
    values = list(values)
    return round(statistics.median(values), 4) if values else None


def _peak_memory() -> int:
    """In MB: of the device, or of the process where that is the CPU."""
    if get_device() == 'cuda':
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def _is_finite(model: torch.nn.Module) -> bool:
    return all(p.isfinite().all() for p in model.parameters())


if __name__ == '__main__':
    main(sys.argv[1])
