"""What is written reads back, in every format; a journal gives a later run what is finished."""

import csv
import json
import os

import numpy as np
import pytest

from hpe_jax import hand
from hpe_jax.errors import UserError
from hpe_jax.inference import outputs


def entry(file: str, frame: int | None = None, shift: float = 0.0) -> dict:
    keypoints = np.random.default_rng(0).random((21, 2)) * 100 + shift
    return {
        'file': file,
        'frame': frame,
        'time': None if frame is None else frame / 30,
        'width': 640,
        'height': 480,
        'keypoints': keypoints.tolist(),
        'scores': np.linspace(0, 1, 21).tolist(),
        'score': 0.5,
        'box': [*keypoints.min(0).tolist(), *keypoints.max(0).tolist()],
        'handedness': 'left',
        'presence': 0.9,
        'model': 'runs/a, epoch 3',
        'decoder': 'window',
    }


ENTRIES = [entry('a.jpg'), entry('a.jpg', shift=7.0), entry('v, 1.mp4', 0), entry('v, 1.mp4', 1)]
ERRORS = [{'file': 'b.jpg', 'error': 'b.jpg: cannot be read: "so"'}]


def test_json_is_the_entries_one_a_line(tmp_path):
    path = outputs.write(tmp_path, 'json', ENTRIES, ERRORS, {'model': 'm', 'joints': hand.JOINTS})
    content = json.loads(path.read_text())
    assert content['predictions'] == ENTRIES and content['errors'] == ERRORS and content['model'] == 'm'
    assert sum(line.startswith('    {"file"') for line in path.read_text().splitlines()) == len(ENTRIES)
    assert json.loads(outputs.write(tmp_path, 'json', [], [], {'model': 'm'}).read_text())['predictions'] == []


def test_csv_has_a_row_an_entry_and_a_row_an_error(tmp_path):
    path = outputs.write(tmp_path, 'csv', ENTRIES, ERRORS, {})
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == len(ENTRIES) + 1 and rows[-1]['error'] == ERRORS[0]['error'] and rows[-1]['wrist_x'] == ''
    for row, one in zip(rows, ENTRIES, strict=False):
        assert row['file'] == one['file'] and row['frame'] == ('' if one['frame'] is None else str(one['frame']))
        points = [[float(row[f'{joint}_{axis}']) for axis in 'xy'] for joint in hand.JOINTS]
        assert points == one['keypoints'] and float(row['little_tip_score']) == 1.0 and row['presence'] == '0.9'
        assert [float(row[name]) for name in outputs.BOX] == one['box'] and row['error'] == ''


def test_coco_is_cocos(tmp_path):
    content = json.loads(outputs.write(tmp_path, 'coco', ENTRIES, ERRORS, {'model': 'm'}).read_text())
    assert [(image['id'], image['file_name']) for image in content['images']] == [
        (1, 'a.jpg'),
        (2, 'v, 1.mp4'),
        (3, 'v, 1.mp4'),
    ]
    assert [one['image_id'] for one in content['annotations']] == [1, 1, 2, 3]
    one = content['annotations'][1]
    np.testing.assert_array_equal(np.reshape(one['keypoints'], (21, 3))[:, :2], ENTRIES[1]['keypoints'])
    x, y, width, height = one['bbox']
    np.testing.assert_allclose([x, y, x + width, y + height], ENTRIES[1]['box'])
    assert one['area'] == pytest.approx(width * height) and one['num_keypoints'] == 21
    category = content['categories'][0]
    assert (
        category['keypoints'] == list(hand.JOINTS)
        and [1, 2] in category['skeleton']
        and [20, 21] in category['skeleton']
    )
    assert len(category['skeleton']) == 20 and content['errors'] == ERRORS


@pytest.mark.parametrize('form', outputs.FORMATS)
def test_an_output_is_boxes(tmp_path, form):
    boxes = outputs.read_boxes(outputs.write(tmp_path, form, ENTRIES, ERRORS, {}))
    assert {file: set(frames) for file, frames in boxes.items()} == {'a.jpg': {None}, 'v, 1.mp4': {0, 1}}
    found = [*boxes['a.jpg'][None], *boxes['v, 1.mp4'][0], *boxes['v, 1.mp4'][1]]
    np.testing.assert_allclose(found, [one['box'] for one in ENTRIES], rtol=1e-12)


