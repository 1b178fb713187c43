"""Runs use the code of a commit, not what a checkout has become since."""

import os
import subprocess
import sys

import pytest

from ubn_mmdet.comparison import code_copy


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
    monkeypatch.setattr(code_copy, 'PACKAGE', root / 'package')
    return root


def test_edits_do_not_reach_the_copy(repository, tmp_path):
    commit = code_copy.resolve_commit()
    assert commit == git('rev-parse', 'HEAD', cwd=repository)
    assert not code_copy.has_uncommitted_changes()
    (repository / 'package/module.py').write_text('x = 2')
    assert code_copy.has_uncommitted_changes()
    copy = code_copy.clean_copy(commit, tmp_path / 'code')
    assert (copy / 'package/module.py').read_text() == 'x = 1'
    assert not list((tmp_path / 'code').glob('*.tmp'))
    assert code_copy.clean_copy(commit, tmp_path / 'code') == copy


def test_a_command_goes_on_in_the_copy(repository, tmp_path, monkeypatch):
    commit = code_copy.resolve_commit()
    with pytest.raises(code_copy.CodeError, match='which may change'):
        code_copy.check_running(commit)
    (repository / 'package/module.py').write_text('x = 2')
    calls, said = [], []
    monkeypatch.setattr(os, 'execve', lambda *call: calls.append(call))
    monkeypatch.setattr(sys, 'argv', ['tools/some.py', '--seeds', '3'])
    code_copy.run_from_copy(commit, tmp_path / 'code', said.append)
    [(_, arguments, environment)] = calls
    copy = tmp_path / 'code' / commit[:12]
    assert arguments[1:] == [str(copy / 'tools/some.py'), '--seeds', '3']
    assert environment['PYTHONPATH'].split(os.pathsep)[0] == str(copy)
    assert said == [f'Uncommitted changes are no part of this: it runs {commit[:12]}']
    # It knows what it is, and stays.
    with monkeypatch.context() as patch:
        patch.setattr(code_copy, 'PACKAGE', copy / 'package')
        assert code_copy.resolve_commit() == commit
        code_copy.check_running(commit)
        code_copy.run_from_copy(commit, tmp_path / 'code', said.append)
        with pytest.raises(code_copy.CodeError, match='is not here'):
            code_copy.check_running('another')
        with pytest.raises(code_copy.CodeError, match='is not here'):
            code_copy.resolve_commit('HEAD~1')
        patch.setenv(code_copy.MARK, str(copy))
        assert code_copy.resolve_commit('HEAD~1') == commit
    # Where the copy is not what is imported, it is not tried forever.
    monkeypatch.setenv(code_copy.MARK, str(copy))
    with pytest.raises(code_copy.CodeError, match='in place of the code in'):
        code_copy.run_from_copy(commit, tmp_path / 'code', said.append)
    assert len(calls) == len(said) == 1


def test_an_older_commit(repository, tmp_path):
    first = code_copy.resolve_commit()
    (repository / 'package/module.py').write_text('x = 2')
    git('commit', '-am', 'second', cwd=repository)
    assert code_copy.resolve_commit('HEAD~1') == first
    copy = code_copy.clean_copy(first, tmp_path / 'code')
    assert (copy / 'package/module.py').read_text() == 'x = 1'
    with pytest.raises(code_copy.CodeError, match='nonsense'):
        code_copy.resolve_commit('nonsense')


def test_an_installed_package_runs_from_where_it_is(repository, tmp_path):
    (repository / 'setup.cfg').unlink()
    assert code_copy.checkout() is None
    commit = code_copy.resolve_commit()
    assert commit.startswith(f'v{code_copy.__version__}-')
    assert code_copy.clean_copy(commit, tmp_path) == repository
    assert not code_copy.has_uncommitted_changes()
    with pytest.raises(code_copy.CodeError, match='no git checkout'):
        code_copy.resolve_commit('abc')
    # What has been edited is other code, although its version is the same.
    (repository / 'package/module.py').write_text('x = 2')
    assert code_copy.resolve_commit() != commit
    with pytest.raises(code_copy.CodeError, match=f'{commit}.* is not here'):
        code_copy.clean_copy(commit, tmp_path)


def test_a_checkout_that_git_refuses_is_no_installed_package(repository, monkeypatch):
    monkeypatch.setenv('GIT_TEST_ASSUME_DIFFERENT_OWNER', '1')
    with pytest.raises(code_copy.CodeError, match='dubious ownership'):
        code_copy.resolve_commit()
