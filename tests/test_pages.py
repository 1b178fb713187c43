"""What is stated in two places is stated alike, and pages name files that exist."""

import re

import pytest
from helpers.commands import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ('.', 'benchmarks', 'configs', 'docs')
    for path in (ROOT / folder).glob('*.md')
)
FOLDERS = '.ci', 'benchmarks', 'configs', 'docs', 'tests', 'tools', 'ubn_mmdet'


def read(path):
    return (ROOT / path).read_text()


def test_pre_commit_runs_the_linter_of_the_environment():
    pinned = re.search(r'^ruff==(\S+)$', read('.ci/requirements.txt'), re.MULTILINE)
    hooks = read('.pre-commit-config.yaml')
    assert re.findall(r'^ +rev: v(\S+)', hooks, re.MULTILINE) == [pinned[1]]


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    links = re.findall(r'\]\(([^)#]+)', read(page))
    files = [link for link in links if '://' not in link]
    assert [link for link in files if not (folder / link).exists()] == []


@pytest.mark.parametrize('page', PAGES)
def test_files_that_are_named_exist(page):
    names = re.findall(rf'`((?:{"|".join(FOLDERS)})/[\w./-]*)`', read(page))
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize('page', PAGES)
def test_nothing_is_installed_that_has_not_been_published(page):
    assert not re.search(r'pip install [^`\n]*\bubn_mmdet(?!-)\b', read(page))


@pytest.mark.parametrize('page', PAGES)
def test_cited_tests_exist(page):
    cited = set(re.findall(r'\btest_\w+\.py', read(page)))
    assert cited <= {path.name for path in ROOT.glob('tests/**/test_*.py')}
