"""What `make docs` adds to the pages of docs/: the READMEs and the tutorial.

mkdocs.yml names this file as its hooks. Pages outside of docs/ keep their place, and links
between all pages work on the site as they do in the repository.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TUTORIAL = 'docs/tutorial.ipynb'
# Pages outside of docs/, by their place on the site.
MOUNTED = {
    'README.md': 'index.md',
    'configs/README.md': 'configs.md',
    'configs/protocol/README.md': 'paper.md',
    'benchmarks/README.md': 'benchmarks.md',
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    TUTORIAL: 'tutorial.md',
}
SOURCES = {page: source for source, page in MOUNTED.items()}


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in MOUNTED.items():
        text = (ROOT / source).read_text()
        if source == TUTORIAL:
            text = notebook_text(text)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that hold in the repository into links that hold on the site."""
    uri = page.file.src_uri
    folder = posixpath.dirname(SOURCES.get(uri, f'docs/{uri}'))

    def link(found: re.Match) -> str:
        target, anchor = found[1], found[2] or ''
        path = posixpath.normpath(posixpath.join(folder, target))
        path = MOUNTED.get(path, path.removeprefix('docs/'))
        return f']({path}{anchor})'

    return re.sub(r'\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)', link, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name things as Sphinx does, ``:class:`UBN```; show the name alone."""
    return re.sub(r':(?:class|func|meth|mod):(?=<code>)', '', html)


def notebook_text(source: str) -> str:
    """A notebook as Markdown, without its outputs."""
    cells = [
        (cell['cell_type'], ''.join(cell['source']))
        for cell in json.loads(source)['cells']
    ]
    return '\n\n'.join(
        f'```python\n{text}\n```' if kind == 'code' else text for kind, text in cells
    )
