"""Which files are taken, and which boxes are whose."""

import json
from pathlib import Path

import pytest

from hpe_jax.errors import UserError
from hpe_jax.inference import inputs

A, B = [1, 2, 30, 40], [5, 6, 70, 80]


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """Two files of one name in two folders, given as they are seen from `work`."""
    for folder in ('data/train', 'data/val', 'work'):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ('train', 'val'):
        (tmp_path / f'data/{folder}/1.jpg').touch()
    monkeypatch.chdir(tmp_path / 'work')
    return tmp_path


def boxes(path: Path, content, files: list[str]) -> inputs.Boxes:
    path.write_text(json.dumps(content))
    return inputs.Boxes(str(path), files)


FILES = ['../data/train/1.jpg', '../data/val/1.jpg']


def test_boxes_are_matched_by_path_from_their_folder_and_from_the_working_directory(folders):
    content = {'train/1.jpg': A, '../data/val/1.jpg': B}
    found = boxes(folders / 'data/boxes.json', content, FILES)
    assert [found(file) for file in FILES] == [[A], [B]] and found.unmatched == []
    one = boxes(folders / 'data/boxes.json', {'train/1.jpg': A, 'test/1.jpg': B}, FILES)
    assert [one(file) for file in FILES] == [[A], [None]] and one.unmatched == ['test/1.jpg']


def test_boxes_are_matched_by_an_unambiguous_end_of_the_path(folders):
    found = boxes(folders / 'work/boxes.json', {'/elsewhere/data/train/1.jpg': A, 'val/1.jpg': B}, FILES)
    assert [found(file) for file in FILES] == [[A], [B]]
    assert boxes(folders / 'work/boxes.json', {'1.jpg': A}, FILES[:1])(FILES[0]) == [A]


def test_boxes_of_another_file_of_the_same_name_are_not_taken(folders):
    """It lies beside the boxes; or its folder's folder has another name."""
    (folders / 'work/1.jpg').touch()
    for key in ('1.jpg', 'sets/train/1.jpg'):
        found = boxes(folders / 'work/boxes.json', {key: A, 'data/val/1.jpg': B}, FILES)
        assert [found(file) for file in FILES] == [[None], [B]] and found.unmatched == [key]


@pytest.mark.parametrize(
    ('content', 'files', 'message'),
    [
        ({'1.jpg': A}, FILES, r'1.jpg may be \.\./data/train/1.jpg or \.\./data/val/1.jpg; give more of its path'),
        (
            {'/x/train/1.jpg': A, '/y/train/1.jpg': B},
            FILES,
            'train/1.jpg may be /x/train/1.jpg or /y/train/1.jpg; give it',
        ),
        ({'test/1.jpg': A}, FILES[:1], 'none of its files is an input'),
        ({'train/1.jpg': [3, 3, 1, 1]}, FILES, 'must be four numbers x0, y0, x1, y1'),
        ({'train/1.jpg': [3, 3, 10**400, 1]}, FILES, 'must be four numbers x0, y0, x1, y1'),
    ],
)
def test_boxes_in_doubt_are_refused(folders, content, files, message):
    with pytest.raises(UserError, match=message):
        boxes(folders / 'work/boxes.json', content, files)


def test_wrong_boxes_of_other_files_and_files_without_a_box_do_not_matter(folders):
    content = {'train/1.jpg': A, 'val/1.jpg': [], 'zz.jpg': [9, 9, 1, 1]}
    found = boxes(folders / 'data/boxes.json', content, FILES)
    assert [found(file) for file in FILES] == [[A], [None]] and found.unmatched == ['zz.jpg']


def test_boxes_of_frames(folders):
    content = [{'file': 'train/1.jpg', 'frame': 1, 'box': A}, {'file': 'train/1.jpg', 'box': B}]
    found = boxes(folders / 'data/boxes.json', content, FILES)
    assert [found(FILES[0], frame) for frame in (0, 1, 2)] == [[B], [A], [None]]


def test_the_shared_cases(shared, monkeypatch):
    cases = shared / 'cases'
    if not cases.is_dir():
        pytest.skip('needs the small failing inputs beside the checkout (../shared/cases)')
    monkeypatch.chdir(cases)
    for name in ('own_coco', 'score', 'empty', 'null', 'other_bad'):
        assert inputs.Boxes(f'04_boxes/{name}.json', ['04_boxes/a.jpg', '04_boxes/b.jpg'])('04_boxes/a.jpg') != [None]
    files = ['03_same_name/train/0001.jpg', '03_same_name/val/0001.jpg']
    found = inputs.Boxes('03_same_name/boxes.json', files)
    assert [found(file) for file in files] == [[[20, 20, 120, 120]], [[300, 300, 440, 440]]]
    assert inputs.Boxes('03_same_name/one.json', files)(files[1]) == [None]
