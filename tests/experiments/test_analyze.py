"""Where runs err: the numbers by hand-worked arrays, the page as a browser would read it, the notebook."""

import base64
import io
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import analyze
from experiments.analyze import __main__ as analyze_main
from experiments.analyze import numbers as analysis
from hpe_jax import hand, heatmap, trained_model
from hpe_jax.data import prepared
from hpe_jax.errors import UserError
from tests import minimal

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = "runpy.run_module('experiments.analyze', run_name='__main__')"


def test_a_group_counts_and_averages():
    group = analysis.group(np.array([0.01, 0.02, 0.06]), np.array([0.5, 0.7, 0.9]))
    expected = {'count': 3, 'error_pct': 3, 'median_error_pct': 2, 'within_5_pct': 200 / 3, 'peak': 0.7}
    assert group == pytest.approx(expected)


def test_intervals_are_half_open_and_the_last_one_is_closed():
    values, error = np.array([0.0, 0.1, 0.19, 1.0]), np.array([0.1, 0.2, 0.4, 0.5])
    bins = analysis.binned(values, np.array([0, 0.1, 0.2, 0.9, 1.0]), error)
    assert [(b['from'], b['to'], b['count']) for b in bins] == [(0, 0.1, 1), (0.1, 0.2, 2), (0.9, 1.0, 1)]
    assert [b['error_pct'] for b in bins] == pytest.approx([10, 30, 50])


def test_a_photos_error_is_over_its_keypoints_in_the_frame():
    error = np.full((3, 21), 0.5)
    error[0, :2] = [0.1, 0.3]
    visible = np.zeros((3, 21), bool)
    visible[0, :2] = visible[1] = True
    np.testing.assert_allclose(analysis.photo_errors(error, visible), [0.2, 0.5, np.nan])


def test_an_error_of_one_finger_is_that_fingers():
    error, visible = np.zeros((2, 21)), np.ones((2, 21), bool)
    error[:, list(hand.FINGERS['ring'])] = 0.08
    error[1, hand.FINGERS['thumb'][0]], visible[1, hand.FINGERS['thumb'][0]] = 9, False
    found = analysis.per_finger(error, visible)
    assert {name: g['error_pct'] for name, g in found.items()} == pytest.approx(
        {'wrist': 0, 'thumb': 0, 'index': 0, 'middle': 0, 'ring': 8, 'little': 0}
    )
    assert found['thumb']['count'] == 7 and found['wrist']['count'] == 2


def flat_hand() -> np.ndarray:
    """A flat spread hand at half a metre, facing the camera: (21, 3) metres."""
    xyz = np.zeros((21, 3))
    for angle, joints in zip(np.deg2rad([-50, -25, 0, 25, 50]), hand.FINGERS.values(), strict=True):
        for distance, joint in zip((0.08, 0.12, 0.145, 0.17), joints, strict=True):
            xyz[joint, :2] = distance * np.sin(angle), -distance * np.cos(angle)
    return xyz + [0, 0, 0.5]


def test_a_fingertip_behind_the_palm_is_hidden_and_one_before_it_is_not():
    behind, before = flat_hand(), flat_hand()
    behind[8], before[8] = [0.0, -0.05, 0.56], [0.0, -0.05, 0.44]
    hidden = analysis.self_occluded(np.stack([behind, before, flat_hand()]).astype(np.float32))
    assert np.flatnonzero(hidden[0]).tolist() == [8]
    assert not hidden[1, 8] and not hidden[2].any()
    mirrored = analysis.self_occluded(np.float32(behind[None] * [-1, 1, 1]))
    np.testing.assert_array_equal(mirrored[0], hidden[0])


def test_labels_without_depth_tell_nothing_of_occlusion():
    assert analysis.self_occluded(np.float32(flat_hand()[None])) is None
    assert analysis.self_occluded(np.zeros((0, 21, 3), np.float32)) is None


def test_calibration_is_the_gap_between_peak_and_share_of_right_keypoints():
    peak = np.array([0.25] * 4 + [0.85] * 4)
    error = np.array([0.01, 0.2, 0.2, 0.2] + [0.01] * 4)  # a quarter of the first are right, all of the second
    found = analysis.calibration(error, peak)
    assert [b['count'] for b in found['bins']] == [4, 4]
    assert found['ece'] == pytest.approx(0.5 * 0 + 0.5 * 0.15)
    assert analysis.calibration(np.arange(5) / 10, -np.arange(5) / 10 + 1)['rank_correlation'] == pytest.approx(-1)


