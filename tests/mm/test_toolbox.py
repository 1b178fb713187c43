"""Each way a toolbox can be unfit gets a sentence that says what to do."""

import subprocess
import sys
import textwrap

import pytest
from helpers.commands import ROOT

GOOD = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
}
OPENMMLAB = {'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0'}
MODULE_OF = {
    'onedl-mmengine': 'mmengine',
    'mmengine-lite': 'mmengine',
    'onedl-mmcv': 'mmcv',
    'mmcv-lite': 'mmcv',
    'onedl-mmdetection': 'mmdet',
}
# A registry is all that importing the package needs of MMEngine.
REGISTRY = """
class Registry(dict):
    def register_module(self, name, module):
        self[name] = module
MODELS = Registry()
"""


@pytest.fixture
def toolbox(tmp_path):
    """Make stubs of a toolbox, and run code where they are the only toolbox there is.

    A second interpreter without the site packages, for nothing else hides the real one;
    torch comes as a stub as well and only its version matters.
    """
    site = tmp_path / 'site'

    def make(distributions: dict[str, str], files: dict[str, str] | None = None):
        for name, version in distributions.items():
            folder = site / f'{name.replace("-", "_")}-{version}.dist-info'
            folder.mkdir(parents=True)
            (folder / 'METADATA').write_text(
                f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
            )
            package = site / MODULE_OF.get(name, name)
            package.mkdir(exist_ok=True)
            (package / '__init__.py').touch()
        if (site / 'mmengine').is_dir():
            (site / 'mmengine/registry.py').write_text(REGISTRY)
        ops = (
            {'mmcv/ops.py': '', 'mmcv/_ext.py': ''} if (site / 'mmcv').is_dir() else {}
        )
        for name, text in ({'pkg_resources.py': ''} | ops | (files or {})).items():
            if text is None:
                (site / name).unlink(missing_ok=True)
            else:
                site.mkdir(exist_ok=True)
                (site / name).write_text(text)

        def run(code: str) -> str:
            preamble = f"""
                import sys, types
                sys.path[:0] = [{str(site)!r}]
                package = types.ModuleType('ubn_mmdet')
                package.__path__ = [{str(ROOT / 'ubn_mmdet')!r}]
                sys.modules['ubn_mmdet'] = package
                from ubn_mmdet.mm.toolbox import *
            """
            command = [sys.executable, '-I', '-S', '-c']
            done = subprocess.run(
                [*command, textwrap.dedent(preamble) + code],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        return run

    return make


def problems(run) -> str:
    return run('print("\\n".join(toolbox_problems()))')


@pytest.mark.parametrize('distributions', [GOOD, OPENMMLAB])
def test_a_supported_toolbox_has_no_problem(toolbox, distributions):
    run = toolbox({'torch': '2.5.1'} | distributions)
    assert run('print(toolbox_problems(), mmengine_problem(), toolbox_notes())') == (
        '[] None []'
    )


def test_without_toolbox_each_part_is_named_with_its_command(toolbox):
    lines = problems(toolbox({})).splitlines()
    assert [line.split()[0] for line in lines] == ['mmengine', 'mmcv', 'mmdet']
    assert all('is not installed: ' in line and 'pip install' in line for line in lines)


def test_without_mmengine_importing_has_nothing_to_say(toolbox):
    assert toolbox({})('print(mmengine_problem())') == 'None'


@pytest.mark.parametrize(
    ('name', 'version'),
    [
        ('mmengine', '0.9.1'),
        ('mmengine', '1.0.0'),
        ('mmcv', '1.7.2'),
        ('mmdet', '2.28.2'),
    ],
)
def test_versions_outside_the_range_are_named(toolbox, name, version):
    sentence = problems(toolbox(OPENMMLAB | {name: version}))
    assert sentence.startswith(f'{name} {version} is not supported (from ')


def test_an_old_mmengine_is_a_problem_for_importing(toolbox):
    run = toolbox(OPENMMLAB | {'mmengine': '0.9.1'})
    assert 'mmengine 0.9.1 is not supported' in run('print(mmengine_problem())')


def test_a_broken_mmengine_is_a_problem_for_importing(toolbox):
    run = toolbox(GOOD, {'mmengine/__init__.py': 'import missing_part'})
    sentence = run('print(mmengine_problem())')
    assert 'mmengine.registry does not import' in sentence
    assert 'missing_part' in sentence


def test_mmcv_without_its_operators(toolbox):
    run = toolbox(GOOD, {'mmcv/ops.py': 'import mmcv._ext', 'mmcv/_ext.py': None})
    assert 'mmcv.ops does not import (ModuleNotFoundError: No module' in problems(run)


def test_mmdet_that_refuses_its_mmcv(toolbox):
    text = "assert False, 'MMCV==2.2.0 is used but incompatible. mmcv>=2, <2.2.0.'"
    sentence = problems(toolbox(OPENMMLAB, {'mmdet/__init__.py': text}))
    assert 'AssertionError: MMCV==2.2.0 is used but incompatible' in sentence


def test_mmengine_without_pkg_resources(toolbox):
    without = {'pkg_resources.py': None}
    assert 'setuptools<81' in problems(toolbox(OPENMMLAB, without))


def test_onedl_needs_no_pkg_resources(toolbox):
    assert problems(toolbox(GOOD, {'pkg_resources.py': None})) == ''


def test_old_checkpoints_loading_is_a_note(toolbox, monkeypatch):
    monkeypatch.delenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', raising=False)
    run = toolbox({'torch': '2.6.0'} | OPENMMLAB)
    notes = 'print(toolbox_problems(), *toolbox_notes())'
    assert run(notes).startswith('[] mmengine 0.10.7 cannot load its own checkpoints')
    allow = "import os; os.environ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'] = '1'\n"
    assert run(allow + notes) == '[]'


def test_require_toolbox_raises_an_import_error_with_every_sentence(toolbox):
    run = toolbox(GOOD | {'onedl-mmcv': '1.0', 'onedl-mmdetection': '2.0'})
    message = run(
        'try: require_toolbox()\n'
        'except ImportError as error: print(type(error).__name__, error)'
    )
    assert message.startswith('ToolboxError onedl-mmcv 1.0 is not supported')
    assert '\nonedl-mmdetection 2.0 is not supported' in message


def test_the_toolbox_of_this_environment_is_supported():
    from ubn_mmdet.mm.toolbox import mmengine_problem, toolbox_problems

    assert toolbox_problems() == []
    assert mmengine_problem() is None
