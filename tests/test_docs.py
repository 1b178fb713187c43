"""What the documentation points to is there."""

import re

import pytest
from helpers.commands import ROOT

PAGES = sorted([ROOT / 'README.md', *ROOT.glob('docs/*.md')])


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_cited_tests_exist(page):
    cited = set(re.findall(r'\btest_\w+\.py', page.read_text()))
    assert cited <= {path.name for path in ROOT.glob('tests/**/test_*.py')}
