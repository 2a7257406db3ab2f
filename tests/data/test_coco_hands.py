import contextlib
import io
import itertools
import json
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import tiny
from hpe_jax import evaluate, geometry, hand, metrics, preprocess, train, trained_model
from hpe_jax.data import prepared, sources
from hpe_jax.data.coco_hands import annotations, stream
from hpe_jax.data.freihand import folder as freihand_folder
from hpe_jax.errors import UserError
from hpe_jax.inference import outputs
from tests import drawn_coco, drawn_hands

ALL = 'train+validation+test'
EDGE = 56  # pixels around the crop that are stored


def config_of(folder, tmp_path, **fields):
    config = tiny.get_config()
    config.data.update(dataset='coco_hands', manual_dir=str(folder), data_dir=str(tmp_path / 'tfds'))
    config.data.update(fields)
    return config


def examples(config, split=ALL):
    """The stored features of a split."""
    source = prepared.open_dataset(config.data).as_data_source(split)
    return [source[i] for i in range(len(source))]


def middle(example) -> np.ndarray:
    """The crop, 224x224 pixels; what is stored shows what lies around it."""
    assert example['image'].shape == (336, 336, 3)
    return example['image'][EDGE:-EDGE, EDGE:-EDGE]


def in_original(example) -> np.ndarray:
    """Its keypoints in pixels of the photo."""
    crop = example['crop'].astype(float)
    x, y = (example['uv'].astype(float).T - EDGE) / 224
    x = 1 - x if example['handedness'] else x
    return crop[:2] + np.stack([x, y], -1) * (crop[2:] - crop[:2])


@pytest.fixture(scope='module')
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('coco')
    drawn_coco.write(folder)
    return folder


@pytest.mark.parametrize('dialect', drawn_coco.DIALECTS)
def test_every_dialect_gives_the_hands_that_were_drawn(dialect, tmp_path):
    hands = drawn_coco.write(tmp_path / 'hands', dialect)
    config = config_of(tmp_path / 'hands', tmp_path, joints='interhand' if dialect == 'interhand' else 'freihand')
    found = examples(config)
    assert len(found) == 40 and len({example['name'] for example in found}) == 40
    for example, one in zip(found, hands, strict=True):
        np.testing.assert_allclose(in_original(example), one.keypoints, atol=1e-3)
        assert annotations.HANDEDNESS[example['handedness']] == one.handedness
        assert example['labelled'].all() and not example['occluded'].any()
        crop = geometry.crop(np.asarray(one.image.convert('RGB')), example['crop'], 224)
        crop = crop[:, ::-1] if one.handedness == 'left' else crop
        assert np.abs(crop - middle(example).astype(float)).mean() < 6  # JPEG, of noise; and JPEG and WebP before
        side = example['crop'][2] - example['crop'][0]
        assert np.ptp(one.keypoints, axis=0).max() / side == pytest.approx(0.47, rel=1e-5)
    assert {one.handedness for one in hands} == ({'right'} if dialect == 'interhand' else {'right', 'left'})


@pytest.mark.slow
def test_augmentation_moves_what_lies_around_the_crop_into_it(plain, tmp_path):
    """From both sources; validation sees the crops alone."""
    found = {}
    for source in ('resident', 'tfdata'):
        config = config_of(plain, tmp_path, source=source, image_size=32, targets='device')
        config.augment.scale = 0.4
        config.data.update(train_split='train', validation_split='train')
        data = sources.open_data(config)
        (train,) = itertools.islice(data.train.epochs(0, 0, 1, 4), 1)
        validation = next(data.splits['validation'].once(4))
        assert train['image'].shape == (4, 48, 48, 3) and validation['image'].shape == (4, 32, 32, 3)
        assert np.abs(np.asarray(train['keypoints']) - 0.5).max() < 0.5
        found[source] = train['image'], validation['image']
        config.augment.scale = 0.0
        (still,) = itertools.islice(sources.open_data(config).train.epochs(0, 0, 1, 4), 1)
        crops = preprocess.crop_middle(train, 32)['image']  # at its edges the resize looks beyond the crop
        np.testing.assert_array_equal(still['image'][:, 1:-1, 1:-1], crops[:, 1:-1, 1:-1])
    jax.tree.map(np.testing.assert_array_equal, found['resident'], found['tfdata'])


