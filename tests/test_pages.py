"""What is stated in two places is stated alike, and pages name files that exist."""

import ast
import re
from inspect import Parameter, signature

import pytest
from helpers.commands import ROOT

import ubn_mmdet
from ubn_mmdet import UBN

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ('*.md', 'benchmarks/*.md', 'configs/**/*.md', 'docs/*.md')
    for path in ROOT.glob(pattern)
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
    links = re.findall(r'\]\(([^)]+)\)', read(page))
    links += re.findall(r'(?:href|src)="([^"]+)"', read(page))
    assert [link for link in links if '://' not in link and not leads(page, link)] == []


def leads(page, link):
    """Whether the file exists, and has the heading."""
    file, _, anchor = link.partition('#')
    path = (ROOT / page).parent / file if file else ROOT / page
    return path.exists() and (not anchor or anchor in anchors(path.read_text()))


def anchors(text):
    """Of the headings of a page, as GitHub and the site name them."""
    titles = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
    return {re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-') for title in titles}


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


def test_the_table_of_arguments_is_that_of_the_layer():
    table = read('docs/how-it-works.md').partition('## Arguments\n')[2]
    rows = re.findall(r'^\| (`[^|]+) \| ([^|]+) \|', table, re.MULTILINE)
    shown = {name: value for names, value in rows for name in re.findall(r'\w+', names)}
    layer = signature(UBN).parameters
    assert shown.keys() == layer.keys()
    for name, value in shown.items():
        default = Parameter.empty if value == 'required' else parse(value)
        assert layer[name].default == default, name


def parse(value):
    return ast.literal_eval(value.strip('`'))


def test_the_site_has_every_page_and_every_public_name():
    named = set(
        re.findall(r'^::: ubn_mmdet\.(\w+)$', read('docs/api.md'), re.MULTILINE)
    )
    assert named == set(ubn_mmdet.__all__) - {'__version__'}
    site = read('mkdocs.yml') + read('docs/site_hooks.py')
    pages = [page.removeprefix('docs/') for page in PAGES]
    assert [page for page in pages if page not in site] == []


def test_every_preset_is_described():
    table = read('configs/README.md').partition('## Presets')[2]
    named = re.findall(r'`([\w-]+)`', table)
    presets = {path.stem for path in (ROOT / 'configs/_base_/norms').glob('*.py')}
    assert presets <= set(named)
