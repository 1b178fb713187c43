"""The command lines of training and testing are MMDetection's own."""

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
    monkeypatch.setattr(tools, 'require_toolbox', lambda: None)
    monkeypatch.setattr(tools, 'find_tool', lambda *_: tool)
    monkeypatch.setattr(sys, 'argv', ['tools/tool.py', 'config.py', '--amp'])
    tools.run_mmdet_tool('tool')
    expected = f'__main__ {[str(tool), "config.py", "--amp"]} 1'
    assert capsys.readouterr().out.strip() == expected
