"""What was predicted, on disk: one entry a hand, as JSON, CSV or COCO; a journal that an interrupted run goes on from.

An entry is a dict:

    file, frame       the picture's path as it was given; the frame's number in a video or in a file of several
                      pictures, None for a photo
    time              seconds since the video's begin, None for a picture
    width, height     of the picture as it is shown (upright, by its EXIF orientation), pixels
    keypoints         [[x, y] * 21] in pixels of that picture, in the order of hand.JOINTS; pixel centres lie at + 0.5
    scores            height of each keypoint's peak, in [0, 1]
    presence          probability that there is a hand; None of a network without that head
    score             presence, or the mean of the scores
    box               x0, y0, x1, y1: tightly around the keypoints
    handedness        'right' or 'left'
    model, decoder    the run directory with its epoch; one of heatmap.DECODERS
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpe_jax import files, hand
from hpe_jax.errors import UserError

FORMATS = {'json': 'predictions.json', 'csv': 'predictions.csv', 'coco': 'coco.json'}
JOURNAL = 'predictions.partial.jsonl'
FILES = *FORMATS.values(), JOURNAL
BOX = ('x0', 'y0', 'x1', 'y1')


def write(folder: str | Path, form: str, entries: Sequence[Mapping], errors: Sequence[Mapping], about: Mapping) -> Path:
    """Writes all into one file.

    Args:
      form: 'json' writes predictions.json; 'csv' predictions.csv, with a row an entry or error; 'coco' coco.json.
      errors: {'file', 'error'} of each input that could not be read.
      about: what else to write, which CSV has no place for.

    Raises:
      UserError: it cannot be written.
    """
    path = Path(folder) / FORMATS[form]
    if form == 'csv':
        files.write_text(path, _csv(entries, errors))
    elif form == 'coco':
        files.write_json(path, _coco(entries) | {'errors': list(errors), 'info': dict(about)})
    else:
        files.write_text(path, _json({**about, 'errors': list(errors)}, entries))
    return path


def _json(about: Mapping, entries: Sequence[Mapping]) -> str:
    """A line an entry: an indented one has a hundred."""
    head = json.dumps(about, indent=2).removesuffix('\n}')
    lines = ',\n'.join('    ' + json.dumps(entry, allow_nan=False) for entry in entries)
    return f'{head},\n  "predictions": [\n{lines}\n  ]\n}}\n'


def _csv(entries: Sequence[Mapping], errors: Sequence[Mapping]) -> str:
    points = [f'{joint}_{what}' for joint in hand.JOINTS for what in ('x', 'y', 'score')]
    plain = ['file', 'frame', 'time', 'width', 'height', 'handedness', 'presence', 'score']
    stream = io.StringIO()
    table = csv.DictWriter(stream, [*plain, *BOX, *points, 'model', 'decoder', 'error'], lineterminator='\n')
    table.writeheader()
    for entry in entries:
        numbers = [x for point, score in zip(entry['keypoints'], entry['scores'], strict=True) for x in (*point, score)]
        row = {name: entry[name] for name in (*plain, 'model', 'decoder')}
        table.writerow(row | dict(zip(BOX, entry['box'], strict=True)) | dict(zip(points, numbers, strict=True)))
    table.writerows(errors)
    return stream.getvalue()


def _coco(entries: Sequence[Mapping]) -> dict:
    """COCO's keypoint format (cocodataset.org/#format-data); joints are counted from 1 in its skeleton."""
    images, annotations = {}, []
    for entry in entries:
        key = entry['file'], entry['frame']
        size = {'width': entry['width'], 'height': entry['height']}
        images.setdefault(key, {'id': len(images) + 1, 'file_name': entry['file'], 'frame': entry['frame'], **size})
        x0, y0, x1, y1 = entry['box']
        annotations.append(
            {
                'id': len(annotations) + 1,
                'image_id': images[key]['id'],
                'category_id': 1,
                'bbox': [x0, y0, x1 - x0, y1 - y0],
                'area': (x1 - x0) * (y1 - y0),
                'iscrowd': 0,
                'num_keypoints': hand.NUM_KEYPOINTS,
                'keypoints': [x for point in entry['keypoints'] for x in (*point, 2)],
                **{name: entry[name] for name in ('scores', 'score', 'handedness', 'presence', 'model', 'decoder')},
            }
        )
    bones = [[parent + 1, joint + 1] for joint, parent in enumerate(hand.PARENTS) if parent >= 0]
    category = {'id': 1, 'name': 'hand', 'supercategory': 'person', 'keypoints': hand.JOINTS, 'skeleton': bones}
    return {'images': list(images.values()), 'annotations': annotations, 'categories': [category]}