def test_a_context_of_no_whole_pixels_is_refused(plain, tmp_path):
    with pytest.raises(UserError, match='config.data.context=1.3: a crop of 224 pixels would lie 33.6'):
        examples(config_of(plain, tmp_path, context=1.3))


def test_hands_of_one_image_are_in_one_split(tmp_path):
    drawn_coco.write(tmp_path, 'wholebody')
    images = [{one.image for one in hands} for hands in annotations.load(tmp_path).values()]
    assert sum(map(len, images)) == len(set.union(*images)) == 20


def as_coco(folder: Path, box) -> Path:
    """A FreiHAND folder's photos as COCO, with the boxes that `box` makes of keypoints."""
    part = freihand_folder.find(folder, 'training')
    keypoints = geometry.project(part.xyz, part.K)
    images = [{'id': i, 'file_name': str(path)} for i, path in enumerate(part.photos)]
    labels = [
        {'id': i, 'image_id': i, 'category_id': 1, 'bbox': box(k), 'keypoints': drawn_coco.points(k).tolist()}
        for i, k in enumerate(keypoints)
    ]
    (folder / 'hands.json').write_text(json.dumps(drawn_coco.coco(images, labels)))
    return folder / 'hands.json'


def test_the_same_hands_as_freihand_and_as_coco(tmp_path):
    folder = drawn_hands.write(tmp_path / 'hands', 13)
    config = tiny.get_config()
    config.data.update(manual_dir=str(folder), data_dir=str(tmp_path / 'tfds'))
    theirs = prepared.load(prepared.open_dataset(config.data), ALL)
    noise = 0.03 * np.random.default_rng(0).standard_normal(theirs.keypoints.shape)
    predicted = theirs.keypoints + np.float32(noise)

    def score(split, predicted, side=None):
        distance = metrics.distances(predicted, split.keypoints)
        return metrics.compute(distance, split.visible, geometry.box_side(split.keypoints, split.visible), side)

    expected = score(theirs, predicted, np.full(13, 224.0))
    whole = config_of(as_coco(folder, lambda _: [0, 0, 224, 224]), tmp_path, relative_hand_size=1.0)
    ours = prepared.load(prepared.open_dataset(whole.data), ALL)
    np.testing.assert_allclose(224 * ours.keypoints, 224 * theirs.keypoints, atol=1e-3)
    for name in metrics.NAMES:
        assert score(ours, predicted)[name] == pytest.approx(expected[name], rel=1e-4)

    cropped = config_of(as_coco(folder, drawn_coco.box), tmp_path)
    ours = prepared.load(prepared.open_dataset(cropped.data), ALL)
    again = ours.keypoints + np.float32(noise * 224) / ours.side[:, None, None]
    assert ours.xyz is None and theirs.side is None
    for name in ('nme_box', 'pck@0.2_box', 'epe_px_original'):
        assert score(ours, again, ours.side)[name] == pytest.approx(expected[name], rel=1e-4)


def edit(folder: Path, change) -> Path:
    """A copy of the plain JSON, beside its images, with its third annotation changed."""
    content = json.loads((folder / 'hands.json').read_text())
    annotation = content['annotations'][3]
    change(annotation, content)
    path = folder / 'edited' / 'edited.json'
    path.parent.mkdir(exist_ok=True)
    for image in content['images']:
        image['file_name'] = str(folder / image['file_name'])
    path.write_text(json.dumps(content))
    return path


def test_what_is_not_labelled_is_masked_and_what_is_occluded_is_kept(plain, tmp_path):
    def change(annotation, _):
        annotation['keypoints'][:3] = [0, 0, 0]
        annotation['keypoints'][3 * 5 + 2] = 1

    config = config_of(edit(plain, change), tmp_path)
    split = prepared.load(prepared.open_dataset(config.data), 'train')
    assert np.argwhere(~split.labelled).tolist() == [[3, 0]] and np.argwhere(split.occluded).tolist() == [[3, 5]]
    np.testing.assert_array_equal(split.visible, geometry.inside_frame(split.keypoints) & split.labelled)
    assert split.keypoints[3, 0].tolist() == [0.5, 0.5]
    source = prepared.open_dataset(config.data).info.features
    assert 'xyz' not in source and 'K' not in source and {'uv', 'sample_id', 'version'} <= set(source)