def test_the_breakdown_of_known_errors():
    rng = np.random.default_rng(0)
    true = rng.uniform(0.3, 0.6, (4, 21, 2)).astype(np.float32)
    true[:, 0], true[:, 1] = 0.25, 0.7  # the box is .45
    shift = np.float32([0.01, 0.02, 0.03, 0.3])[:, None, None] * np.float32([1, 0])
    visible = np.ones((4, 21), bool)
    visible[1, 5:] = visible[3] = False
    xyz = rng.uniform(0.4, 0.6, (4, 21, 3)).astype(np.float32)
    found = analysis.breakdown(
        true, true + shift, visible, np.full((4, 21), 0.5, np.float32), xyz, np.array(list('abcd'))
    )
    assert [photo['error_pct'] for photo in found['photos'][:3]] == pytest.approx([1, 2, 3], abs=1e-4)
    assert np.isnan(found['photos'][3]['error_pct'])
    assert [photo['in_frame'] for photo in found['photos']] == [21, 5, 21, 0]
    assert found['hand_size'][0]['from'] == pytest.approx(0.4) and found['hand_size'][0]['count'] == 3
    frames = found['visibility']['photos by keypoints in the frame']
    assert {name: g['count'] for name, g in frames.items()} == {'all 21': 2, '1 to 15': 1}
    assert found['visibility']['keypoints']['in the frame']['count'] == 47
    assert sum(found['histogram']['keypoints']) == 47 and found['histogram']['edges_pct'][-1] is None
    assert sum(g['count'] for g in found['occlusion'].values()) == 47
    occluded = np.arange(84).reshape(4, 21) % 21 < 3
    told = analysis.breakdown(true, true + shift, visible, xyz[..., 0], xyz, np.array(list('abcd')), occluded)
    assert {k: g['count'] for k, g in told['occlusion'].items()} == {
        'hidden by anything': 9,
        'not hidden by anything': 38,
    }
    assert told['occlusion']['hidden by anything']['error_pct'] == pytest.approx(2, abs=1e-4)


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, html: str):
        super().__init__()
        self.images, self.headings, self.loads, self.text, self._tag = [], [], [], '', ''
        self.viewport = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs, self._tag = dict(attrs), tag
        self.viewport |= attrs.get('name') == 'viewport' and 'width=device-width' in attrs['content']
        self.loads += [value for name, value in attrs.items() if name in ('src', 'href', 'data', 'srcset')]
        if tag == 'img':
            self.images.append(attrs)

    def handle_data(self, data):
        self.text += data
        if self._tag in ('h2', 'h3'):
            self.headings.append(data)


@pytest.fixture(scope='module')
def report(tiny_run, tmp_path_factory):
    """Two runs analysed from the command line, with nothing but the dependencies; the second on other photos."""
    folder = tmp_path_factory.mktemp('analysis')
    other = folder / 'other'
    other.mkdir()
    (other / 'checkpoints').symlink_to(tiny_run / 'checkpoints')
    config = json.loads((tiny_run / 'config.json').read_text())
    config['data']['test_split'] = 'train[:2]'
    config['eval']['decoders'] = {'window': {'radius': 4.5}, 'mean': {}}
    (other / 'config.json').write_text(json.dumps(config))
    command = minimal.command(SCRIPT, tiny_run, other, f'--output={folder / "out"}')
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / 'out', tiny_run.name, done.stdout


def test_the_page_stands_alone_and_no_picture_is_broken(report):
    folder, name, _ = report
    html = (folder / 'report.html').read_text()
    page = Page(html)
    assert page.viewport and len(html) < 5e6
    assert all(address.startswith('data:image/webp;base64,') for address in page.loads) and 'url(' not in html
    assert len(page.images) >= 15
    for image in page.images:
        decoded = Image.open(io.BytesIO(base64.b64decode(image['src'].partition(',')[2])))
        assert np.asarray(decoded).std() > 5 and image['alt']
    for topic in ('Decoders', 'PCK', 'histogram', 'Joints', 'Hand size', 'Occlusion', 'Visibility', 'Calibration'):
        assert any(topic in heading for heading in page.headings), topic
    assert f'{name}: the worst, 1 of 1 photos' in page.headings
    assert 'other: the worst, 2 of 2 photos' in page.headings


