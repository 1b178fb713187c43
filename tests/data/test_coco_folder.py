"""What a broken folder is told before training."""

import json

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
    assert all(count > 0 for count in opened.num_instances.values())


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
    with pytest.raises(CocoFolderError, match='val.json is not readable as json'):
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
        (lambda c: c.pop('categories'), "no list 'categories'"),
        (lambda c: c.update(annotations=[]), "list 'annotations' is empty"),
        (lambda c: c['images'][0].pop('width'), r"images\[0\] has no 'width'"),
        (set_first('annotations', id=2), 'annotations have the id 2 twice'),
        (set_first('annotations', image_id=77), 'annotation 1: .* no image 77'),
        (set_first('annotations', category_id=9), 'annotation 1: .* no category 9'),
        (
            set_first('categories', name='blob'),
            r"\(1, 'blob'\) in instances_train.json, \(1, 'ellipse'\) in instances_val",
        ),
        (set_first('images', width=65), '64x64, stated as 65x64'),
        (set_first('annotations', bbox=[60, 0, 9, 9]), 'outside its 64x64 image'),
        (set_first('annotations', bbox=[0, 0, -1, 9]), 'has a negative size'),
        (set_first('annotations', bbox=[0, 0, 9]), 'must be four numbers'),
        (set_first('annotations', bbox=[0, 0, 9, 'x']), 'must be four numbers'),
        (lambda c: c['annotations'][0].pop('area'), "has no 'area'"),
        (lambda c: c['images'].append('x'), "images\\[2\\] is 'x', not an object"),
        (crowds_alone, 'no annotation that is not a crowd'),
        (
            set_first('annotations', segmentation={'size': [64, 64], 'counts': [9]}),
            'run lengths are broken',
        ),
        (
            set_first('annotations', segmentation={'size': [64, 64]}),
            'run lengths are broken',
        ),
        (
            set_first('annotations', segmentation=[[0, 0, 9, 0, float('nan'), 9]]),
            'at least 3 points',
        ),
        (
            set_first('annotations', segmentation={'size': [32, 64], 'counts': ''}),
            r'the mask has the size \[32, 64\]',
        ),
        (
            set_first('annotations', segmentation=[[0, 0, 70, 0, 70, 9]]),
            r'reaches from \(0, 0\) to \(70, 9\), outside its 64x64 image',
        ),
        (set_first('annotations', segmentation=[[0, 0, 5, 5]]), 'at least 3 points'),
        (set_first('annotations', segmentation='x'), 'polygons or run lengths'),
    ],
)
def test_broken_annotations_are_named(folder, change, said):
    edit(folder, 'train', change)
    with pytest.raises(CocoFolderError, match=said):
        CocoFolder.open(folder)


def test_a_point_on_the_border_or_just_beyond_is_fine(folder):
    polygon = [[-0.5, 0, 64.5, 0, 64, 64]]
    edit(folder, 'train', set_first('annotations', segmentation=polygon))
    CocoFolder.open(folder)


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
    assert len(str(error.value).splitlines()) == 12


def test_the_image_itself_decides_on_its_size(folder):
    Image.new('RGB', (32, 32)).save(folder / 'train/000000.png')
    with pytest.raises(CocoFolderError, match='32x32, stated as 64x64'):
        CocoFolder.open(folder)