def read_boxes(path: str | Path) -> dict[str, dict[int | None, list]]:
    """Boxes by file and frame, to be looked into. Several of one picture are several hands; a file may have no box.

    Args:
      path: predictions.json, predictions.csv, coco.json or another file in COCO's format; or JSON of a list of {'file',
        'box'}, 'frame' with it for a video; or JSON {file: box}, {file: [box, ...]}, {file: null}. A box is x0, y0, x1,
        y1 in pixels; a fifth number, a detector's score, is left out.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    try:
        text = Path(path).read_text('utf-8', 'surrogateescape')
        if Path(path).suffix.lower() == '.csv':
            rows = [row for row in csv.DictReader(io.StringIO(text)) if not row.get('error')]
            entries = [row | {'box': [float(row[name]) for name in BOX]} for row in rows]
        else:
            entries = _box_entries(json.loads(text))
        found = defaultdict(lambda: defaultdict(list))
        for entry in entries:
            frame, box = entry.get('frame'), entry['box']
            if not isinstance(entry['file'], str) or '\0' in entry['file']:
                raise ValueError(f'{entry["file"]!r} is no file name')
            boxes = found[entry['file']][None if frame in (None, '') else int(frame)]
            if box:
                boxes.append(list(box)[:4] if len(box) == 5 else list(box))
    except OSError as e:
        raise UserError(f'--boxes={path}: cannot be read: {e.strerror}') from e
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError, csv.Error) as e:
        raise UserError(
            f'--boxes={path}: no list of boxes ({type(e).__name__}: {e}); it takes JSON such as '
            '{"photo.jpg": [x0, y0, x1, y1]}, or the output of an earlier run'
        ) from e
    return found


def _box_entries(content) -> list:
    """{'file', 'frame', 'box'} of each box of parsed JSON; the box of a file without one is None."""
    if isinstance(content, list):
        return content
    if 'predictions' in content:
        return list(content['predictions'])
    if 'annotations' in content:
        names = {image['id']: {'file': image['file_name'], 'frame': image.get('frame')} for image in content['images']}
        boxes = [(names[label['image_id']], *label['bbox']) for label in content['annotations']]
        return [name | {'box': [x, y, x + width, y + height]} for name, x, y, width, height in boxes]
    several = {
        file: [None] if boxes in (None, []) else boxes if isinstance(boxes[0], list) else [boxes]
        for file, boxes in content.items()
    }
    return [{'file': file, 'box': box} for file, boxes in several.items() for box in boxes]


class Unwritable(UserError):
    """The output folder cannot be written any more, whatever is predicted."""


class Journal:
    """The entries made so far, each on disk at once; a file counts once it is finished.

    A run of the same settings takes over what an interrupted one had finished; any other begins at the first file.

    entries: by file. finished: file -> its note, or ''.
    """

    def __init__(self, folder: str | Path, settings: Mapping):
        self._path = Path(folder) / JOURNAL
        self.entries, self.finished = defaultdict(list), {}
        lines = [json.dumps({'settings': settings})]
        if self._path.exists():
            before = self._path.read_text('utf-8', 'replace').splitlines()
            if before[:1] == lines:
                lines += self._recall(before[1:])
        files.write_text(self._path, ''.join(line + '\n' for line in lines))
        self._stream = self._path.open('a', buffering=1, encoding='utf-8')

    def _recall(self, lines: Sequence[str]) -> list[str]:
        """Takes over the entries of finished files; returns their lines."""
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError):  # the last line of a killed run
                break
        self.finished = {record['finished']: record.get('note', '') for record in records if 'finished' in record}
        for record in records:
            if record.get('file') in self.finished:
                self.entries[record['file']].append(record)
        kept = [entry for entries in self.entries.values() for entry in entries]
        return [json.dumps(record) for record in (*kept, *(_finished(*entry) for entry in self.finished.items()))]

    def add(self, entry: Mapping) -> None:
        self.entries[entry['file']].append(entry)
        self._write(entry)

    def finish(self, file: str, note: str = '') -> None:
        """That file is done: a run that goes on passes over it."""
        self.finished[file] = note
        self._write(_finished(file, note))

    def _write(self, record: Mapping) -> None:
        try:
            self._stream.write(json.dumps(record) + '\n')
        except OSError as e:
            raise Unwritable(f'cannot write {self._path}: {e.strerror}') from e

    def close(self, remove: bool) -> None:
        """`remove`: all that it held is in its final place."""
        self._stream.close()
        if remove:
            self._path.unlink()


def _finished(file: str, note: str) -> dict:
    return {'finished': file, 'note': note}