def test_the_page_says_the_numbers_of_the_json_and_which_data_they_are_of(report):
    folder, name, printed = report
    text = Page((folder / 'report.html').read_text()).text
    for run, split, number in ((name, 'test', 1), ('other', 'train[:2]', 2)):
        result = json.loads((folder / f'{run}.json').read_text())
        assert result['num_images'] == number == len(result['photos'])
        assert f'{number} photos of freihand/raw {split}' in text
        assert f'{result["decoders"]["window"]["error_pct"]:.2f}' in text
        assert result['codecs'].keys() == set(heatmap.CODECS)
        for codec in heatmap.CODECS:
            assert result['codecs'][codec].keys() == set(result['config']['eval']['decoders'])
        assert result['codecs']['subpixel']['mean']['error_pct'] == result['decoders']['mean']['error_pct']
        assert result['command'] and result['device'] and 'git_commit' in result
        assert (
            f'| {run} | freihand/raw {split} | {number} | window | {result["decoders"]["window"]["error_pct"]:.3f}'
            in printed
        )
    assert 'scored on different photos' in text and 'scored on different photos' in printed
    assert sorted(path.name for path in folder.iterdir()) == sorted([f'{name}.json', 'other.json', 'report.html'])


def test_a_photos_numbers_are_those_of_its_prediction(report, tiny_run):
    folder, *_ = report
    run = trained_model.load(tiny_run)
    photos = prepared.load(prepared.open_dataset(run.config.data), 'train[:2]')
    keypoints, _, peaks = run.predict([photos.image(i) for i in range(len(photos))])
    error = np.linalg.norm(keypoints - photos.keypoints, axis=-1)
    kept = json.loads((folder / 'other.json').read_text())['photos']
    assert [photo['name'] for photo in kept] == ['0 gs', '1 gs'] == photos.names.tolist()
    for i, photo in enumerate(kept):
        assert photo['error_pct'] == pytest.approx(100 * error[i][photos.visible[i]].mean(), abs=1e-3)
        assert photo['peak'] == pytest.approx(peaks[i].mean(), abs=1e-5)


def test_the_worst_photos_come_first_and_the_best_last():
    numbers = [{'error_pct': float(e), 'in_frame': 21} for e in np.random.default_rng(0).permutation(40)]
    numbers[7] |= {'error_pct': float('nan'), 'in_frame': 0}
    order = analyze.ranking(numbers)
    worst, best = ([numbers[i]['error_pct'] for i in which] for which in order)
    expected = sorted(n['error_pct'] for n in numbers if n['in_frame'])
    assert worst == expected[::-1][:24] and best == expected[:8]
    assert [list(which) for which in analyze.ranking(numbers[:1])] == [[0], [0]]


@pytest.mark.parametrize('split', ['test[:0]', 'validation[:0]'])
def test_a_split_without_photos(tiny_run, split):
    with pytest.raises(UserError, match='holds no photos'):
        analyze.analyse(trained_model.load(tiny_run), split)


def test_names_of_runs():
    assert list(analyze_main.names_of(['runs/a', 'runs/b/'])) == ['a', 'b']
    assert list(analyze_main.names_of(['x/a', 'y/a', 'b'])) == ['x-a', 'y-a', 'b']
    with pytest.raises(UserError, match='same name'):
        analyze_main.names_of(['runs/a', 'runs/../runs/a'])


def test_the_notebook_runs_as_it_lies_there(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'path', sys.path.copy())
    notebook = json.loads((ROOT / 'experiments/analyze/analyze.ipynb').read_text())
    cells = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    assert cells[0]['metadata']['tags'] == ['parameters'] and not any(cell['outputs'] for cell in cells)
    space = {}
    for cell in cells:
        exec(compile(''.join(cell['source']), f'analyze.ipynb {cell["id"]}', 'exec'), space)
        if cell is cells[0]:
            assert space['RUN'] and space['OUTPUT']
            space.update(RUN=str(tiny_run), OUTPUT=str(tmp_path))
    assert space['keypoints'].shape == (1, 21, 2) and (tmp_path / 'report.html').exists()
