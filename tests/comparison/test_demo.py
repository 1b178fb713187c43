"""The demo shows UBN beside BatchNorm."""

import json
import os
import runpy
import shutil
import subprocess
import sys

import pytest
from helpers.commands import ROOT, run
from mmdet.utils import register_all_modules
from PIL import Image

from ubn_mmdet.comparison import driver, results
from ubn_mmdet.comparison.spec import SpecError
from ubn_mmdet.comparison.training.configs import resolve
from ubn_mmdet.data.coco_folder import SPLITS, CocoFolder, annotation_file
from ubn_mmdet.data.shapes import make_shapes

DEMO = ROOT / 'tools/demo.py'
TOOL = runpy.run_path(str(DEMO))
plan_demo, run_demo = TOOL['plan_demo'], TOOL['run_demo']
SMALL = {
    'train_dataloader.batch_size': 2,
    'default_hooks.logger.interval': 1,
    'log_processor.window_size': 1,
}
# Without git it is this code that runs, not that of the last commit.
WITHOUT_GIT = {'PATH': ''}


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    return make_shapes(folder, num_train=6, num_val=2, image_size=64)


def test_the_image_size_follows_from_the_folder_and_is_told(shapes):
    said = []
    comparison = plan_demo(CocoFolder.open(shapes), said.append)
    assert comparison.image_size == 128 and comparison.epochs == 6
    assert [str(r) for r in comparison.runs()] == ['BN seed 0', 'UBN seed 0']
    assert comparison.data == str(shapes)
    assert said == [
        'Images are resized to fit into 128 pixels: the median long side is 64. '
        'SIZE= (--size) sets another.'
    ]
    chosen = plan_demo(CocoFolder.open(shapes), said.append, image_size=96, epochs=2)
    assert (chosen.image_size, chosen.epochs, len(said)) == (96, 2, 1)
    with pytest.raises(SpecError, match='image_size must be an integer of at least 1'):
        plan_demo(CocoFolder.open(shapes), said.append, image_size=0)


@pytest.mark.parametrize(
    ('side', 'size'),
    [(20, 128), (160, 160), (175, 160), (177, 192), (640, 320)],
)
def test_sizes_are_multiples_of_the_stride_within_limits(tmp_path, side, size):
    # A few large images do not decide.
    sides = [side] * 3 + [9000] * 2
    images = [{'width': long, 'height': 10} for long in sides]
    (tmp_path / 'instances_train.json').write_text(json.dumps({'images': images}))
    folder = CocoFolder(tmp_path, ('a',), {}, {})
    assert plan_demo(folder, lambda _: None).image_size == size


@pytest.mark.parametrize('mask', [None, []])
def test_a_folder_with_boxes_alone_gets_a_detector_of_boxes(shapes, tmp_path, mask):
    boxes = shutil.copytree(shapes, tmp_path / 'boxes')
    for split in SPLITS:
        path = boxes / annotation_file(split)
        content = json.loads(path.read_text())
        for annotation in content['annotations']:
            annotation.pop('segmentation')
            if mask is not None:
                annotation['segmentation'] = mask
        path.write_text(json.dumps(content))
    said = []
    folder = CocoFolder.open(boxes)
    comparison = plan_demo(folder, said.append)
    assert comparison.detector_name() == 'retinanet_r18-scratch_fpn'
    assert said[-1] == 'The annotations have no masks: the detector is a RetinaNet.'
    register_all_modules()
    [bn, _] = comparison.runs()
    assert resolve(comparison, bn, folder).val_evaluator.metric == 'bbox'
    chosen = plan_demo(
        folder, detector='demo/mask-rcnn_r18-scratch_fpn_bn_6e_shapes.py'
    )
    with pytest.raises(SpecError, match='it learns masks, and .* use a box detector'):
        resolve(chosen, bn, folder)


def check_report(work_dir):
    text = (work_dir / 'results.md').read_text()
    rows = [line.split(' | ')[0] for line in text.splitlines() if line[:2] == '| ']
    tables = '| box', '| mask', '| norm'
    assert rows == [row for head in tables for row in (head, '| BN', '| UBN')]
    assert '# BN and UBN on shapes' in text and '64 pixels, seed 0, epochs: 1' in text
    for name in ('curves.png', 'predictions.png'):
        assert min(Image.open(work_dir / name).size) > 300
    return text


@pytest.mark.slow
def test_the_demo_leaves_table_curves_and_pictures(shapes, tmp_path):
    options = [f'{key}={value}' for key, value in SMALL.items()]
    command = [DEMO, '--data', shapes, '--size', '64', '--epochs', '1']
    command += ['--cfg-options', *options]
    output = run(*command, cwd=tmp_path, **WITHOUT_GIT)
    work_dir = tmp_path / 'work_dirs/demo-shapes'
    text = check_report(work_dir)
    assert text in output and 'In work_dirs/demo-shapes: results.md' in output
    assert '[0/2 runs, ' in output and '[2/2 runs, 0:00:00 left]' in output

    # Side by side either may end first: here UBN, which was asked for last.
    file = work_dir / 'results.jsonl'
    lines = sorted(results.read(file), key=lambda line: line['norm'], reverse=True)
    assert [line['norm'] for line in lines] == ['UBN', 'BN']
    file.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    again = run(*command, cwd=tmp_path, **WITHOUT_GIT)
    assert 'holds the finished runs' in again and text in again
    assert 'started' not in again

    other = [*command, 'optim_wrapper.optimizer.lr=0.1']
    refused = run(*other, cwd=tmp_path, ok=False, **WITHOUT_GIT)
    assert 'BN/seed0 is of a run with other settings' in refused
    assert 'Traceback' not in refused


@pytest.mark.slow
def test_an_interrupted_demo_goes_on(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(driver, 'QUIET_SECONDS', 0)
    folder = CocoFolder.open(shapes)
    comparison = plan_demo(folder, image_size=64, epochs=1, options=SMALL)
    work_dir = tmp_path / 'demo'
    said = []

    def interrupt(text):
        said.append(text)
        if 'UBN seed 0: started' in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(comparison, folder, work_dir, 'code', 2, interrupt)
    assert len(results.read(work_dir / 'results.jsonl')) < 2
    text = run_demo(comparison, folder, work_dir, 'code', 2, said.append)
    assert text == check_report(work_dir)
    assert len(results.read(work_dir / 'results.jsonl')) == 2
    assert any('BN seed 0 0%' in line for line in said)


def test_broken_data_end_the_demo_before_training(tmp_path):
    broken = make_shapes(tmp_path / 'broken', num_train=2, num_val=1, image_size=64)
    (broken / 'train/000001.png').unlink()
    output = run(DEMO, '--data', broken, cwd=tmp_path, ok=False)
    assert 'train/000001.png is missing' in output
    assert 'Traceback' not in output
    assert not (tmp_path / 'work_dirs').exists()


@pytest.mark.skipif(shutil.which('make') is None, reason='needs make')
def test_make_passes_its_settings_on():
    def command(*settings):
        line = ['make', '-n', 'demo', f'PY={sys.executable}', *settings]
        # Where make runs these tests, its settings are not those of this one.
        path = {'PATH': os.environ['PATH']}
        done = subprocess.run(
            line, cwd=ROOT, check=True, capture_output=True, text=True, env=path
        )
        return done.stdout.splitlines()[-1].split()[1:]

    assert command() == ['tools/demo.py']
    assert command('DATA=my data', 'SIZE=96', 'ARGS=--jobs 1') == [
        'tools/demo.py', '--data', "'my", "data'", '--size', '96', '--jobs', '1',
    ]  # fmt: skip
