"""A tag becomes a release: its notes, and what mim reads of the package."""

import re
import runpy
from pathlib import Path

import pytest
import yaml
from helpers.commands import ROOT
from packaging.version import Version

CHANGELOG = """# Changelog

## [Unreleased]

- later

## [0.2.0] - 2026-12-01

### Added

- a thing

## [0.1.0] - 2026-11-21
"""


@pytest.fixture(scope='module')
def release_notes():
    return runpy.run_path(str(ROOT / '.ci/release_notes.py'))['release_notes']


def test_notes_are_the_section_of_the_version(release_notes):
    notes = release_notes('v0.2.0', '0.2.0', CHANGELOG)
    assert notes == '### Added\n\n- a thing'


@pytest.mark.parametrize(
    ('tag', 'version', 'message'),
    [
        ('v0.2.0', '0.1.0', "tag 'v0.2.0', but the version of the package is '0.1.0'"),
        ('0.2.0', '0.2.0', "tag '0.2.0'"),
        ('v0.3.0', '0.3.0', 'has nothing under "## .0.3.0. - '),
        ('v0.1.0', '0.1.0', 'has nothing under'),
        ('v0x2.0', '0x2.0', 'has nothing under'),
    ],
)
def test_a_wrong_tag_or_a_missing_section_is_refused(
    release_notes, tag, version, message
):
    with pytest.raises(ValueError, match=message):
        release_notes(tag, version, CHANGELOG)


def test_the_changelog_has_the_version_of_the_package(release_notes):
    from ubn_mmdet.version import __version__

    changelog = (ROOT / 'CHANGELOG.md').read_text()
    released = re.search(r'^## \[(\d.*?)\]', changelog, re.MULTILINE)[1]
    assert release_notes(f'v{released}', released, changelog)
    version = Version(__version__)
    assert (
        version > Version(released)
        if version.is_devrelease
        else str(version) == released
    )


def metafiles() -> list[dict]:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    return [yaml.safe_load((ROOT / name).read_text()) for name in index['Import']]


def test_the_model_index_has_every_config():
    models = [model for metafile in metafiles() for model in metafile['Models']]
    listed = [model['Config'] for model in models]
    there = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / 'configs').rglob('*.py')
        if '_base_' not in path.parts
    ]
    assert sorted(listed) == sorted(there)
    assert [model['Name'] for model in models] == [Path(c).stem for c in listed]


def test_the_model_index_has_what_its_models_refer_to():
    for metafile in metafiles():
        collections = {each['Name']: each for each in metafile['Collections']}
        assert {m['In Collection'] for m in metafile['Models']} == set(collections)
        for collection in collections.values():
            assert (ROOT / collection['README']).is_file()