def set_keypoint(k, x, y, v):
    def change(annotation, _):
        annotation['keypoints'][3 * k : 3 * k + 3] = [x, y, v]

    return change


BAD = {
    'image_id': (lambda a, _: a.update(image_id=77), 'it is of image 77, which images does not list'),
    'missing': (lambda a, c: c['images'][3].update(file_name='none.png'), 'image .*none.png was found nowhere'),
    '17': (lambda a, _: a.update(keypoints=a['keypoints'][:51]), 'it has 17 keypoints .*; expected 21'),
    '22': (lambda a, _: a.update(keypoints=a['keypoints'] + [1, 2, 2]), 'it has 22 keypoints .*; expected 21'),
    'none': (lambda a, _: a.pop('keypoints'), 'it has 0 keypoints .*; expected 21'),
    'nan': (set_keypoint(4, float('nan'), 5, 2), r'its keypoint 4 is \[nan, 5.0, 2.0\]; expected finite'),
    'null': (set_keypoint(4, None, 5, 2), 'its keypoint 4 is .*nan'),
    'float32': (set_keypoint(4, 1e300, 5, 2), r'its keypoint 4 is \[inf, 5.0, 2.0\]; expected finite'),
    'text': (set_keypoint(4, 'left', 5, 2), 'its keypoints are not all numbers'),
    'numbers as text': (lambda a, _: a.update(keypoints=list(map(str, a['keypoints']))), 'are not all numbers'),
    'box as text': (lambda a, _: a.update(bbox=['3', '4', '9', '9']), 'its bbox are not all numbers'),
    'normalised': (lambda a, _: a.update(keypoints=[0.4, 0.5, 2] * 20 + [0.9, 0.1, 2]), 'less than a pixel apart'),
    'no list': (lambda a, _: a.update(righthand_kpts=5), 'it has 0.333333 keypoints .*; expected 21'),
    'half v': (set_keypoint(4, 1, 5, 1.5), r'its v are \[1.5, 2.0\]; expected 0'),
    'v': (set_keypoint(4, 1, 5, 3), r'its v are \[2.0, 3.0\]; expected 0'),
    'box': (lambda a, _: a.update(bbox=[3, 4, 0, 9]), r'its bbox \[3.0, 4.0, 0.0, 9.0\] has no area'),
    'endless box': (lambda a, _: a.update(bbox=[3, 4, 1e308, 1e308]), 'its bbox .* has no area, or no end'),
    'short box': (lambda a, _: a.update(bbox=[3, 4]), 'its bbox .* has no area'),
    'unlabelled': (lambda a, _: a.update(keypoints=[1, 2, 0] * 21), 'none of its 21 keypoints is labelled'),
    'duplicate': (lambda a, c: c['annotations'].insert(0, dict(a)), 'its id is there twice'),
    'handedness': (lambda a, _: a.update(handedness='both'), "its handedness is 'both'; expected right or left"),
    'order': (lambda a, c: c['categories'][0]['keypoints'].reverse(), "another order .* set it to 'names'"),
}


@pytest.mark.parametrize('what', BAD)
def test_a_bad_annotation_is_reported_in_one_sentence_with_file_and_id(plain, what):
    change, message = BAD[what]
    path = edit(plain, change)
    with pytest.raises(UserError, match=message) as error:
        annotations.load(path)
    number = 0 if what == 'order' else 3
    assert str(error.value).startswith(f'{path}: annotation {number}: ') and '\n' not in str(error.value)


@pytest.mark.parametrize('names', [0.5, 'wrist', {'a': 1}, [None], None])
def test_a_category_whose_keypoints_are_no_names_has_none(plain, names):
    path = edit(plain, lambda _, content: content['categories'][0].update(keypoints=names))
    assert annotations.load(path)
    with pytest.raises(UserError, match="config.data.joints='names' expects"):
        annotations.load(path, 'names')


def spoil(annotation, content):
    path = Path(__file__)  # no image
    content['images'][3]['file_name'] = str(path)