def test_names_that_are_not_utf8_survive(tmp_path):
    name = os.fsdecode(b'caf\xe9.jpg')
    for form in outputs.FORMATS:
        written = outputs.write(tmp_path, form, [entry(name)], [{'file': name, 'error': f'{name}: so'}], {})
        assert list(outputs.read_boxes(written)) == [name]
    assert b'caf\xe9.jpg' in (tmp_path / 'predictions.csv').read_bytes()


@pytest.mark.parametrize(
    'content', [{'a.jpg': [1, 2, 3, 4]}, {'a.jpg': [[1, 2, 3, 4]]}, [{'file': 'a.jpg', 'box': [1, 2, 3, 4]}]]
)
def test_boxes_by_hand(tmp_path, content):
    (tmp_path / 'boxes.json').write_text(json.dumps(content))
    assert outputs.read_boxes(tmp_path / 'boxes.json') == {'a.jpg': {None: [[1, 2, 3, 4]]}}


@pytest.mark.parametrize('none', [[], None, [[]]])
def test_a_file_may_have_no_box(tmp_path, none):
    (tmp_path / 'boxes.json').write_text(json.dumps({'a.jpg': [[1, 2, 3, 4, 0.9]], 'b.jpg': none}))
    assert outputs.read_boxes(tmp_path / 'boxes.json') == {'a.jpg': {None: [[1, 2, 3, 4]]}, 'b.jpg': {None: []}}


@pytest.mark.parametrize(
    'content',
    [
        'no json',
        '3',
        '{"predictions": 0.5}',
        '{"a.jpg": 3}',
        '[{"file": "a.jpg"}]',
        '[[1]]',
        '[' * 100_000,
        '[{"image_id": 1, "bbox": [1]}]',
    ]
    + ['[{"file": 3, "box": [1, 2, 3, 4]}]', '{"a\\u0000.jpg": [1, 2, 3, 4]}', '{"a.jpg": {"b": 3}}']
    + ['[{"file": "a.jpg", "frame": 1e400, "box": [1, 2, 3, 4]}]']
    + ['{"annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}], "images": []}'],
)
def test_what_are_no_boxes_is_told(tmp_path, content):
    (tmp_path / 'boxes.json').write_text(content)
    with pytest.raises(UserError, match=r'boxes\.json: no list of boxes .*it takes JSON such as'):
        outputs.read_boxes(tmp_path / 'boxes.json')
    with pytest.raises(UserError, match='absent.json: cannot be read: No such file'):
        outputs.read_boxes(tmp_path / 'absent.json')
    with pytest.raises(UserError, match='cannot be read: Is a directory'):
        outputs.read_boxes(tmp_path)
    (tmp_path / 'long.csv').write_text('file\n' + 'x' * 200_000)
    with pytest.raises(UserError, match=r'long\.csv: no list of boxes'):
        outputs.read_boxes(tmp_path / 'long.csv')


def test_a_journal_gives_what_was_finished_and_no_more(tmp_path):
    settings = {'model': 'm', 'refine': 1}
    journal = outputs.Journal(tmp_path, settings)
    journal.add(ENTRIES[0])
    journal.add(ENTRIES[1])
    journal.finish('a.jpg', 'so')
    journal.add(ENTRIES[2])
    journal.close(remove=False)
    path = tmp_path / 'predictions.partial.jsonl'
    path.write_text(path.read_text() + '{"file": "v, 1.mp4", "fra')  # killed in the middle of a line
    for _ in range(2):  # a run that did nothing leaves the same
        again = outputs.Journal(tmp_path, settings)
        assert dict(again.entries) == {'a.jpg': ENTRIES[:2]} and again.finished == {'a.jpg': 'so'}
        again.close(remove=False)
    other = outputs.Journal(tmp_path, settings | {'refine': 2})
    assert not other.entries and not other.finished
    other.close(remove=True)
    assert not path.exists()
