"""The code of ``docs/extending.md`` runs as it stands."""

import re

import pytest
from helpers.commands import ROOT, run

pytestmark = pytest.mark.slow

BLOCKS = re.compile(r'^```python\n# (\w+\.py)\n(.*?)^```', re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    files = dict(BLOCKS.findall((ROOT / 'docs/extending.md').read_text()))
    assert files.keys() == {'tanh_bn.py', 'use.py', 'tanh_bn_test.py'}
    for name, code in files.items():
        (tmp_path / name).write_text(code)
    return tmp_path


def test_the_new_layer_trains_and_its_checkpoints_load(folder):
    run('-W', 'ignore', 'use.py', cwd=folder)


def test_the_new_layer_passes_the_whole_list(folder):
    settings = [
        '-c',
        ROOT / 'pyproject.toml',
        '--rootdir',
        ROOT,
        '-p',
        'no:cacheprovider',
    ]
    said = run(
        '-m', 'pytest', '-q', *settings, '-p', 'conftest', 'tanh_bn_test.py', cwd=folder
    )
    [passed] = re.findall(r'(\d+) passed', said)
    assert int(passed) > 35 and 'failed' not in said