SPOILT = {
    'unreadable': (spoil, 'no picture that can be read'),
    'size': (lambda a, c: c['images'][3].update(width=240, height=320), r'is 320x240, upright; .*\(240, 320\)'),
    'far box': (lambda a, _: a.update(bbox=[400, 4, 9, 9]), 'lies outside the 320x240 of its image'),
    'elsewhere': (
        lambda a, _: a.update(keypoints=[4, 5, 2] * 20 + [9, 9, 2], bbox=[280, 200, 20, 20]),
        'far from its bbox; expected both in pixels',
    ),
}


@pytest.mark.parametrize('what', SPOILT)
def test_a_bad_image_is_reported_and_nothing_is_left_under_the_final_name(plain, tmp_path, what):
    change, message = SPOILT[what]
    path = edit(plain, change)
    with pytest.raises(UserError, match=message) as error:
        prepared.open_dataset(config_of(path, tmp_path).data)
    assert str(error.value).startswith(f'{path}: annotation 3: ') and '\n' not in str(error.value)
    assert not list(tmp_path.glob('tfds/**/1.1.0'))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('[1, 2]', "not COCO keypoint JSON .*found '\\['"),
        ('{"images": [{"id": 1}], "annotations": [', 'not COCO keypoint JSON'),
        ('{"images": [{"id": 1}], "annotations"', 'it ends too early'),
        ('{"images": [3]}', 'found an entry of images without an id'),
        ('{"images": [{"id": 1}, {"id": 1}]}', 'image 1: its id is there twice'),
        ('{"annotations": []}', 'labels no hand'),
    ],
)
def test_what_is_no_coco_json(tmp_path, content, message):
    (tmp_path / 'hands.json').write_text(content)
    with pytest.raises(UserError, match=message) as error:
        annotations.load(tmp_path)
    assert str(error.value).startswith(f'{tmp_path / "hands.json"}: ')


@pytest.mark.parametrize('name', ['keypoints', 'bbox'])
def test_numbers_and_nesting_beyond_measure(plain, tmp_path, name):
    (path,) = plain.glob('*.json')
    content = json.loads(path.read_text())
    content['annotations'][0][name] = [10**400] * len(content['annotations'][0][name])
    for text in (json.dumps(content), '{"images": ' + '[' * 100_000):
        (tmp_path / 'a.json').write_text(text)
        with pytest.raises(
            UserError, match=f'a.json: (annotation .*its {name} are not all numbers|not COCO keypoint JSON)'
        ):
            annotations.load(tmp_path / 'a.json')


def test_files_that_macos_adds_are_no_labels(tmp_path):
    for name in ('hands.json', '._hands.json'):
        (tmp_path / name).touch()
    assert annotations.json_files(tmp_path) == {'': tmp_path / 'hands.json'}


def test_folders_without_a_json_for_each_split(plain, tmp_path):
    with pytest.raises(UserError, match='absent: no such folder or JSON'):
        annotations.load(tmp_path / 'absent')
    with pytest.raises(UserError, match='holds no JSON: expected train.json'):
        annotations.load(tmp_path)
    for name in ('coco.json', 'predictions.json'):
        (tmp_path / name).write_text('{}')
    with pytest.raises(UserError, match='holds coco.json, predictions.json: expected'):
        annotations.load(tmp_path)
    with pytest.raises(UserError, match='set config.data.manual_dir to the folder'):
        prepared.open_dataset(config_of('', tmp_path).data)
    with pytest.raises(UserError, match='coco_hands has default'):
        prepared.open_dataset(config_of(plain, tmp_path, dataset='coco_hands/large').data)


def test_splits_that_share_an_image(plain, tmp_path):
    content = json.loads((plain / 'hands.json').read_text())
    for image in content['images']:
        image['file_name'] = str(plain / image['file_name'])
    for name, members in (('train', content['annotations'][:30]), ('val', content['annotations'][29:])):
        (tmp_path / f'{name}.json').write_text(json.dumps(content | {'annotations': members}))
    with pytest.raises(UserError, match=r'val.json: annotation 29: its image .*29.png is in train.json, too'):
        annotations.load(tmp_path)


def test_joints_by_their_names(plain):
    def change(_, content):
        content['categories'][0]['keypoints'] = list(hand.JOINTS[::-1])

    named = annotations.load(edit(plain, change), 'names')['train']
    as_they_are = annotations.load(plain)['train']
    np.testing.assert_array_equal(named[5].points, as_they_are[5].points[::-1])
    with pytest.raises(UserError, match="config.data.joints='names' expects"):
        annotations.load(edit(plain, lambda _, c: c['categories'][0].update(keypoints=['a'])), 'names')


