"""Runs of a comparison differ in the norm alone, resume exactly, and survive each other."""

import copy
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers.commands import ROOT
from helpers.comparisons import FIELDS, configs, few_shapes
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ubn_mmdet.comparison import results
from ubn_mmdet.comparison.predictions import NAMES, coco_metrics, read_predictions
from ubn_mmdet.comparison.spec import Comparison
from ubn_mmdet.comparison.training.run import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return few_shapes(tmp_path_factory.mktemp('data') / 'shapes')


@HOOKS.register_module()
class RecordHook(Hook):
    """Keeps what a run starts from and what it is fed."""

    runs = {}

    def __init__(self, name):
        self.start, self.batches = None, []
        self.runs[name] = self

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.start is None:
            self.start = copy.deepcopy(runner.model.state_dict())
        samples = data_batch['data_samples']
        boxes = [sample.gt_instances.bboxes.tensor for sample in samples]
        self.batches.append([*data_batch['inputs'], *boxes])


def test_runs_share_their_start_and_their_data(shapes, tmp_path):
    comparison = Comparison.read(FIELDS)
    for name, cfg in configs(comparison, shapes).items():
        cfg.custom_hooks = [{'type': 'RecordHook', 'name': name}]
        cfg.experiment_name = f'{tmp_path.name}_{name}'  # both in this process
        result = train(cfg, tmp_path / name)
        assert result['status'] == results.FINISHED
    bn, ubn = RecordHook.runs['BN'], RecordHook.runs['UBN']
    norms = {key.rpartition('.')[0] for key in ubn.start if 'condensation' in key}
    shared = [key for key in ubn.start if key.rpartition('.')[0] not in norms]
    assert len(norms) == 20 and len(shared) > 60
    assert set(shared) <= set(bn.start)
    for key in shared:
        torch.testing.assert_close(ubn.start[key], bn.start[key], rtol=0, atol=0)
    assert len(bn.batches) == len(ubn.batches) == 3
    for ours, theirs in zip(ubn.batches, bn.batches, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def command(tmp_path, shapes, fields):
    path = tmp_path / 'tiny.py'
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in fields.items()))
    return [sys.executable, ROOT / 'tools/compare_norms.py', path, '--data', shapes]


def environment():
    # Without git it is this code that runs, not that of the last commit.
    return os.environ | {'PYTHONPATH': str(ROOT), 'PATH': '', 'OMP_NUM_THREADS': '1'}


