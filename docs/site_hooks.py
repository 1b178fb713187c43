"""What `make docs` adds to the pages of docs/: the READMEs, the tutorial, and the API.

mkdocs.yml names this file as its hooks. Nothing is copied: the pages outside of docs/ keep
their place, and links between all of them work on the site as they do in the repository.
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
API = {
    'Norm layers': (
        'The constructors share the arguments of `PipelineNorm`.',
        [
            *('ubn_mmdet.UBN', 'ubn_mmdet.layers.pipeline.PipelineNorm'),
            *('ubn_mmdet.RBN', 'ubn_mmdet.IEBN', 'ubn_mmdet.BNET', 'ubn_mmdet.BGN'),
            *('ubn_mmdet.InitBN', 'ubn_mmdet.JSNorm', 'ubn_mmdet.L2BN'),
            *('ubn_mmdet.BatchRenorm', 'ubn_mmdet.MABN', 'ubn_mmdet.MBN'),
            *('ubn_mmdet.PowerNorm', 'ubn_mmdet.CentralizedConv2d'),
        ],
    ),
    'In any PyTorch model': (
        '',
        [
            *('ubn_mmdet.convert_batchnorm', 'ubn_mmdet.precise_statistics'),
            *('ubn_mmdet.second_forward', 'ubn_mmdet.padded_images'),
            *('ubn_mmdet.hide_padding', 'ubn_mmdet.choose_passes'),
            *('ubn_mmdet.reference_passes', 'ubn_mmdet.deploy.fold'),
        ],
    ),
    'In the toolbox': (
        'Configs name these by `type` or `constructor`.',
        [
            'ubn_mmdet.mm.padding_aware.PaddingAware',
            'ubn_mmdet.mm.preprocessor.InputBN',
            'ubn_mmdet.mm.condensation_hook.CondensationHook',
            'ubn_mmdet.mm.hooks.DoubleForwardHook',
            'ubn_mmdet.mm.start_hooks.FeatureScaleHook',
            'ubn_mmdet.mm.start_hooks.CheckpointLayoutHook',
            'ubn_mmdet.mm.hooks.BroadcastBuffersHook',
            'ubn_mmdet.mm.hooks.MergeGatesHook',
            'ubn_mmdet.mm.optim.UBNOptimWrapperConstructor',
            'ubn_mmdet.mm.optim.InitBNOptimWrapperConstructor',
            'ubn_mmdet.mm.deploy.fold_detector',
            *('ubn_mmdet.mm.guard.install', 'ubn_mmdet.mm.guard.uninstall'),
        ],
    ),
}


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in MOUNTED.items():
        text = (ROOT / source).read_text()
        if source == TUTORIAL:
            text = notebook_text(text)
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, 'api.md', content=api_text()))
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


def api_text() -> str:
    """The page that mkdocstrings fills from the docstrings."""
    lines = ['# API', '']
    for title, (remark, names) in API.items():
        lines += [f'## {title}', '', remark, '']
        lines += [f'::: {name}\n' for name in names]
    return '\n'.join(lines)


def notebook_text(source: str) -> str:
    """A notebook as Markdown, without its outputs."""
    cells = [
        (cell['cell_type'], ''.join(cell['source']))
        for cell in json.loads(source)['cells']
    ]
    return '\n\n'.join(
        f'```python\n{text}\n```' if kind == 'code' else text for kind, text in cells
    )
