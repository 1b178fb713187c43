"""One run of a comparison, in a process of its own: ``python -m ... SPEC``.

The specification, and the config beside it, are what ``ubn_mmdet.comparison.driver``
writes. The result goes to ``result.json`` beside them. The exit status is 0 for a run that
diverged, too.
"""

import contextlib
import json
import os
import pickle
import resource
import statistics
import sys
from importlib import import_module
from pathlib import Path

import cv2
import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner, set_random_seed
from mmengine.utils import import_modules_from_strings
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ...checkpoints.files import write_checkpoint
from ...files import write_whole
from ...machine import describe_machine
from ...mm.condensation_hook import FILE as CONDENSATION
from ...mm.config_nodes import all_nodes, nodes_of, pretrained_in
from ...mm.norm_configs import with_batchnorm_alone
from ...mm.start_hooks import pretrained_modules
from ...mm.tools import join_ranks_on_cpu
from ..launchers import CONFIG, RESULT, SPECIFICATION
from ..predictions import PREDICTIONS, coco_metrics, write_predictions
from ..results import DIVERGED, EVALUATED, FINISHED, metric_name, read_scalars
from ..workspace import lock
from .configs import config_hash, data_hash
from .hooks import (
    CatchUpHook,
    DivergedError,
    FiniteLossHook,
    NothingFoundHook,
    ReseedHook,
)

MAX_POINTS = 100
PATIENCE_SECONDS = 30
_CHECKPOINT, _RAW = 'final.pth', 'raw_predictions'


def main(spec_file: str) -> None:
    """Train, or go on training, and leave ``result.json``."""
    run_dir = Path(spec_file).parent
    is_first = os.environ.get('RANK', '0') == '0'
    # Processes that a run has left behind may take a moment to end.
    with lock(run_dir, PATIENCE_SECONDS) if is_first else contextlib.nullcontext():
        _go_on(run_dir)


def _go_on(run_dir: Path) -> None:
    # A cluster may start a job again that had just ended.
    if (run_dir / RESULT).exists():
        return
    spec = json.loads((run_dir / SPECIFICATION).read_text())
    os.chdir(spec['directory'])
    torch.set_num_threads(spec['threads'])
    cv2.setNumThreads(spec['threads'])
    register_all_modules()
    cfg = pickle.loads((run_dir / CONFIG).read_bytes())
    import_modules_from_strings(**cfg.get('custom_imports', {'imports': []}))
    root, processes = Path(spec['folder']['root']), spec['processes']
    found = config_hash(cfg, root, data_hash(root), processes)
    if found != spec['config_hash']:
        raise RuntimeError(
            f'the config has the hash {found}, planned was {spec["config_hash"]}: '
            'the data, pre-trained weights or code of your own have changed since'
        )
    result = train(cfg, run_dir, processes)
    if is_main_process():
        write_whole(run_dir / RESULT, json.dumps(result).encode())
        leftovers = ['start_*.pth', f'{_RAW}.*']
        if result['status'] == FINISHED:
            leftovers += ['epoch_*.pth', 'last_checkpoint']
        for path in [path for each in leftovers for path in run_dir.glob(each)]:
            path.unlink()


def train(cfg: Config, run_dir: Path, processes: int = 1) -> dict:
    """Train to the end or to divergence; what a result says of it.

    The config is completed in place. A checkpoint in ``run_dir`` is resumed from.
    """
    prepare(cfg, run_dir, processes)
    if processes > 1:
        join_ranks_on_cpu()
    runner = Runner.from_cfg(cfg)
    if _detects(cfg):
        # Before all hooks that note the metrics.
        runner.register_hook(NothingFoundHook(), priority='HIGHEST')
    # After the toolbox's own hooks, which note the loss.
    for hook in (ReseedHook(cfg.randomness.seed), FiniteLossHook(), CatchUpHook()):
        runner.register_hook(hook, priority='LOWEST')
    result = {'status': FINISHED, 'error': None}
    try:
        runner.train()
    except DivergedError as error:
        result = {'status': DIVERGED, 'error': str(error)}
    except Exception as error:
        if all(p.isfinite().all() for p in runner.model.parameters()):
            raise
        text = f'the weights are not finite: {type(error).__name__}: {error}'
        result = {'status': DIVERGED, 'error': text}
        if processes > 1:
            # The others may wait for this process: its exit status ends them.
            result |= _about(runner, run_dir)
            with contextlib.suppress(FileNotFoundError):  # one of them was faster
                write_whole(run_dir / RESULT, json.dumps(result).encode())
            raise
    if not is_main_process():
        return result
    if result['status'] == FINISHED:
        result |= _keep(run_dir) | _outcome(cfg, run_dir)
    return result | _about(runner, run_dir)


