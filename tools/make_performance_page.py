"""Fill the tables of the pages in docs/ from docs/performance/."""

from pathlib import Path

from ubn_mmdet.bench.pages import write_pages

DOCS = Path(__file__).resolve().parents[1] / 'docs'

if __name__ == '__main__':
    write_pages(DOCS)