def test_orders_of_other_sets():
    for name, order in hand.ORDERS.items():
        assert sorted(order) == list(range(21)), name
    assert [hand.ORDERS['rhd'][k] for k in (0, 1, 4, 5, 20)] == [0, 4, 1, 8, 17]
    assert [hand.ORDERS['interhand'][k] for k in (0, 1, 4, 5, 20)] == [20, 3, 0, 7, 16]


def test_options_give_another_prepared_copy(plain, tmp_path):
    paths = {
        prepared.open_dataset(config_of(plain, tmp_path, **fields).data).data_path
        for fields in ({}, {'relative_hand_size': 0.5}, {'handedness': 'left'})
    }
    assert len(paths) == 3
    small = config_of(plain, tmp_path, dataset='coco_hands/64px', context=1.25)
    assert examples(small, 'test')[0]['image'].shape == (80, 80, 3)


def test_handedness_is_the_configs_where_the_annotation_does_not_say(plain):
    path = edit(plain, lambda a, _: a.pop('handedness'))
    for handedness in ('left', 'right'):
        assert annotations.load(path, handedness=handedness)['train'][3].handedness == handedness


def test_images_are_found_by_the_last_parts_of_their_names(tmp_path):
    find = annotations._Finder(tmp_path)
    for name in ('a/x/1.png', 'b/x/1.png', 'b/2.png', 'images/3.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find('a\\x\\1.png') == str(tmp_path / 'a/x/1.png') and find('3.png') == str(tmp_path / 'images/3.png')
    assert find('2.png') == str(tmp_path / 'b/2.png') and find('x/1.png') is None and find('c/2.png') is None


def test_what_predict_writes_is_read(plain, tmp_path):
    one = drawn_coco.draw(1)
    entry = {'file': str(plain / '1.png'), 'frame': None, 'width': 320, 'height': 240, 'handedness': 'left'}
    entry |= {
        'keypoints': one.keypoints.tolist(),
        'scores': [0.9] * 21,
        'score': 0.9,
        'presence': 0.9,
        'model': 'm',
        'decoder': 'd',
    }
    x, y, width, height = drawn_coco.box(one.keypoints)
    path = outputs.write(tmp_path, 'coco', [entry | {'box': [x, y, x + width, y + height]}], [], {})
    found = sum(annotations.load(path).values(), [])
    np.testing.assert_allclose(found[0].keypoints, one.keypoints, rtol=1e-6)
    assert found[0].handedness == 'left'


@pytest.mark.parametrize('chunk', [1, 7, 1 << 20])
def test_entries_are_those_of_json_at_any_chunk(tmp_path, monkeypatch, chunk):
    content = {'info': {'a': [1, 2.5e3]}, 'images': [{'x': 'ä]}'}, 12, -3.25], 'none': [], 'n': 17, 'annotations': [[]]}
    (tmp_path / 'a.json').write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    monkeypatch.setattr(stream, 'CHUNK', chunk)
    expected = [(k, x) for k, v in content.items() for x in (v if isinstance(v, list) else [v])]
    assert list(stream.entries(tmp_path / 'a.json')) == expected


@pytest.mark.slow
def test_a_large_json_takes_less_than_twice_its_size_and_shows_its_progress(tmp_path, monkeypatch):
    (tmp_path / '1.png').touch()
    rng = np.random.default_rng(0)
    images = [{'id': i, 'file_name': '1.png', 'width': 640, 'height': 480, 'coco_url': 60 * 'x'} for i in range(2000)]
    annotation = {'category_id': 1, 'bbox': [1.25, 2.5, 30, 40], 'segmentation': [rng.random(60).tolist()]}
    labels = [
        annotation
        | {'id': i, 'image_id': i, 'keypoints': drawn_coco.points(640 * rng.random((21, 2))).ravel().tolist()}
        for i in range(2000)
    ]
    path = tmp_path / 'hands.json'
    path.write_text(json.dumps(drawn_coco.coco(images, labels)))
    shown = io.StringIO()
    monkeypatch.setattr(shown, 'isatty', lambda: True)
    tracemalloc.start()
    with contextlib.redirect_stderr(shown):
        hands = annotations.load(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(map(len, hands.values())) == 2000
    assert 'Reading hands.json: 100%' in shown.getvalue()
    assert peak < 2 * path.stat().st_size, f'{peak / path.stat().st_size:.2f} times its size'


@pytest.mark.slow
def test_trained_on_evaluated_and_analysed(plain, tmp_path):
    from experiments import analyze

    config = config_of(plain, tmp_path, source='resident')
    result = train.train_and_evaluate(config, tmp_path / 'run')
    assert result['num_images'] == 2 and np.isfinite(result['decoders']['window']['nme_box'])
    scores = evaluate.evaluate_run(tmp_path / 'run', ALL)['decoders']['window']
    assert scores['epe_px_original'] > 0 and 'epe_px_original' in evaluate.table(
        {'decoders': {'window': scores}, 'num_images': 40, 'loss': 1.0}, 'window'
    )
    run = trained_model.load(tmp_path / 'run')
    analysed, _ = analyze.analyse(run, ALL)
    assert analysed['decoders']['window']['nme_box'] == pytest.approx(scores['nme_box'], rel=1e-3)
    assert list(analysed['occlusion']) == ['hidden by anything', 'not hidden by anything']


@pytest.mark.slow
def test_real_photos_score_as_by_their_own_script(shared, tmp_path):
    """The shipped model on their crops, left hands mirrored; score.py takes its keypoints in the photos' pixels."""
    if not (trained_model.SHIPPED / 'checkpoints').exists():
        pytest.skip('needs the shipped model')
    folder = shared / 'real_dev'
    truth = json.loads((folder / 'annotations.json').read_text())
    images = [{'id': i, 'file_name': str(folder / one['file'])} for i, one in enumerate(truth)]
    labels = [
        {'id': i, 'image_id': i, 'category_id': 1, 'handedness': one['handedness']}
        | {'keypoints': drawn_coco.points(np.array(one['keypoints'])[:, :2]).tolist()}
        for i, one in enumerate(truth)
    ]
    (tmp_path / 'test.json').write_text(json.dumps(drawn_coco.coco(images, labels)))
    overrides = {'data.dataset': 'coco_hands', 'data.manual_dir': str(tmp_path / 'test.json')}
    run = trained_model.load(overrides=overrides | {'data.data_dir': str(tmp_path / 'tfds'), 'data.source': 'resident'})
    found = examples(run.config, ALL)
    predicted = run.predict([middle(example) for example in found]).keypoints
    # Each hand as a photo of its own: score.py would take the nearest answer to any hand of a photo.
    named = [one | {'file': f'{i}.jpg'} for i, one in enumerate(truth)]
    answers = {
        one['file']: in_original(example | {'uv': keypoints * 224 + EDGE}).tolist()
        for one, example, keypoints in zip(named, found, predicted, strict=True)
    }
    shutil.copy(folder / 'score.py', tmp_path)
    for file, content in (('annotations', named), ('answers', answers)):
        (tmp_path / f'{file}.json').write_text(json.dumps(content))
    command = [sys.executable, 'score.py', 'answers.json']
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    split = prepared.load(prepared.open_dataset(run.config.data), ALL)
    for name, group in (('FreiHAND evaluation', 'pseudo'), ('four other sets', None)):
        members = np.array([(one['labels'] == 'pseudo') == (group == 'pseudo') for one in truth])
        keypoints, mask = split.keypoints[members], split.visible[members]
        distance = metrics.distances(predicted[members], keypoints)
        scores = metrics.compute(distance, mask, geometry.box_side(keypoints, mask))
        line = next(line for line in printed.splitlines() if line.startswith(name))
        assert f'mean {scores["nme_box"]:.3f}' in line and f'PCK@.2 {scores["pck@0.2_box"] / 100:.3f}' in line


def test_an_image_replaced_by_another_of_the_same_size_is_another_set(tmp_path):
    drawn_coco.write(tmp_path, number=3)
    before = annotations.fingerprint(tmp_path)
    assert annotations.fingerprint(tmp_path) == before
    image = next(tmp_path.glob('**/*.png'))
    image.write_bytes(image.read_bytes()[:-1] + b'\0')
    assert annotations.fingerprint(tmp_path) != before
