"""What a broken folder is told before training."""

import json
import sys

import pytest
from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules
from PIL import ExifTags, Image

from ubn_mmdet.data.coco_folder import CocoFolder, CocoFolderError
from ubn_mmdet.data.shapes import CLASSES, make_shapes

register_all_modules()


@pytest.fixture
def folder(tmp_path):
    make_shapes(
        tmp_path, num_train=2, num_val=1, image_size=64, progress=lambda _: None
    )
    return tmp_path


def edit(folder, split, change):
    path = folder / f'instances_{split}.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_good_folder_is_described(folder):
    opened = CocoFolder.open(folder)
    assert opened.classes == CLASSES
    assert opened.num_images == {'train': 2, 'val': 1}


def test_classes_are_in_the_order_that_the_toolbox_numbers_them(folder):
    for split in ('train', 'val'):
        edit(folder, split, lambda c: c['categories'].reverse())
    classes = CocoFolder.open(folder).classes
    assert classes == CLASSES[::-1]
    dataset = DATASETS.build(
        {
            'type': 'CocoDataset',
            'ann_file': str(folder / 'instances_train.json'),
            'data_prefix': {'img': str(folder / 'train')},
            'metainfo': {'classes': classes},
        }
    )
    assert [classes[dataset.cat2label[i]] for i in (1, 2, 3, 4)] == list(CLASSES)


def test_splits_of_different_order_are_refused(folder):
    edit(folder, 'val', lambda c: c['categories'].reverse())
    with pytest.raises(
        CocoFolderError, match=r"\(1, 'ellipse'\) in .*\(4, 'star'\) in"
    ):
        CocoFolder.open(folder)


def test_a_photograph_that_lies_on_its_side_is_read_upright(folder):
    photograph = Image.new('RGB', (64, 48))
    exif = photograph.getexif()
    exif[ExifTags.Base.Orientation] = 6
    photograph.save(folder / 'train/side.jpg', exif=exif)
    change = {'file_name': 'side.jpg', 'width': 48, 'height': 64}
    edit(folder, 'train', set_first('images', **change))
    with pytest.raises(CocoFolderError) as error:  # the masks are of the old size
        CocoFolder.open(folder)
    assert 'side.jpg' not in str(error.value)


def test_missing_parts(folder):
    with pytest.raises(CocoFolderError, match='nowhere is not a folder'):
        CocoFolder.open(folder / 'nowhere')
    (folder / 'val/000000.png').unlink()
    with pytest.raises(CocoFolderError, match='image 1: .*000000.png is missing'):
        CocoFolder.open(folder)
    (folder / 'instances_val.json').write_text('{"images": [')
    with pytest.raises(CocoFolderError, match='val.json is not in COCO format'):
        CocoFolder.open(folder)
    (folder / 'instances_val.json').write_text('[]')
    with pytest.raises(
        CocoFolderError, match='val.json (has no images|is not in COCO)'
    ):
        CocoFolder.open(folder)
    (folder / 'instances_val.json').unlink()
    with pytest.raises(CocoFolderError, match='has no instances_val.json'):
        CocoFolder.open(folder)
    (folder / 'val').rmdir()
    with pytest.raises(CocoFolderError, match='has no folder val/'):
        CocoFolder.open(folder)


def set_first(kind, **values):
    return lambda content: content[kind][0].update(values)