def start(line, **streams):
    return subprocess.Popen(
        list(map(str, line)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def complete(line, status=0):
    process = start(line)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == status, output[-3000:]
    return output


def test_a_comparison_that_is_interrupted_is_the_one_that_was_not(shapes, tmp_path):
    fields = FIELDS | {'epochs': 3}
    line = command(tmp_path, shapes, fields)
    whole = [*line, '--work-dir', tmp_path / 'whole', '--only', 'UBN']
    complete(whole)

    cut = [*line, '--work-dir', tmp_path / 'cut', '--only', 'UBN']
    process = start(cut)
    run_dir = tmp_path / 'cut/mask-rcnn_r18-scratch_fpn/UBN/seed3'
    patience = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < patience:
        # In the second epoch.
        if max(results.read_scalars(run_dir)[0], default=0) >= 4:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and 'the same command resumes' in output, output
    assert not results.read(tmp_path / 'cut/results.jsonl')
    assert 'Going on' in complete(cut)
    [ours] = results.read(tmp_path / 'cut/results.jsonl')
    [theirs] = results.read(tmp_path / 'whole/results.jsonl')
    assert len(theirs['curves']['loss']) == 9
    differing = {key for key in theirs if ours[key] != theirs[key]}
    assert differing <= {
        'seconds_per_step', 'peak_memory_mb', 'started', 'finished'
    }  # fmt: skip

    assert (tmp_path / 'cut' / ours['checkpoint']).parent == run_dir
    assert not list(run_dir.glob('epoch_*.pth')) and not list(run_dir.glob('start*'))
    predictions = read_predictions(tmp_path / 'cut' / ours['predictions'])
    assert predictions == read_predictions(tmp_path / 'whole' / theirs['predictions'])
    annotations = shapes / 'instances_val.json'
    again = coco_metrics(annotations, predictions, ('bbox', 'segm'))
    assert {key: ours[key] for key in again} == again
    # The toolbox's own evaluation, which rounds.
    assert ours['curves']['segm_mAP'][-1] == round(ours['segm_mAP'], 3)

    # What other tools make of a run's config and its weights.
    [config] = run_dir.glob('*.py')
    tool = [sys.executable, ROOT / 'tools/norm_gap.py', config, run_dir / 'final.pth']
    complete([*tool, '--statistics', 'running', '--padding', 'counted'])
    found = json.loads((run_dir / 'final.pth.norm_gap.json').read_text())
    [row] = found['results']
    assert row['metrics']['coco/bbox_mAP'] == ours['curves']['bbox_mAP'][-1]

    finished = complete(cut)
    assert 'started' not in finished and '1 runs in' in finished

    other = command(tmp_path, shapes, fields | {'image_size': 96})
    refused = complete([*other, *cut[5:]], status=1)
    assert 'with other settings' in refused
    assert 'Traceback' not in refused


@HOOKS.register_module()
class CutHook(Hook):
    """Ends the process, as it were, between an epoch's checkpoint and its evaluation."""

    def __init__(self, epoch):
        self._epoch = epoch

    def before_val(self, runner):
        if runner.epoch == self._epoch:
            raise KeyboardInterrupt


def test_an_evaluation_that_was_cut_off_is_made_up_for(shapes, tmp_path):
    comparison = Comparison.read(FIELDS | {'epochs': 2})

    def curves(name, part, **changes):
        cfg = configs(comparison, shapes)['UBN']
        cfg.merge_from_dict(changes)
        # All in this process, where names stand for what was built under them.
        cfg.experiment_name = cfg.visualizer.name = f'{tmp_path.name}_{name}_{part}'
        return train(cfg, tmp_path / name)['curves']

    whole = curves('whole', 0)
    assert whole['epoch'] == [1, 2]
    for epoch in 1, 2:
        cut = {'type': 'CutHook', 'epoch': epoch}
        with pytest.raises(KeyboardInterrupt):
            curves(f'cut{epoch}', 0, custom_hooks=[cut])
        assert curves(f'cut{epoch}', 1) == whole


def test_a_full_disk_and_a_moved_folder_cost_an_epoch(shapes, tmp_path, monkeypatch):
    # Evaluated after the second and the last epoch, also where the first is the last
    # that is on the disk.
    options = FIELDS['options'] | {'train_cfg.val_interval': 2}
    comparison = Comparison.read(FIELDS | {'epochs': 3, 'options': options})

    def run(path, part):
        cfg = configs(comparison, shapes)['UBN']
        cfg.experiment_name = cfg.visualizer.name = (
            f'{tmp_path.name}_{path.name}_{part}'
        )
        return train(cfg, path)['curves']

    whole = run(tmp_path / 'whole', 0)
    assert whole['epoch'] == [2, 3]
    save = Runner.save_checkpoint

    def full(runner, out_dir, filename, *args, **kwargs):
        if runner.epoch == 1:
            (tmp_path / 'cut' / filename).write_bytes(b'half a checkpoint')
            raise OSError('No space left on device')
        save(runner, out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(Runner, 'save_checkpoint', full)
    with pytest.raises(OSError, match='No space left'):
        run(tmp_path / 'cut', 0)
    monkeypatch.undo()
    # The toolbox deletes before it writes.
    assert (tmp_path / 'cut/epoch_1.pth').exists()
    (tmp_path / 'cut').rename(tmp_path / 'moved')
    assert run(tmp_path / 'moved', 1) == whole


def test_two_processes_with_workers_as_a_job(shapes, tmp_path):
    changes = {'processes': 2, 'workers': 1}
    groups = [{'norms': ['BN'], 'seeds': [0]}]
    line = command(tmp_path, shapes, FIELDS | changes | {'groups': groups})
    line += ['--work-dir', tmp_path / 'work', '--cluster', 'local']
    complete(line)
    [found] = results.read(tmp_path / 'work/results.jsonl')
    assert found['status'] == results.FINISHED and found['processes'] == 2
    # Three images for each of two ranks, two at a time.
    assert len(found['curves']['loss']) == 2


def test_runs_that_diverge_or_die_do_not_stop_the_others(shapes, tmp_path):
    wild = {'name': 'Wild', 'preset': 'bn'}
    wild['options'] = {'optim_wrapper.optimizer.lr': 1e30}
    broken = {'name': 'Broken', 'preset': 'bn'}
    broken['options'] = {'model.neck.in_channels': [1, 2, 3, 4]}
    groups = [{'norms': [wild, broken, 'BN'], 'seeds': [0]}]
    line = command(tmp_path, shapes, FIELDS | {'groups': groups})
    line += ['--work-dir', tmp_path / 'work', '--jobs', '2']
    output = complete(line, status=1)
    assert '1 of them failed' in output
    lines = {r['norm']: r for r in results.read(tmp_path / 'work/results.jsonl')}
    assert lines['Wild']['status'] == results.DIVERGED
    assert 'loss is nan' in lines['Wild']['error'] or 'inf' in lines['Wild']['error']
    assert lines['Broken']['status'] == results.FAILED
    assert 'RuntimeError' in lines['Broken']['error']
    assert lines['BN']['status'] == results.FINISHED
    for name in NAMES:
        assert f'bbox_{name}' in lines['BN'] and f'segm_{name}' in lines['BN']