def prepare(cfg: Config, run_dir: Path, processes: int) -> None:
    """Complete the config: where files go, what it starts from, how it is logged."""
    cfg.work_dir = str(run_dir)
    cfg.launcher = 'pytorch' if processes > 1 else 'none'
    cfg.default_hooks.checkpoint = {
        'type': 'CheckpointHook',
        'interval': 1,
        # The hook deletes before it writes.
        'max_keep_ckpts': 2,
    }
    hooks = cfg.get('custom_hooks') or []
    if not nodes_of(hooks, 'CondensationHook'):
        cfg.custom_hooks = [*hooks, {'type': 'CondensationHook'}]
    if _detects(cfg):
        for name in ('val_evaluator', 'test_evaluator'):
            cfg[name].outfile_prefix = str(run_dir / _RAW)
    # Where PyTorch has nothing but deterministic operations for a detector.
    cfg.randomness.deterministic = get_device() == 'cpu'
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    latest = latest_checkpoint(run_dir)
    cfg.resume = latest is not None
    if latest is None:
        latest = run_dir / f'start_{os.environ.get("RANK", 0)}.pth'
        latest.unlink(missing_ok=True)
        start = {'state_dict': shared_start(cfg, cfg.randomness.seed), 'meta': {}}
        write_checkpoint(latest, start)
    cfg.load_from = str(latest)


def shared_start(cfg: Config, seed: int) -> dict[str, Tensor]:
    """Initial values of all parameters and buffers outside norm layers, by name.

    They are those of the detector with BatchNorm, built from the seed: what a detector
    draws for its weights depends on what its norm layers drew before.

    Components that load pre-trained weights themselves are left out, and draw theirs like
    those that do not. What the config's ``load_from`` has takes the place of what was
    drawn, in norm layers too.
    """
    init_default_scope(cfg.default_scope)
    settings = with_batchnorm_alone(cfg.model)
    loading = [n for n in all_nodes(settings) if pretrained_in(n.get('init_cfg'))]
    loaded: list[str] = []
    if loading:
        loaded = [name for name, *_ in pretrained_modules(MODELS.build(settings))]
    for node in loading:
        node.init_cfg = None
    set_random_seed(seed)
    model = MODELS.build(settings)
    model.init_weights()
    modules = model.named_modules()
    own = [f'{n}.' for n, layer in modules if isinstance(layer, _BatchNorm)]
    own += [f'{name}.' for name in loaded]
    start = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(tuple(own))
    }
    if cfg.get('load_from'):
        weights = CheckpointLoader.load_checkpoint(cfg.load_from, map_location='cpu')
        for name, value in weights.get('state_dict', weights).items():
            # Heads of other classes do not fit; the toolbox passes over them as well.
            if name not in start or start[name].shape == value.shape:
                start[name] = value
    return start


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


def _detects(cfg: Config) -> bool:
    """Whether it is a detector that is trained, not a classifier."""
    return 'ann_file' in cfg.val_evaluator


def _keep(run_dir: Path) -> dict:
    """Keep the weights of a run that has come to its end, less the optimizer's state."""
    latest = latest_checkpoint(run_dir)
    assert latest is not None
    checkpoint = torch.load(latest, map_location='cpu', weights_only=False)
    weights = {key: checkpoint[key] for key in ('meta', 'state_dict')}
    (run_dir / _CHECKPOINT).unlink(missing_ok=True)
    write_checkpoint(run_dir / _CHECKPOINT, weights)
    return {'checkpoint': _CHECKPOINT, 'condensation': CONDENSATION}


def _outcome(cfg: Config, run_dir: Path) -> dict:
    """The metrics after the last epoch, and of a detector the file of its predictions."""
    if not _detects(cfg):
        _, evaluations = read_scalars(run_dir)
        last = evaluations[max(evaluations)]
        return {metric_name(k): last[k] for k in last if k.startswith('accuracy/')}
    raw = {kind: run_dir / f'{_RAW}.{kind}.json' for kind in ('bbox', 'segm')}
    kinds = [kind for kind, path in raw.items() if path.exists()]
    predictions = json.loads(raw[kinds[-1]].read_bytes())  # those of masks have boxes
    write_predictions(run_dir / PREDICTIONS, predictions)
    metrics = coco_metrics(cfg.val_evaluator.ann_file, predictions, kinds)
    return {**metrics, 'predictions': PREDICTIONS}


def _about(runner: Runner, run_dir: Path) -> dict:
    """What a result says of how a run went, finished or not."""
    training, evaluations = read_scalars(run_dir)
    times = [record['time'] for record in training.values()]
    # The toolbox logs a GPU's, in MB, and resets it each time.
    memory = [record['memory'] for record in training.values() if 'memory' in record]
    if not memory:  # of the process, in kB
        memory = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10]
    packages = 'torch', 'mmengine', 'mmcv', runner.cfg.default_scope
    return {
        'curves': _curves(training, evaluations),
        'seconds_per_step': round(statistics.median(times), 4) if times else None,
        'peak_memory_mb': round(max(memory)),
        'parameters': sum(p.numel() for p in runner.model.parameters()),
        # Runs of different devices never share a table.
        'device': describe_machine(torch.device(get_device()))['device'],
        'versions': {name: import_module(name).__version__ for name in packages},
    }


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


if __name__ == '__main__':
    main(sys.argv[1])
