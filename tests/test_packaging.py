"""A built package carries comparisons, configs and tools; a checkout stays as it was."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.commands import ROOT

from ubn_mmdet import paths
from ubn_mmdet.mm.tools import find_tool
from ubn_mmdet.version import __version__

pytestmark = pytest.mark.slow

PARTS = (
    *('ubn_mmdet', 'benchmarks', 'comparisons', 'configs', 'tools', 'tests'),
    *('setup.py', 'setup.cfg', 'pyproject.toml', 'MANIFEST.in'),
    *('LICENSE', 'README.md', 'CHANGELOG.md', 'model-index.yml'),
)


def run(*command: str, cwd: Path) -> str:
    env = os.environ | {'PIP_NO_INDEX': '1', 'PIP_DISABLE_PIP_VERSION_CHECK': '1'}
    env.pop('PYTHONPATH', None)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_wheel(source: Path, folder: Path) -> Path:
    options = '--no-build-isolation', '--no-deps', '-w', str(folder)
    run(sys.executable, '-m', 'pip', 'wheel', *options, str(source), cwd=folder)
    return next(folder.glob('ubn_mmdet-*.whl'))


@pytest.fixture(scope='module')
def checkout(tmp_path_factory) -> Path:
    """A copy of what a build needs."""
    folder = tmp_path_factory.mktemp('checkout')
    ignore = shutil.ignore_patterns('__pycache__')
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=ignore)
        elif (ROOT / part).exists():
            shutil.copy(ROOT / part, folder)
    return folder


@pytest.fixture(scope='module')
def wheel(checkout, tmp_path_factory) -> Path:
    # What an earlier build left behind must not end up in the wheel.
    stale = checkout / 'build/lib/ubn_mmdet/.mim/configs/gone.py'
    stale.parent.mkdir(parents=True)
    stale.touch()
    return pip_wheel(checkout, tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def sdist(checkout, tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp('sdist') / 'source'
    shutil.copytree(checkout, source, ignore=shutil.ignore_patterns('build'))
    code = 'from setuptools import build_meta; build_meta.build_sdist(".")'
    run(sys.executable, '-c', code, cwd=source)
    return next(source.glob('*.tar.gz'))


def empty_environment(folder: Path) -> tuple[Path, Path]:
    """The Python and the packages folder of an environment beside this one's toolbox.

    It has nothing of its own, and finds what this environment has after that.
    """
    run(sys.executable, '-m', 'venv', '--without-pip', str(folder), cwd=folder.parent)
    python = folder / 'bin/python'
    code = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    packages = Path(run(str(python), '-c', code, cwd=folder).strip())
    (packages / 'toolbox.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return python, packages


# As a user writes it, with the folder that `python -m ubn_mmdet` prints.
MY_CONFIG = """
_base_ = '{configs}/demo/retinanet_r18-scratch_fpn_bn_6e_shapes.py'
custom_imports = dict(imports=['ubn_mmdet'], allow_failed_imports=False)
model = dict(backbone=dict(norm_cfg=dict(type='UBN')))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_cfg = dict(max_epochs=1, val_interval=2)
"""


def test_it_installs_and_trains_beside_an_existing_toolbox(wheel, tmp_path):
    python, packages = empty_environment(tmp_path / 'env')
    pip = sys.executable, '-m', 'pip', '--python', str(python), 'install'
    # What is there stays as it is, another copy of this package too.
    options = '--no-build-isolation', '--no-deps', '--ignore-installed'
    run(*pip, *options, str(wheel), cwd=tmp_path)

    report = run(str(python), '-m', 'ubn_mmdet', cwd=tmp_path)
    lines = dict(line.split(maxsplit=1) for line in report.splitlines() if line)
    mim = packages / 'ubn_mmdet/.mim'
    assert lines['configs'] == str(mim / 'configs')
    assert lines['ubn_mmdet'] == __version__ and lines['UBN'] == 'registered'

    tool = str(mim / 'tools/make_shapes.py')
    few = '--train', '2', '--val', '1', '--size', '64'
    run(str(python), tool, 'data/shapes', *few, cwd=tmp_path)
    (tmp_path / 'mine.py').write_text(MY_CONFIG.replace('{configs}', lines['configs']))
    # `mim train mmdet` runs MMDetection's own tool, ours runs it too.
    for train in (find_tool('mmdet', 'train'), mim / 'tools/train.py'):
        run(str(python), str(train), 'mine.py', '--work-dir', 'run', cwd=tmp_path)
        state = torch.load(tmp_path / 'run/epoch_1.pth', weights_only=False)
        assert 'backbone.bn1.spatial_weight' in state['state_dict']
        (tmp_path / 'run/epoch_1.pth').unlink()


def below(folder: Path) -> set[str]:
    """The files below ``folder``, as in an archive."""
    files = (path for path in folder.rglob('*') if path.is_file())
    return {
        path.relative_to(folder).as_posix()
        for path in files
        if '__pycache__' not in path.parts
    }


def carried(names: set[str], folder: str) -> set[str]:
    prefix = f'ubn_mmdet/.mim/{folder}/'
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def test_the_wheel_carries_comparisons_configs_and_tools_and_no_tests(checkout, wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert 'ubn_mmdet/py.typed' in names  # type checkers then read the annotations
    assert f'ubn_mmdet-{__version__}' in wheel.name
    for folder in ('comparisons', 'configs', 'tools'):
        assert carried(names, folder) == below(checkout / folder)
    assert {name.split('/')[0] for name in names} == {
        'ubn_mmdet',
        f'ubn_mmdet-{__version__}.dist-info',
    }
    assert 'ubn_mmdet/.mim/model-index.yml' in names
    assert not (checkout / 'ubn_mmdet/.mim').exists()


def test_an_sdist_builds_the_same_wheel(sdist, wheel, tmp_path):
    (tmp_path / 'out').mkdir()
    rebuilt = pip_wheel(sdist, tmp_path / 'out')
    assert set(zipfile.ZipFile(rebuilt).namelist()) == set(
        zipfile.ZipFile(wheel).namelist()
    )


def test_an_installed_package_finds_its_own(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        f'import sys; sys.path.insert(0, {str(tmp_path)!r})\n'
        'from ubn_mmdet.paths import comparisons_dir, configs_dir, tools_dir\n'
        'print(comparisons_dir(), configs_dir(), tools_dir())'
    )
    mim = tmp_path / 'ubn_mmdet/.mim'
    found = run(sys.executable, '-c', code, cwd=tmp_path).split()
    assert found == [str(mim / name) for name in ('comparisons', 'configs', 'tools')]


def test_a_checkout_finds_the_folders_beside_the_package():
    assert paths.configs_dir() == ROOT / 'configs'
    assert paths.tools_dir() == ROOT / 'tools'
    assert paths.comparisons_dir() == ROOT / 'comparisons'


def test_a_package_without_them_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, 'PACKAGE', tmp_path / 'ubn_mmdet')
    with pytest.raises(FileNotFoundError, match=r'configs/ is neither .*\.mim/configs'):
        paths.configs_dir()


def test_the_report_names_places_and_versions():
    report = run(sys.executable, '-m', 'ubn_mmdet', cwd=ROOT)
    lines = dict(line.split(maxsplit=1) for line in report.splitlines() if line)
    assert lines['configs'] == str(ROOT / 'configs')
    assert lines['tools'] == str(ROOT / 'tools')
    assert lines['comparisons'] == str(ROOT / 'comparisons')
    assert lines['UBN'] == 'registered'
    assert lines['python'] == '.'.join(map(str, sys.version_info[:3]))
    assert {'torch', 'mmengine', 'mmcv', 'mmdet', 'pycocotools'} <= lines.keys()
