import numpy as np
from PIL import Image

from experiments import fine_tuning
from hpe_jax.data.coco_hands import annotations


def test_a_glove_covers_the_mask_alone_and_is_of_one_hue():
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (20, 20, 3), np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    found = fine_tuning.in_glove(image, mask, rng)
    np.testing.assert_array_equal(found[~mask], image[~mask])
    ratios = found[mask] / found[mask].max(1, keepdims=True)
    assert np.ptp(ratios, axis=0).max() < 0.1 and ratios.min() < 0.3
    assert np.corrcoef(image[mask].sum(1), found[mask].sum(1))[0, 1] > 0.5  # light and dark stay


def test_the_json_it_writes_is_read(tmp_path):
    keypoints = 50 + 100 * np.random.default_rng(0).random((3, 21, 2))
    for i in (4, 5, 6):
        Image.new('RGB', (224, 224)).save(tmp_path / f'{i}.png')
    fine_tuning.write_coco(tmp_path / 'a/train.json', tmp_path, keypoints, 4)
    hands = annotations.load(tmp_path / 'a')['train']
    np.testing.assert_allclose([one.keypoints for one in hands], keypoints, rtol=1e-6)
    assert [one.image for one in hands] == [str(tmp_path / f'{i}.png') for i in (4, 5, 6)]


def test_the_table_has_a_row_for_each_number_of_crops():
    scores = {'none': {'nme_box': 0.2, 'pck@0.2_box': 66.6, 'error_pct': 8.0}}
    assert fine_tuning.table(scores).splitlines()[-1] == '| none | 0.200 | 66.6 | 8.00 |'
