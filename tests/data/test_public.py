"""Public data sets, as they are downloaded, become COCO-format folders."""

import json

import numpy as np
import pytest
from helpers.commands import ROOT, run
from PIL import Image
from pycocotools.coco import COCO

from ubn_mmdet.data.coco_folder import CocoFolder
from ubn_mmdet.data.public import convert_bccd, convert_nuclei
from ubn_mmdet.records import RecordError

OBJECT = (
    '<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin>'
    '<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
)


@pytest.fixture
def blood(tmp_path):
    source = tmp_path / 'BCCD_Dataset/BCCD'
    for name in 'JPEGImages', 'Annotations', 'ImageSets/Main':
        (source / name).mkdir(parents=True)
    objects = {
        # The second has no height.
        'a': [('WBC', 260, 177, 491, 376), ('RBC', 5, 9, 60, 9)],
        'b': [('Platelets', 0, 1, 640, 480)],
        'c': [('RBC', 555, 356, 640, 455)],
    }
    for name, found in objects.items():
        Image.new('RGB', (640, 480)).save(source / f'JPEGImages/{name}.jpg')
        boxes = ''.join(OBJECT.format(*each) for each in found)
        path = source / f'Annotations/{name}.xml'
        path.write_text(f'<annotation>{boxes}</annotation>')
    (source / 'ImageSets/Main/trainval.txt').write_text('a\nb\n')
    (source / 'ImageSets/Main/test.txt').write_text('c\n')
    return source.parent


def test_boxes_count_pixels_from_zero(blood, tmp_path):
    convert_bccd(blood, tmp_path / 'bccd')
    found = CocoFolder.open(tmp_path / 'bccd')
    assert found.classes == ('RBC', 'WBC', 'Platelets') and not found.has_masks
    assert found.num_images == {'train': 2, 'val': 1}
    content = json.loads((tmp_path / 'bccd/instances_train.json').read_bytes())
    boxes = [(a['category_id'], a['bbox'], a['area']) for a in content['annotations']]
    assert boxes == [(2, [259, 176, 232, 200], 46400), (3, [0, 0, 640, 480], 307200)]


def test_so_they_do_by_the_command_line(blood, tmp_path):
    tool = ROOT / 'tools/convert_data.py'
    out = run(tool, 'bccd', blood, tmp_path / 'bccd', cwd=tmp_path)
    assert out.endswith('train: 2 images, 2 objects\nval: 1 images, 1 objects\n')
    convert_bccd(blood, tmp_path / 'again')
    for split in ('train', 'val'):
        name = f'instances_{split}.json'
        written, again = (tmp_path / folder / name for folder in ('bccd', 'again'))
        assert written.read_bytes() == again.read_bytes()


def nucleus(size, x, y, w, h):
    mask = np.zeros(size[::-1], dtype=np.uint8)
    mask[y : y + h, x : x + w] = 255
    return Image.fromarray(mask)


@pytest.fixture
def nuclei(tmp_path):
    source = tmp_path / 'stage1_train'
    for i in range(10):
        size = (640, 512) if i == 3 else (256, 256)
        folder = source / (f'{i:x}' * 64)
        for name in 'images', 'masks':
            (folder / name).mkdir(parents=True)
        Image.new('RGBA', size).save(folder / f'images/{folder.name}.png')
        nucleus(size, 46, 180, 18, 20).save(folder / 'masks/a.png')
        nucleus(size, 101, 101, 1, 1).save(folder / 'masks/b.png')
    return source


def test_masks_are_made_smaller_with_their_images(nuclei, tmp_path):
    convert_nuclei(nuclei, tmp_path / 'nuclei')
    found = CocoFolder.open(tmp_path / 'nuclei')
    assert found.num_images == {'train': 8, 'val': 2} and found.has_masks
    sizes = {}
    for split in 'train', 'val':
        coco = COCO(tmp_path / f'nuclei/instances_{split}.json')
        for image in coco.loadImgs(coco.getImgIds()):
            first, *rest = coco.loadAnns(coco.getAnnIds(image['id']))
            sizes[image['file_name']] = image['width'], image['height']
            x, y, w, h = (23, 90, 9, 10) if image['width'] == 320 else (46, 180, 18, 20)
            assert first['bbox'] == [x, y, w, h] and first['area'] == w * h
            assert coco.annToMask(first)[y : y + h, x : x + w].all()
            assert [a['area'] for a in rest] in ([], [1])
    assert len(sizes) == 10 and sizes['3' * 16 + '.jpg'] == (320, 256)


def test_it_can_be_repeated_but_not_mixed(blood, nuclei, tmp_path):
    convert_bccd(blood, tmp_path / 'data')
    before = (tmp_path / 'data/instances_val.json').read_bytes()
    convert_bccd(blood, tmp_path / 'data')
    assert (tmp_path / 'data/instances_val.json').read_bytes() == before
    with pytest.raises(RecordError, match="data 'bccd' instead of 'nuclei'"):
        convert_nuclei(nuclei, tmp_path / 'data')


@pytest.mark.parametrize('data', ['bccd', 'nuclei'])
def test_another_folder_is_refused(data, tmp_path):
    line = [ROOT / 'tools/convert_data.py', data, tmp_path, tmp_path / 'out']
    out = run(*line, cwd=tmp_path, ok=False)
    assert 'Traceback' not in out and str(tmp_path) in out
    assert not (tmp_path / 'out').exists()
