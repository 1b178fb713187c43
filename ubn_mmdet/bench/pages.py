"""The tables of ``docs/performance.md``, ``docs/distributed.md``, ``docs/deploy.md``.

They come from the json files in ``docs/performance/``, as the tools wrote them, each with
what it was measured on. A table is named by its file and its title.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from ..files import write_whole
from ..markdown import fill_tables
from ..records import read_json
from .growth import PREFIX, draw_growth
from .sync_cost import model_table
from .tables import inference_tables, sync_tables, tables
from .traffic import time_table

PAGES = 'performance.md', 'distributed.md', 'deploy.md'
MAKERS = {'layers': tables, 'sync': sync_tables, 'inference': inference_tables}


def page_tables(folder: str | os.PathLike) -> dict[str, str]:
    """All tables that the files in a folder give, and the models that need no file."""
    named = {'synchronisation, modelled': model_table()}
    if find_spec('triton'):  # what its kernels move follows from their arguments
        named['traffic, predicted'] = time_table()
    for path in sorted(Path(folder).glob('*.json')):
        make = MAKERS[path.stem.split('-')[0]]
        for title, table in make(read_json(path)).items():
            named[f'{path.stem}, {title}'] = table
    return named


def write_pages(docs: str | os.PathLike) -> None:
    """Fill the tables of the pages, and draw ``growth.png``.

    Args:
        docs: The folder of the documentation.

    Raises:
        KeyError: If a page names a table that no file gives.
    """
    docs = Path(docs)
    named = page_tables(docs / 'performance')
    for name in PAGES:
        page = docs / name
        write_whole(page, fill_tables(page.read_text(), named).encode())
    layers = read_json(docs / 'performance/layers.json')
    if f'{PREFIX}N' in layers:
        draw_growth(layers, docs / 'growth.png')
