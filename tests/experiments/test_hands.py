"""The score of the hands model on photos, by a made-up estimator."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from experiments import hands
from hpe_jax import checkpoint, trained_model
from hpe_jax.data.synthetic_hands import generate
from hpe_jax.errors import UserError
from hpe_jax.inference.estimator import HandPoseEstimator


@pytest.fixture
def photos(tmp_path):
    """Three photos: a right hand with pseudo-labels, a left one and one of unknown side without; boxes are 10 x 20."""
    keypoints = np.random.default_rng(0).uniform(0, 1, (21, 2)) * [10, 20]
    keypoints[:2] = [0, 0], [10, 20]
    annotations = []
    for i, (side, labels) in enumerate((('right', 'pseudo'), ('left', 'given'), (None, 'given'))):
        Image.new('RGB', (40, 30), (i, 0, 0)).save(tmp_path / f'{i}.png')
        points = (keypoints + i).tolist()
        annotations.append({'file': f'{i}.png', 'keypoints': points, 'handedness': side, 'labels': labels})
    (tmp_path / 'annotations.json').write_text(json.dumps(annotations))
    return hands.Photos.read(tmp_path)


def test_photos_are_predicted_as_of_their_side_in_the_crops_of_their_boxes(photos):
    asked = {}

    class Estimator(SimpleNamespace):
        def predict(self, images, boxes):
            for image, box in zip(images, boxes, strict=True):
                asked[int(image[0, 0, 0])] = self.hand, box
            return [SimpleNamespace(keypoints=photos.keypoints[int(image[0, 0, 0])] + [2, 0]) for image in images]

    estimator = Estimator()
    found = photos.predict(estimator)
    assert estimator.relative_hand_size == hands.CROP
    assert asked == {i: (side, [i, i, i + 10, i + 20]) for i, side in enumerate(('right', 'left', 'right'))}
    np.testing.assert_array_equal(found, photos.keypoints + [2, 0])
    scores = photos.scores(found)  # 2 pixels of the longer side's 20
    assert {group: values['hands'] for group, values in scores.items()} == {'freihand_like': 1, 'other_sets': 2}
    for values in scores.values():
        assert values['nme_box'] == values['median'] == pytest.approx(0.1)
        assert values['pck@0.2_box'] == 1


def test_handedness_is_scored_on_photos_and_their_mirror_images(photos):
    """An estimator that takes all hands for right ones: no better than a guess, however many right hands there are."""
    asked = []

    class Estimator:
        def predict(self, images, boxes):
            asked.append((images, boxes))
            return [SimpleNamespace(handedness='right')] * len(images)

    assert hands.score_handedness(Estimator(), photos) == 0.5
    (images, boxes), (mirrored, mirrored_boxes) = asked
    assert len(images) == 2  # the third photo's side is unknown
    np.testing.assert_array_equal(mirrored, np.flip(images, 2))
    for (x0, y0, x1, y1), box in zip(boxes, mirrored_boxes, strict=True):
        assert box == [40 - x1, y0, 40 - x0, y1]


def test_images_without_a_hand_in_which_one_is_found_are_counted(photos, tmp_path):
    class Estimator:
        def detect(self, images):
            return [['hand', 'hand'] if image.max() > 1 else [] for image in images]

    (tmp_path / 'annotations.json').unlink()
    assert hands.score_others(Estimator(), tmp_path) == {'images': 3, 'with_a_hand_found': 0.3333}
    with pytest.raises(UserError, match='absent: it holds no files; expected a folder of images without a hand'):
        hands.score_others(Estimator(), tmp_path / 'absent')


def test_errors_are_over_the_longer_side_and_masked_ones_do_not_count():
    true = np.array([[[0.0, 0.0], [3.0, 4.0]]])
    distance = hands.errors(true + [0, 1], true, np.array([[True, False]]))
    assert distance[0, 0] == 0.25 and np.isnan(distance[0, 1])
    assert hands.summary(distance) == {
        'hands': 1,
        'nme_box': 0.25,
        'median': 0.25,
        'pck@0.1_box': 0.0,
        'pck@0.2_box': 0.0,
    }


def test_a_folder_without_labels_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match='annotations.json cannot be read .*; expected the labels of the photos'):
        hands.Photos.read(tmp_path)


@pytest.mark.slow
def test_a_grown_network_gives_the_same_answers_and_trains_on(tmp_path):
    small = trained_model.load()
    grown = trained_model.load(hands.grow(trained_model.SHIPPED, tmp_path / 'grown', (2, 5, 2)))
    assert list(grown.config.model.blocks) == [2, 5, 2] and len(grown.model.down[1]) == len(small.model.down[1]) + 1
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    np.testing.assert_allclose(grown.predict(images).heatmaps, small.predict(images).heatmaps, rtol=3e-5)
    part = jax.numpy.asarray(images[:, :32, :32])
    gradient = nnx.jit(nnx.grad(lambda model: model.logits(part)['heatmaps'].sum()))
    gradients = gradient(nnx.merge(*nnx.split(grown.model)))
    assert np.abs(gradients['down'][1][5]['norm']['scale'][...]).max() > 0


@pytest.mark.slow
def test_crops_are_compared_on_the_same_renders(renders, monkeypatch):
    """A hand that takes little of its crop has lost its detail; and the sizes are those that were asked for."""
    drawn = SimpleNamespace(image=renders.image[: generate.CHUNK], uv=renders.uv[: generate.CHUNK])
    monkeypatch.setattr(generate, 'renderer', lambda preset, seed: lambda numbers: drawn)
    monkeypatch.setattr(hands, 'SIZES', (0.15, 0.6))
    small, usual = hands.score_crops(trained_model.load(), generate.CHUNK).values()
    assert small['hands'] == usual['hands'] == generate.CHUNK
    assert usual['nme_box'] < 0.1 and small['nme_box'] > 1.5 * usual['nme_box']
    assert 0.7 < usual['handedness_right'] <= 1


def test_what_is_shipped_computes_in_float32_and_crops_as_told(tmp_path):
    source = trained_model.load()
    source.config.precision, source.config.init_from = 'bfloat16', 'runs/before'
    run = hands.write(source, source.model, tmp_path / 'run')
    shipped = trained_model.load(hands.ship(run, tmp_path / 'shipped', relative_hand_size=0.7))
    config = shipped.config
    assert (config.precision, config.init_from, config.data.data_dir) == ('float32', '', hands.DATA_DIR)
    assert HandPoseEstimator(shipped).relative_hand_size == 0.7
    unchanged = trained_model.load(hands.ship(run, tmp_path / 'unchanged'))
    assert HandPoseEstimator(unchanged).relative_hand_size == source.meta['relative_hand_size']
    for name, array in checkpoint.leaves(source.model).items():
        np.testing.assert_array_equal(checkpoint.leaves(shipped.model)[name], array)


def test_a_network_does_not_grow_backwards(tmp_path):
    with pytest.raises(UserError, match='blocks .2, 1, 2.: too few, since .* has down.1.2'):
        hands.grow(trained_model.SHIPPED, tmp_path / 'grown', (2, 1, 2))
    with pytest.raises(UserError, match='must be 3 whole numbers of residual blocks'):
        hands.grow(trained_model.SHIPPED, tmp_path / 'grown', (1, 3))
