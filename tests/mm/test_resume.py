"""A run that is killed and resumed is the run that was never killed."""

import json

import pytest
import torch
from helpers.commands import ROOT, run

from ubn_mmdet.data.shapes import make_shapes

# RetinaNet draws nothing at random once images are not flipped: the same data in the same
# order give the same losses.
CONFIG = ROOT / 'configs/demo/retinanet_r18-scratch_fpn_ubn_6e_shapes.py'
OPTIONS = [
    'train_dataloader.dataset.pipeline.3.prob=0.0',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'default_hooks.logger.interval=1',
    'log_processor.window_size=1',
    'train_cfg.max_epochs=3',
    'train_cfg.val_interval=3',
    'randomness.deterministic=True',
]
# Ends the process in the second epoch, once the step is in the log.
KILL = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class KillHook(Hook):
    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == 8:
            os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED = f"""
_base_ = '{CONFIG}'
custom_imports = dict(imports=['ubn_mmdet', 'kill'])
custom_hooks = [dict(type='KillHook')]
"""


def losses(work_dir):
    """Loss by step, of all parts of a run; a step done twice must say the same."""
    found = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if 'loss' in record:
                assert (
                    found.setdefault(record['step'], record['loss']) == record['loss']
                )
    return found


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(tmp_path):
    make_shapes(tmp_path / 'data/shapes', num_train=12, num_val=2, image_size=64)
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    tool = ROOT / 'tools/train.py'
    options = ['--cfg-options', *OPTIONS, '--work-dir']
    run(tool, CONFIG, *options, whole, cwd=tmp_path)
    assert len(losses(whole)) == 18

    (tmp_path / 'kill.py').write_text(KILL)
    (tmp_path / 'killed.py').write_text(KILLED)
    run(tool, 'killed.py', *options, killed, cwd=tmp_path, ok=False, path=str(tmp_path))
    assert max(losses(killed)) == 8 and (killed / 'epoch_1.pth').exists()

    run(tool, CONFIG, *options, killed, '--resume', cwd=tmp_path)
    assert losses(killed) == losses(whole)
    ours, theirs = (
        torch.load(folder / 'epoch_3.pth', weights_only=False)['state_dict']
        for folder in (killed, whole)
    )
    assert any('condensation' in key for key in theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
