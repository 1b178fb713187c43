"""Runs use the code of a commit, not what a checkout has become since."""

import os
import subprocess
import sys

import pytest

from ubn_mmdet.comparison import workspace
from ubn_mmdet.comparison.workspace import ComparisonError


def git(*arguments, cwd):
    who = ['-c', 'user.name=n', '-c', 'user.email=e']
    done = subprocess.run(
        ['git', *who, *arguments], cwd=cwd, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout with one commit, taken for ours."""
    root = tmp_path / 'checkout'
    (root / 'package').mkdir(parents=True)
    (root / 'setup.cfg').touch()
    (root / 'package/module.py').write_text('x = 1')
    git('init', cwd=root)
    git('add', '.', cwd=root)
    git('commit', '-m', 'first', cwd=root)
    monkeypatch.setattr(workspace, 'PACKAGE', root / 'package')
    return root


def test_edits_do_not_reach_the_copy(repository, tmp_path):
    commit = workspace.resolve_commit()
    assert commit == git('rev-parse', 'HEAD', cwd=repository)
    (repository / 'package/module.py').write_text('x = 2')
    copy = workspace.clean_copy(repository, commit, tmp_path / 'code')
    assert (copy / 'package/module.py').read_text() == 'x = 1'
    assert list((tmp_path / 'code').iterdir()) == [copy]
    assert workspace.clean_copy(repository, commit, tmp_path / 'code') == copy


def test_a_command_goes_on_in_the_copy(repository, tmp_path, monkeypatch):
    commit = workspace.resolve_commit()
    (repository / 'package/module.py').write_text('x = 2')
    calls, said = [], []
    monkeypatch.setattr(os, 'execve', lambda *call: calls.append(call))
    monkeypatch.setattr(sys, 'argv', ['tools/some.py', '--seeds', '3'])
    workspace.run_from_copy(commit, tmp_path / 'code', said.append)
    [(_, arguments, environment)] = calls
    copy = tmp_path / 'code' / commit[:12]
    assert arguments[1:] == [str(copy / 'tools/some.py'), '--seeds', '3']
    assert environment['PYTHONPATH'].split(os.pathsep)[0] == str(copy)
    [text] = said
    assert text.startswith(f'Running commit {commit[:12]}, without uncommitted')
    # It knows what it is, and stays.
    with monkeypatch.context() as patch:
        patch.setattr(workspace, 'PACKAGE', copy / 'package')
        assert workspace.resolve_commit() == commit
        workspace.run_from_copy(commit, tmp_path / 'code', said.append)
        with pytest.raises(ComparisonError, match='is not here'):
            workspace.run_from_copy('another', tmp_path / 'code', said.append)
        with pytest.raises(ComparisonError, match='is not here'):
            workspace.resolve_commit('HEAD~1')
        # Where it was started for a revision, it is of that.
        patch.setenv(workspace.MARK, environment[workspace.MARK])
        assert workspace.claim(tmp_path / 'work', 'some', 'HEAD~1') == commit
    # Where the copy is not what is imported, it is not tried forever.
    monkeypatch.setenv(workspace.MARK, str(copy))
    with pytest.raises(ComparisonError, match='in place of the code in'):
        workspace.run_from_copy(commit, tmp_path / 'code', said.append)
    assert len(calls) == len(said) == 1


def test_an_older_commit(repository, tmp_path):
    first = workspace.resolve_commit()
    (repository / 'package/module.py').write_text('x = 2')
    git('commit', '-am', 'second', cwd=repository)
    assert workspace.resolve_commit('HEAD~1') == first
    copy = workspace.clean_copy(repository, first, tmp_path / 'code')
    assert (copy / 'package/module.py').read_text() == 'x = 1'
    with pytest.raises(ComparisonError, match='nonsense'):
        workspace.resolve_commit('nonsense')


def test_an_installed_package_runs_from_where_it_is(repository, tmp_path):
    (repository / 'setup.cfg').unlink()
    assert workspace.checkout() is None
    commit = workspace.resolve_commit()
    assert commit.startswith(f'v{workspace.__version__}-')
    workspace.run_from_copy(commit, tmp_path, print)
    assert not list(tmp_path.glob('*.tmp')) and not (tmp_path / commit[:12]).exists()
    with pytest.raises(ComparisonError, match='no git checkout'):
        workspace.resolve_commit('abc')
    # What has been edited is other code, although its version is the same.
    (repository / 'package/module.py').write_text('x = 2')
    assert workspace.resolve_commit() != commit
    with pytest.raises(ComparisonError, match=f'{commit}.* is not here'):
        workspace.run_from_copy(commit, tmp_path, print)


def test_a_checkout_that_git_refuses_is_no_installed_package(repository, monkeypatch):
    monkeypatch.setenv('GIT_TEST_ASSUME_DIFFERENT_OWNER', '1')
    with pytest.raises(ComparisonError, match='dubious ownership'):
        workspace.resolve_commit()
