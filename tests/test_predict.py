"""The command as its users meet it: folders, globs, broken files, videos, interruptions, wrong input."""

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpe_jax import HandPoseEstimator, evaluate, files, hand, predict
from hpe_jax.errors import UserError
from hpe_jax.inference import inputs, outputs, video
from tests.inference.test_estimator import canvas
from tests.inference.test_video import encode, noise


@pytest.fixture
def say(fitted_run, tmp_path):
    """Runs the command on inputs; returns its exit status and what predictions.json holds."""

    def run(*arguments):
        options = ['--workdir', fitted_run.workdir, '--output', tmp_path / 'out', '--compilation_cache=']
        status = predict.main([str(x) for x in (*options, '--input', *arguments)])
        path = tmp_path / 'out/predictions.json'
        return status, json.loads(path.read_text()) if path.exists() else None

    return run


@pytest.fixture
def photos(fitted_run, tmp_path) -> Path:
    """Four photos of several kinds, in a folder with a folder in it and other files around."""
    folder = tmp_path / 'photos'
    (folder / 'deeper').mkdir(parents=True)
    images = [Image.fromarray(image) for image in fitted_run.images]
    images[0].save(folder / 'a.png')
    images[1].convert('RGBA').save(folder / 'b.webp', lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    images[2].transpose(Image.Transpose.ROTATE_90).save(folder / 'c.PNG', exif=exif)
    Image.fromarray(canvas(fitted_run.images[3], 250, 240)).save(folder / 'deeper/a.png')
    (folder / 'notes.txt').write_text('no picture')
    (folder / '.hidden.png').write_bytes(b'')
    return folder


def test_a_folder_is_predicted_as_the_door_predicts(say, photos, fitted_run):
    status, content = say(photos, '--batch_size=3')
    assert status == 0 and content['complete'] and not content['errors']
    entries = content['predictions']
    names = 'a.png', 'b.webp', 'c.PNG', 'deeper/a.png'
    assert [entry['file'] for entry in entries] == [str(photos / name) for name in names]
    estimator = HandPoseEstimator.load(fitted_run.workdir)
    images = [*fitted_run.images[:3], canvas(fitted_run.images[3], 250, 240)]
    for entry, image, one in zip(entries, images, estimator.predict(images), strict=True):
        np.testing.assert_allclose(entry['keypoints'], one.keypoints, atol=0.01)
        np.testing.assert_allclose(entry['scores'], one.scores, atol=1e-4)
        np.testing.assert_allclose(entry['box'], one.box, atol=0.01)
        assert (entry['height'], entry['width']) == image.shape[:2] and entry['frame'] is None
        assert entry['handedness'] == 'right' and entry['decoder'] == 'window'
        assert entry['model'] == f'{fitted_run.workdir}, epoch {estimator.run.epoch}'
    assert content['joints'] == list(hand.JOINTS) and not list(photos.parent.glob('out/*.jsonl'))


def test_files_globs_and_folders_are_taken_once(say, photos):
    status, content = say(photos / 'c.PNG', photos / '*.png', photos)
    names = [Path(entry['file']).name for entry in content['predictions']]
    assert status == 0 and names == ['c.PNG', 'a.png', 'b.webp', 'a.png']


def test_predictions_are_evaluations(fitted_run, say):
    """With one look at the whole picture: the mean error is the one in the run's report."""
    folder = fitted_run.workdir.parent / 'hands/training/rgb'
    status, content = say(folder, '--refine=0', '--min_score=0')
    found = np.array([entry['keypoints'] for entry in content['predictions']])
    error = 100 * np.linalg.norm(found - fitted_run.keypoints, axis=-1).mean() / 224
    report = json.loads((fitted_run.workdir / 'report.json').read_text())
    assert status == 0 and error == pytest.approx(report['decoders']['window']['error_pct'], abs=1e-3)


def test_broken_photos_are_told_and_the_others_predicted(say, photos, capsys):
    (photos / 'broken.jpg').write_bytes((photos / 'a.png').read_bytes()[:500])
    (photos / 'deeper/empty.jpg').write_bytes(b'')
    status, content = say(photos)
    assert status == 3 and len(content['predictions']) == 4 and content['complete']
    assert [Path(error['file']).name for error in content['errors']] == ['broken.jpg', 'empty.jpg']
    out, err = capsys.readouterr()
    assert [line.split(': ')[0] for line in err.splitlines()] == ['error'] * 2 and 'empty.jpg' in err
    assert '4 of 6 files predicted, 2 errors' in out


def test_boxes_and_several_hands_in_one_photo(say, tmp_path, fitted_run):
    both = np.concatenate(fitted_run.images[:2], 1)
    Image.fromarray(both).save(tmp_path / 'both.png')
    truth = fitted_run.keypoints[:2] + np.array([[[0, 0]], [[224, 0]]])
    boxes = [[*one.min(0), *one.max(0)] for one in truth]
    (tmp_path / 'boxes.json').write_text(json.dumps({'both.png': boxes}))
    status, content = say(tmp_path / 'both.png', f'--boxes={tmp_path / "boxes.json"}', '--draw', '--batch_size=1')
    found = np.array([entry['keypoints'] for entry in content['predictions']])
    assert status == 0 and found.shape == (2, 21, 2)
    assert np.linalg.norm(found - truth, axis=-1).mean(-1).max() < 6
    again = say(tmp_path / 'both.png', f'--boxes={tmp_path / "out/predictions.json"}')[1]
    assert np.linalg.norm(np.array([entry['keypoints'] for entry in again['predictions']]) - truth, axis=-1).mean() < 6


def test_left_hands(say, tmp_path, fitted_run):
    right, left = tmp_path / 'right.png', tmp_path / 'left.png'
    Image.fromarray(fitted_run.images[0]).save(right)
    Image.fromarray(fitted_run.images[0][:, ::-1]).save(left)
    one, other = say(right, left, '--hand=auto')[1]['predictions']
    assert (one['handedness'], other['handedness']) == ('right', 'left')
    np.testing.assert_allclose([[224 - x, y] for x, y in one['keypoints']], other['keypoints'], atol=0.05)
    np.testing.assert_allclose(one['scores'], other['scores'], atol=1e-3)


def test_overlays_show_the_hand_where_it_is(say, photos, tmp_path, fitted_run):
    _, content = say(photos, '--draw')
    drawn = sorted(str(p.relative_to(tmp_path / 'out/overlays')) for p in (tmp_path / 'out/overlays').rglob('*.jpg'))
    assert drawn == ['a.jpg', 'b.jpg', 'c.jpg', 'deeper/a.jpg']
    picture = np.asarray(Image.open(tmp_path / 'out/overlays/a.jpg')).astype(int)
    assert picture.shape == fitted_run.images[0].shape
    changed = np.abs(picture - fitted_run.images[0]).max(-1) > 60
    keypoints = np.array(content['predictions'][0]['keypoints'])
    x, y = keypoints.astype(int).T
    assert picture[y, x].min() > 180  # white joints
    low, high = keypoints.min(0) - 8, keypoints.max(0) + 8
    rows, columns = np.nonzero(changed)
    assert columns.min() > low[0] and columns.max() < high[0] and rows.min() > low[1] and rows.max() < high[1]


def test_overlays_of_one_name_do_not_meet(tmp_path):
    given = [str(tmp_path / x) for x in ('a.png', 'a.jpg', 'a.mp4', 'b/a.png', 'a.jpg.bmp', 'a.jpg.png')]
    overlays = predict.Overlays(tmp_path / 'out', given, 0.4)
    paths = [overlays.path(file).relative_to(tmp_path / 'out') for file in given]
    assert paths == [
        Path('a.jpg'),
        Path('a.jpg.jpg'),
        Path('a.mp4'),
        Path('b/a.jpg'),
        Path('a.jpg.bmp.jpg'),
        Path('a.jpg.png.jpg'),
    ]
    overlays.close()
    given = [str(tmp_path / x) for x in ('b.bmp', 'b.jpg.bmp', 'b.jpg')]
    overlays = predict.Overlays(tmp_path / 'out', given, 0.4)
    assert [overlays.path(file).name for file in given] == ['b.jpg', 'b.jpg.jpg', '_b.jpg.jpg']
    overlays.close()


def test_outputs_inside_the_input_are_no_input(say, photos, tmp_path):
    (tmp_path / 'out').symlink_to(photos / 'out')
    (photos / 'out').mkdir()
    for _ in range(2):
        assert len(say(photos, '--draw')[1]['predictions']) == 4


def test_an_interrupted_run_keeps_what_it_did_and_goes_on(say, photos, monkeypatch, capsys):
    looked, look = [], predict.Prediction._predict

    def interrupt(self, batch):
        looked.extend(file for file, *_ in batch)
        if len(looked) == 3:
            raise KeyboardInterrupt
        look(self, batch)

    monkeypatch.setattr(predict.Prediction, '_predict', interrupt)
    status, content = say(photos, '--batch_size=1')
    assert status == 130 and not content['complete'] and len(content['predictions']) == 2
    assert 'the same command goes on from here' in capsys.readouterr().err
    status, content = say(photos, '--batch_size=1')
    assert status == 0 and content['complete'] and len(content['predictions']) == 4
    assert looked == [str(photos / x) for x in ('a.png', 'b.webp', 'c.PNG', 'c.PNG', 'deeper/a.png')]
    assert 'Going on: 2 of 4 files are done already' in capsys.readouterr().out
    monkeypatch.setattr(predict.Prediction, '_predict', look)
    assert len(say(photos)[1]['predictions']) == 4  # a finished run begins again


@pytest.fixture(scope='module')
def clip(fitted_run, tmp_path_factory) -> Path:
    """A hand that moves two pixels a frame."""
    path = tmp_path_factory.mktemp('clip') / 'clip.mp4'
    with video.writing(path, 10.0, 300, 260) as write:
        for i in range(8):
            write(canvas(fitted_run.images[0], 260, 300, (20 + 2 * i, 10)))
    return path


@pytest.mark.parametrize('smooth', [False, True])
def test_a_video_is_tracked_and_drawn(say, clip, tmp_path, fitted_run, smooth):
    status, content = say(clip, '--draw', *['--smooth'] * smooth)
    entries = content['predictions']
    assert status == 0 and [entry['frame'] for entry in entries] == list(range(8))
    np.testing.assert_allclose([entry['time'] for entry in entries], np.arange(8) / 10, atol=1e-3)
    truth = fitted_run.keypoints[0] + [[[20 + 2 * i, 10]] for i in range(8)]
    errors = np.linalg.norm([entry['keypoints'] for entry in entries] - truth, axis=-1).mean(-1)
    assert errors.max() < (9 if smooth else 6)
    with video.reading(tmp_path / 'out/overlays/clip.mp4') as drawn, video.reading(clip) as plain:
        assert (drawn.width, drawn.height, drawn.fps) == (300, 260, 10.0)
        pairs = [(a.image.astype(int), b.image.astype(int)) for a, b in zip(drawn.frames, plain.frames, strict=True)]
    assert len(pairs) == 8 and all((np.abs(a - b).max(-1) > 60).mean() > 0.005 for a, b in pairs)


def test_frames_without_a_hand_keep_an_entry_and_are_drawn_as_they_are(say, tmp_path, fitted_run):
    empty = np.full((260, 300, 3), 128, np.uint8)
    hand_there = canvas(fitted_run.images[0], 260, 300, (30, 20))
    with video.writing(tmp_path / 'clip.mp4', 10.0, 300, 260) as write:
        for image in (hand_there, empty, empty, hand_there):
            write(image)
    _, content = say(tmp_path / 'clip.mp4', '--draw', '--min_score=0.5')
    assert [entry['score'] > 0.5 for entry in content['predictions']] == [True, False, False, True]
    with video.reading(tmp_path / 'out/overlays/clip.mp4') as drawn:
        ranges = [np.ptp(frame.image[:15].astype(int)) for frame in drawn.frames]
        assert max(ranges[1:3]) < 20


def test_a_corrupt_video_is_one_error(say, tmp_path, photos, capsys):
    (tmp_path / 'clip.mp4').write_bytes(b'\0' * 2000)
    status, content = say(tmp_path / 'clip.mp4', photos)
    assert status == 3 and len(content['predictions']) == 4 and len(content['errors']) == 1
    assert capsys.readouterr().err.count('\n') == 1


def test_a_video_that_breaks_keeps_its_frames(say, clip, tmp_path, monkeypatch):
    frames = predict.Prediction._frames

    def broken(self, file, given, bar, write):
        def some():
            for frame in given.frames:
                if frame.index == 3:
                    raise UserError(f'{file}: cannot be read after frame 2: so')
                yield frame

        frames(self, file, given._replace(frames=some()), bar, write)

    monkeypatch.setattr(predict.Prediction, '_frames', broken)
    status, content = say(clip, '--draw')
    assert status == 3 and len(content['predictions']) == 3 and len(content['errors']) == 1
    with video.reading(tmp_path / 'out/overlays/clip.mp4') as drawn:
        assert len(list(drawn.frames)) == 3


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.jpg'], '--input absent.jpg: no such file or folder'),
        (['photos/*.gif'], r'--input photos/\*.gif: no such file'),
        (['empty'], '--input empty: there is no photo or video in it'),
        (['photos', '--boxes=absent.json'], 'absent.json: cannot be read'),
        (['photos', '--boxes=other.json'], 'none of its files is an input'),
        (['photos', '--boxes=wrong.json'], 'must be four numbers x0, y0, x1, y1'),
        (['photos', '--decoder=best'], "decoder 'best': unknown to this run"),
        (['photos', '--refine=-1'], 'refine=-1: must be at least 0'),
        (['photos', '--batch_size=0'], '--batch_size=0: must be at least 1'),
        (['photos', '--output=photos/a.png'], 'cannot write photos/a.png'),
        (['photos', '--workdir=empty'], 'empty is no run directory'),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(say, photos, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'other.json').write_text('{"z.png": [1, 2, 3, 4]}')
    (tmp_path / 'wrong.json').write_text('{"photos/a.png": [1, 2, 1, 4]}')
    with pytest.raises(UserError, match=message) as raised:
        say(*arguments)
    assert '\n' not in str(raised.value)


@pytest.fixture
def quick(tiny_run, tmp_path):
    """As `say`, but of a network that has learnt nothing, one look a picture."""

    def run(*arguments):
        options = ['--workdir', tiny_run, '--output', tmp_path / 'out', '--refine=0', '--min_score=0', '--hand=right']
        status = predict.main([str(x) for x in (*options, '--compilation_cache=', '--input', *arguments)])
        path = tmp_path / 'out/predictions.json'
        return status, json.loads(path.read_text()) if path.exists() else None

    return run


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two photos."""
    (tmp_path / 'in').mkdir()
    for name in 'a.png', 'b.png':
        PHOTO.save(tmp_path / 'in' / name)
    return tmp_path / 'in'


def files_of(content: dict) -> list[str]:
    return [Path(entry['file']).name for entry in content['predictions']]


def test_the_output_folder_may_be_that_of_the_photos(quick, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (folder / 'labels.csv').touch()
    for _ in range(2):  # the second run meets the overlays and the output of the first
        status, content = quick('in', '--output=.', '--draw')
        content = json.loads(Path('predictions.json').read_text())
        assert status == 0 and files_of(content) == ['a.png', 'b.png']
        assert content['passed_over'] == ['in/labels.csv']
        assert 'no photos or videos: 1 (in/labels.csv).' in capsys.readouterr().out
        status, _ = quick('.', '--output=.', '--draw')
        assert status == 0 and sorted(p.name for p in Path('overlays').rglob('*.*')) == ['a.jpg', 'b.jpg']


def test_a_pictures_failure_of_any_kind_is_its_own(quick, folder, monkeypatch, capsys):
    name = 'l' * 251 + '.png'
    PHOTO.save(folder / name)
    read = predict.images.picture

    def picture(file, **options):
        if Path(file).name == 'a.png':
            raise MemoryError('so\nand so')
        return read(file, **options)

    monkeypatch.setattr(predict.images, 'picture', picture)
    hands = predict.Prediction._hands

    def broken(self, batch):
        if any(Path(shot.file).name == 'b.png' for shot in batch):
            raise RuntimeError('XLA')
        return hands(self, batch)

    monkeypatch.setattr(predict.Prediction, '_hands', broken)
    status, content = quick(folder, '--draw')
    assert status == 3 and content['complete'] and files_of(content) == [name]
    errors = {Path(one['file']).name: one['error'] for one in content['errors']}
    assert errors.keys() == {'a.png', 'b.png'}
    assert 'a.png: failed: MemoryError so' in errors['a.png'] and 'RuntimeError XLA' in errors['b.png']
    assert 'error: ' in capsys.readouterr().err


def test_an_overlay_that_cannot_be_written_costs_no_prediction(quick, folder, tmp_path):
    with video.writing(folder / 'c.mp4', 10.0, 60, 40) as write:
        write(np.asarray(PHOTO))
        write(np.asarray(PHOTO))
    for name in ('a.jpg', 'c.mp4'):
        (tmp_path / 'out/overlays' / name).mkdir(parents=True)
    status, content = quick(folder, '--draw')
    assert status == 3 and files_of(content) == ['a.png', 'b.png', 'c.mp4', 'c.mp4']
    assert [Path(one['file']).name for one in content['errors']] == ['a.png', 'c.mp4']
    assert all('cannot write' in one['error'] for one in content['errors'])
    assert (tmp_path / 'out/overlays/b.jpg').is_file()


@pytest.mark.parametrize('form', outputs.FORMATS)
def test_names_that_are_not_utf8_are_predicted(quick, folder, tmp_path, form):
    os.rename(os.fsencode(folder / 'a.png'), os.fsencode(folder) + b'/caf\xe9.png')
    os.rename(os.fsencode(folder / 'b.png'), os.fsencode(folder) + b'/\xe9')
    assert quick(folder, '--draw', f'--format={form}')[0] == 0
    boxes = outputs.read_boxes(tmp_path / 'out' / outputs.FORMATS[form])
    assert [os.path.basename(os.fsencode(file)) for file in boxes] == [b'caf\xe9.png']
    assert quick(folder, f'--boxes={tmp_path / "out" / outputs.FORMATS[form]}')[0] == 0


def test_one_run_at_a_time_writes_into_a_folder(quick, folder, tmp_path):
    (tmp_path / 'out').mkdir()
    with files.locked(tmp_path / 'out'), pytest.raises(UserError, match='out is in use by process [0-9]+ on '):
        quick(folder)
    assert quick(folder)[0] == 0


def test_what_was_predicted_is_written_whatever_ends_the_run(quick, folder, tmp_path, monkeypatch):
    finish = predict.Prediction._finish

    def full(self, file, note=''):
        finish(self, file, note)
        raise outputs.Unwritable('cannot write out/predictions.partial.jsonl: No space left on device')

    monkeypatch.setattr(predict.Prediction, '_finish', full)
    with pytest.raises(UserError, match='No space left'):
        quick(folder, '--batch_size=1')
    content = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert files_of(content) == ['a.png'] and not content['complete']


def test_files_of_several_images(quick, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    images = [PHOTO.rotate(10 * i) for i in range(3)]
    options = {'save_all': True, 'append_images': images[1:]}
    images[0].save(tmp_path / 'in/film.webp', duration=[40, 60, 40], lossless=True, **options)
    images[0].save(tmp_path / 'in/stack.tif', **options)
    with video.writing(tmp_path / 'in/film.mp4', 10.0, 60, 40) as write:
        write(np.asarray(PHOTO))
    (tmp_path / 'in/film.mp4').rename(tmp_path / 'in/named.jpg')
    status, content = quick(tmp_path / 'in', '--draw')
    found = [(Path(entry['file']).name, entry['frame'], entry['time']) for entry in content['predictions']]
    assert status == 0 and found == [
        ('film.webp', 0, 0),
        ('film.webp', 1, 0.04),
        ('film.webp', 2, 0.1),
        ('named.jpg', 0, 0.0),
        *(('stack.tif', i, None) for i in range(3)),
    ]
    drawn = {path.name for path in (tmp_path / 'out/overlays').iterdir()}
    assert drawn == {'film.webp.mp4', 'named.jpg.mp4', *(f'stack.tif.{i}.jpg' for i in range(3))}
    assert [p['keypoints'] for p in content['predictions'][4:]][0] != content['predictions'][5]['keypoints']
    first = quick(tmp_path / 'in', '--first_frame')[1]['predictions']
    assert [(Path(entry['file']).name, entry['frame']) for entry in first] == [
        ('film.webp', None),
        ('named.jpg', 0),
        ('stack.tif', None),
    ]


def test_a_cut_video_is_an_error_and_its_frames_are_kept(quick, tmp_path):
    cut = encode(tmp_path / 'cut.avi', 'mpeg4', noise(20))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    status, content = quick(cut)
    assert status == 3 and 0 < len(content['predictions']) < 15
    assert 'cut off: ' in content['errors'][0]['error'] and 'it promises' in content['errors'][0]['error']


def test_the_range_of_grey_levels_that_was_taken_is_stated(quick, folder, capsys):
    grey = np.asarray(PHOTO.convert('L'))
    Image.fromarray(np.uint16(grey) * 16).save(folder / 'c.tif')
    Image.fromarray(np.full((9, 9), np.nan, np.float32)).save(folder / 'd.tif')
    status, content = quick(folder)
    assert status == 3 and files_of(content) == ['a.png', 'b.png', 'c.tif']
    assert content['notes'] == {str(folder / 'c.tif'): 'grey levels taken as 0 to 4095'}
    assert f'1 ({folder / "c.tif"}): grey levels taken as 0 to 4095' in capsys.readouterr().out


def test_large_jpegs_are_answered_in_their_own_pixels(quick, tmp_path, monkeypatch):
    smooth = PHOTO.resize((600, 400))
    smooth.save(tmp_path / 'a.jpg', quality=95)
    whole = quick(tmp_path / 'a.jpg')[1]['predictions'][0]
    monkeypatch.setattr(predict.images, 'REDUCED', 1000)
    (tmp_path / 'boxes.json').write_text(json.dumps({'a.jpg': [0, 0, 600, 400]}))
    for options in [], [f'--boxes={tmp_path / "boxes.json"}']:
        halved = quick(tmp_path / 'a.jpg', '--draw', *options)[1]['predictions'][0]
        assert (halved['width'], halved['height']) == (600, 400)
        assert np.ptp(np.array(halved['keypoints']), axis=0).max() > 1
        if not options:
            assert np.median(np.abs(np.subtract(halved['keypoints'], whole['keypoints']))) < 5
    with Image.open(tmp_path / 'out/overlays/a.jpg') as overlay:
        assert overlay.size == (300, 200)


@pytest.mark.parametrize('heif', [False, True])
def test_the_shared_cases(quick, shared, monkeypatch, heif):
    cases = shared / 'cases'
    if not cases.is_dir():
        pytest.skip('needs the small failing inputs beside the checkout (../shared/cases)')
    if heif:
        pytest.importorskip('pillow_heif', reason='HEIC pictures need pillow-heif, which is optional')
    else:
        monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    status, content = quick(*(cases / name for name in ('01_phone_folder', '10_several_frames', '11_pixel_kinds')))
    assert status == (0 if heif else 3) and [Path(file).name for file in content['passed_over']] == [
        'IMG_0007.jpg_large'
    ]
    number = collections.Counter(files_of(content))
    assert [Path(one['file']).name for one in content['errors']] == ([] if heif else ['IMG_0002.HEIC', 'IMG_0006.jpg'])
    assert len(number) == (7 if heif else 5) + 4 + 5 and sum(number.values()) == len(number) + 4 * 3
    notes = {Path(file).name: note for file, note in content['notes'].items()}
    assert notes == {
        'float01.tif': 'grey levels taken as 0 to 1',
        'float255.tif': 'grey levels taken as 0 to 255',
        'twelve_bit.tif': 'grey levels taken as 0 to 4095',
    }


def test_reading_ahead_keeps_the_order_and_is_bounded():
    from concurrent.futures import ThreadPoolExecutor

    begun = []
    with ThreadPoolExecutor() as pool:
        for item, future in inputs.ahead(pool, lambda x: begun.append(x) or x * x, range(50), 4):
            assert future.result() == item**2 and len(begun) <= item + 5
    assert begun and sorted(begun) == list(range(50))


def test_the_command_as_a_process(fitted_run, tmp_path):
    command = [sys.executable, '-m', 'hpe_jax.predict', '--workdir', str(fitted_run.workdir)]
    command += ['--output', str(tmp_path / 'out'), '--input', 'absent']
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == 'error: --input absent: no such file or folder\n'


@pytest.mark.slow
def test_published_predictions_are_evaluations(shared, tmp_path):
    """The published weights on the 8 real photos: as `--mode=evaluate` has them."""
    pytest.importorskip('torch', reason='reading PyTorch weights needs PyTorch, which is optional')
    from configs import published
    from hpe_jax import torch_weights

    torch_weights.convert(shared / 'reference/model_final.pth', tmp_path / 'run', published.get_config())
    data = {'dataset': 'freihand/full', 'manual_dir': str(shared / 'freihand_mini'), 'data_dir': str(tmp_path / 'data')}
    overrides = {f'data.{name}': value for name, value in data.items()}
    result = evaluate.evaluate_run(tmp_path / 'run', 'all', overrides | {'data.source': 'resident'})
    folder = shared / 'freihand_mini/training/rgb'
    output = ['--output', str(tmp_path / 'out'), '--compilation_cache=']
    for decoder in result['decoders']:
        options = ['--workdir', str(tmp_path / 'run'), '--decoder', decoder, '--refine=0', *output]
        assert predict.main([*options, '--input', str(folder)]) == 0
        entries = json.loads((tmp_path / 'out/predictions.json').read_text())['predictions']
        xyz = np.array(json.loads((shared / 'freihand_mini/training_xyz.json').read_text()))
        K = np.array(json.loads((shared / 'freihand_mini/training_K.json').read_text()))
        truth = np.concatenate([(xyz @ K.swapaxes(1, 2))[..., :2] / xyz[..., 2:]] * 4)
        found = np.array([entry['keypoints'] for entry in entries])
        error = 100 * np.linalg.norm(found - truth, axis=-1).mean() / 224
        assert error == pytest.approx(result['decoders'][decoder]['error_pct'], abs=1e-4)
