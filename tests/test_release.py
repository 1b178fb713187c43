"""A tag becomes a release: its changelog, and what mim reads of the package."""

import re
from pathlib import Path

import yaml
from helpers.commands import ROOT
from packaging.version import Version


def test_the_changelog_has_the_version_of_the_package():
    from ubn_mmdet.version import __version__

    changelog = (ROOT / 'CHANGELOG.md').read_text()
    heading = r'^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$'
    released = re.search(heading, changelog, re.MULTILINE)[1]
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
