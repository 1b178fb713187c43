"""The command lines of training and testing are MMDetection's own."""

import ast
import json
import sys
from types import SimpleNamespace

import pytest
from helpers.commands import ROOT, run

from ubn_mmdet.mm import tools
from ubn_mmdet.mm.toolbox import ToolboxError


@pytest.mark.slow
@pytest.mark.parametrize('name', ['train', 'test'])
def test_help_is_that_of_mmdet(name):
    ours = run(ROOT / 'tools' / f'{name}.py', '--help', cwd=ROOT)
    assert ours == run(tools.find_tool('mmdet', name), '--help', cwd=ROOT)
    for option in ('--cfg-options', '--work-dir', '--launcher'):
        assert option in ours


def test_a_checkout_of_mmdet_has_its_tools_beside_the_package(tmp_path, monkeypatch):
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools/train.py').touch()
    origin = str(tmp_path / 'mmdet/__init__.py')
    monkeypatch.setattr(tools, 'find_spec', lambda _: SimpleNamespace(origin=origin))
    assert tools.find_tool('mmdet', 'train') == tmp_path / 'tools/train.py'


def test_an_mmdet_without_tools_says_where_they_were_looked_for(tmp_path, monkeypatch):
    origin = str(tmp_path / 'mmdet/__init__.py')
    monkeypatch.setattr(tools, 'find_spec', lambda _: SimpleNamespace(origin=origin))
    with pytest.raises(
        ToolboxError, match=r'train\.py is neither in .*\.mim/tools nor'
    ):
        tools.find_tool('mmdet', 'train')


def test_the_tool_runs_as_main_with_its_own_name(tmp_path, monkeypatch, capsys):
    tool = tmp_path / 'tool.py'
    tool.write_text('import sys\nprint(__name__, sys.argv, sys.modules["__main__"].x)')
    tool.write_text('import sys\nx = 1\n' + tool.read_text())
    monkeypatch.setattr(tools, 'require_toolbox', lambda package: None)
    monkeypatch.setattr(tools, 'find_tool', lambda *_: tool)
    monkeypatch.setattr(sys, 'argv', ['tools/tool.py', 'config.py', '--amp'])
    tools.run_tool('mmdet', 'tool', '')
    expected = f'__main__ {[str(tool), "config.py", "--amp"]} 1'
    assert capsys.readouterr().out.strip() == expected


# Runs command lines, [path, *arguments], where some modules are not installed. Prints
# [status, output] of each.
WITHOUT = """
import contextlib, io, json, runpy, sys
modules, *lines = map(json.loads, sys.argv[1:])
sys.modules.update(dict.fromkeys(modules))
for sys.argv in lines:
    said, status = io.StringIO(), 0
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_path(sys.argv[0], run_name='__main__')
        except SystemExit as end:
            status = end.code or 0
    print(json.dumps([status, said.getvalue()]))
"""
TOOLS = sorted((ROOT / 'tools').glob('*.py'))


@pytest.mark.parametrize(
    'modules',
    [['mmcv'], pytest.param(['mmengine', 'mmcv', 'mmdet'], marks=pytest.mark.slow)],
)
def test_without_the_toolbox_there_is_help_and_a_sentence(modules, tmp_path):
    lines = [[str(tool), '--help'] for tool in TOOLS]
    lines += [[str(ROOT / f'tools/{name}.py'), 'x'] for name in ('train', 'pretrain')]
    arguments = map(json.dumps, [modules, *lines])
    printed = run('-c', WITHOUT, *arguments, cwd=tmp_path).splitlines()
    *helps, train, pretrain = (
        json.loads(line) for line in printed if line.startswith('[')
    )
    for tool, (status, text) in zip(TOOLS, helps, strict=True):
        assert status == 0, tool
        described = ast.get_docstring(ast.parse(tool.read_text()))
        assert ' '.join(described.split()[:5]) in ' '.join(text.split()), tool
        if tool.stem in ('train', 'test', 'pretrain'):
            assert f'cannot be shown here:\n{modules[0]} is not installed: ' in text
    for tool, (status, _) in {'train': train, 'pretrain': pretrain}.items():
        assert status.startswith(f'{tool}: {modules[0]} is not installed: ')


def test_a_tool_that_is_not_there_is_told_from_tools_that_are(tmp_path, monkeypatch):
    (tmp_path / 'tools/analysis').mkdir(parents=True)
    (tmp_path / 'tools/analysis/flops.py').touch()
    origin = str(tmp_path / 'mmdet/__init__.py')
    monkeypatch.setattr(tools, 'find_spec', lambda _: SimpleNamespace(origin=origin))
    with pytest.raises(ToolboxError, match="no tool 'flops'; it has analysis/flops"):
        tools.find_tool('mmdet', 'flops')