def crowds_alone(content):
    for annotation in content['annotations']:
        annotation['iscrowd'] = 1


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda c: c.pop('categories'), 'json has no categories'),
        (lambda c: c.update(annotations=[]), 'json has no annotations'),
        (lambda c: c['images'][1].pop('file_name'), r"images\[1\] has no 'file_name'"),
        (lambda c: c['annotations'][0].pop('id'), r"annotations\[0\] has no 'id'"),
        (lambda c: c['categories'][0].pop('name'), r"categories\[0\] has no 'name'"),
        (lambda c: c['images'][0].pop('width'), r'zero height or width. \(1\)'),
        (set_first('annotations', id=2), r'Duplicate annotation ID.*\(2\)'),
        (set_first('annotations', image_id=77), r'image IDs not present.*\(1\)'),
        (set_first('annotations', category_id=9), r'category IDs not present.*\(1\)'),
        (
            set_first('categories', name='blob'),
            r"\(1, 'blob'\) in instances_train.json, \(1, 'ellipse'\) in instances_val",
        ),
        (set_first('images', width=65), '64x64, stated as 65x64'),
        (set_first('annotations', bbox=[60, 0, 9, 9]), 'outside its 64x64 image'),
        (set_first('annotations', bbox=[0, 0, -1, 9]), 'has a negative size'),
        (set_first('annotations', bbox=[0, 0, 9]), 'not in COCO format: .*length 3'),
        (set_first('annotations', bbox=[0, 0, 9, 'x']), 'not in COCO format: .*"x"'),
        (lambda c: c['annotations'][0].pop('area'), "annotation 1: it has no 'area'"),
        (lambda c: c['annotations'][0].pop('bbox'), "annotation 1: it has no 'bbox'"),
        (lambda c: c['images'].append('x'), 'not in COCO format: .*"x"'),
        (crowds_alone, 'no annotation that is not a crowd'),
        (
            set_first('annotations', segmentation={'size': [64, 64], 'counts': [9]}),
            'run lengths end at 9 of 4096',
        ),
        (
            set_first('annotations', segmentation={'size': [64, 64]}),
            'not in COCO format: .*counts',
        ),
        (
            set_first('annotations', segmentation=[[0, 0, 9, 0, float('nan'), 9]]),
            'not in COCO format',
        ),
        (
            set_first('annotations', segmentation={'size': [32, 64], 'counts': ''}),
            r'the mask has the size \[32, 64\], its image \[64, 64\]',
        ),
        (set_first('annotations', segmentation=[[0, 0, 5, 5]]), 'at least 3 points'),
    ],
)
def test_broken_annotations_are_named(folder, change, said):
    edit(folder, 'train', change)
    with pytest.raises(CocoFolderError, match=said):
        CocoFolder.open(folder)


def test_a_box_on_the_border_or_just_beyond_is_fine(folder):
    edit(folder, 'train', set_first('annotations', bbox=[-0.5, 0, 65, 64.5]))
    CocoFolder.open(folder)


@pytest.mark.parametrize('nothing', [None, [], 'absent'])
def test_boxes_alone_are_fine_and_said_to_be(folder, nothing):
    assert CocoFolder.open(folder).has_masks

    def strip(content):
        for annotation in content['annotations']:
            annotation['segmentation'] = nothing
            if nothing == 'absent':
                del annotation['segmentation']

    edit(folder, 'val', strip)
    assert not CocoFolder.open(folder).has_masks


def test_an_unreadable_image_is_named(folder):
    (folder / 'train/000001.png').write_bytes(b'not an image')
    with pytest.raises(CocoFolderError, match='000001.png is not a readable image'):
        CocoFolder.open(folder)


def test_many_problems_are_counted(folder):
    def spoil(content):
        image = content['images'][0]
        content['images'] = [image | {'id': i, 'width': 1} for i in range(1, 31)]

    edit(folder, 'train', spoil)
    with pytest.raises(CocoFolderError, match='and 2[0-9] more') as error:
        CocoFolder.open(folder)
    assert len(str(error.value).splitlines()) == 12  # ten of them


def test_without_hotcoco_it_is_said_how_to_get_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'hotcoco', None)
    with pytest.raises(CocoFolderError, match='pip install hotcoco'):
        CocoFolder.open(folder)


def test_the_image_itself_decides_on_its_size(folder):
    Image.new('RGB', (32, 32)).save(folder / 'train/000000.png')
    with pytest.raises(CocoFolderError, match='32x32, stated as 64x64'):
        CocoFolder.open(folder)
