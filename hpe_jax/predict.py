"""Keypoints of hands in photos, folders and videos, by the shipped model or a trained run.

    python -m hpe_jax.predict --input PHOTO FOLDER 'GLOB*' VIDEO ... --output=DIR [--draw] [--workdir=RUN]

Writes DIR/predictions.json (one entry a hand, see inference/outputs.py; --format: csv or coco) and, with --draw,
pictures and videos with the skeletons in DIR/overlays. Without --workdir the shipped model is used. Without --boxes
each picture is searched for up to --max_hands hands; by a network without a head for presence, for one.

A folder gives the photos and videos in it and below it, by their suffixes; how many others are passed over is stated. A
file that is named is tried whatever its suffix. An animated picture is a video; of a file of several pictures each has
its `frame`; --first_frame takes the first one alone. What cannot be read, or drawn, is listed under `errors` and at the
end, and the others are predicted. Interrupted, the command leaves what it has done in the same file and goes on from
there when it is given again.

Exit status: 0 all inputs predicted; 1 nothing could be done, for the reason that is said; 2 wrong options; 3 all done
but for the inputs listed as errors; 130 interrupted.
"""

import argparse
import contextlib
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging
from PIL import Image

from hpe_jax import checkpoint, files, hand, logbook, runtime, visualize
from hpe_jax.errors import UserError
from hpe_jax.inference import images, inputs, outputs, video
from hpe_jax.inference.estimator import HANDS, HandPose, HandPoseEstimator
from hpe_jax.inference.tracking import HandsTracker, Tracker
from hpe_jax.trained_model import SHIPPED

FAINT = 0.3  # opacity of a hand whose score is below min_score
LONGEST_JPEG = 65_500  # pixels
MOST_PIXELS = 100_000_000  # of a batch
NAMED = 5  # files that a line of many names


class Shot(NamedTuple):
    """A picture to predict."""

    file: str
    picture: images.Picture
    boxes: list  # [None] where it is searched
    frame: int | None = None  # of a file of several


class Overlays:
    """Pictures and videos with the hands drawn in; the photos are drawn and saved on background threads."""

    def __init__(self, folder: Path, paths: Sequence[str], min_score: float):
        self._min_score, self._pool, self._waiting = min_score, ThreadPoolExecutor(), []
        root = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in paths])
        self._paths, self._further, taken = {}, {}, set()
        for file in paths:
            given = folder / os.path.relpath(os.path.abspath(file), root)
            suffix = '.mp4' if inputs.is_video(file) else '.jpg'
            path = given.with_suffix(suffix)
            if path in taken:
                path = given.with_name(given.name + suffix)
            while path in taken:
                path = path.with_name(f'_{path.name}')
            self._paths[file] = path
            taken.add(path)

    def path(self, file: str, ending: str = '') -> Path:
        """Where a file's overlay lies. `ending`: of one whose kind its name does not show."""
        if not ending:
            return self._paths[file]
        path = self._paths[file].with_name(Path(file).name + ending)
        while path in (*self._paths.values(), *self._further.values()) and self._further.get((file, ending)) != path:
            path = path.with_name(f'_{path.name}')
        self._further[file, ending] = path
        return path

    def draw(self, image: np.ndarray, hands: Sequence[HandPose]) -> np.ndarray:
        opacity = [1.0 if pose.score >= self._min_score else FAINT for pose in hands]
        keypoints = np.array([pose.keypoints for pose in hands]).reshape(-1, 21, 2)
        return visualize.overlay(image, keypoints, opacity)

    def photo(self, shot: Shot, hands: Sequence[HandPose]) -> None:
        path = self.path(shot.file, '' if shot.frame is None else f'.{shot.frame}.jpg')
        hands = [pose.scaled(1 / shot.picture.scale) for pose in hands]
        self._waiting.append((shot.file, self._pool.submit(self._save, path, shot.picture.image, hands)))

    def wait(self) -> Iterator[tuple[str, BaseException]]:
        """Until all of them are on disk. Yields the files of those that could not be written, and why."""
        while self._waiting:
            file, saving = self._waiting.pop()
            if error := saving.exception():
                yield file, error

    def _save(self, path: Path, image: np.ndarray, hands: Sequence[HandPose]) -> None:
        drawn = Image.fromarray(self.draw(image, hands))
        drawn = drawn.reduce(-(-max(drawn.size) // LONGEST_JPEG))
        with files.replacing(path) as temporary:
            drawn.save(temporary, quality=92)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Prediction:
    """One run of the command: `run` predicts all, and `write` leaves what there is."""

    def __init__(self, estimator: HandPoseEstimator, paths: Sequence[str], output: str | Path, options):
        """Checks everything that can be wrong before any work. `options`: as `arguments` has them."""
        self.estimator, self.output, self.options = estimator, Path(output), options
        self.inputs, self.passed = inputs.collect(paths, output)
        self.boxes = inputs.Boxes(options.boxes, self.inputs)
        files.check_writable(self.output)
        folder = self.output / inputs.OVERLAYS
        self.overlays = Overlays(folder, self.inputs, estimator.min_score) if options.draw else None
        run = estimator.run
        self.searches = 'presence' in estimator.heads
        self.about = {
            'model': f'{run.workdir}, epoch {run.epoch}',
            'model_sha256': checkpoint.digest(checkpoint.leaves(run.model)),
            'decoder': estimator.decoder,
            'hand': estimator.hand,
            'refine': estimator.refine,
            'rotations': estimator.rotations,
            'max_hands': options.max_hands if self.searches else 1,
            'min_score': estimator.min_score,
            'smooth': options.smooth,
        }
        boxes = Path(options.boxes).read_text('utf-8', 'replace') if options.boxes else ''
        settings = {'boxes': boxes, 'draw': options.draw, 'first_frame': options.first_frame}
        self.journal = outputs.Journal(self.output, self.about | settings)
        self.errors, self.empty = {}, 0  # empty: pictures in which no hand was found

    def run(self) -> None:
        if self.passed:
            print(f'Passed over, since their names are of no photos or videos: {several(self.passed)}.', flush=True)
        if self.boxes.unmatched:
            print(f'--boxes has files that are no input: {several(self.boxes.unmatched)}.', flush=True)
        todo = [file for file in self.inputs if file not in self.journal.finished]
        if len(todo) < len(self.inputs):
            print(f'Going on: {len(self.inputs) - len(todo)} of {len(self.inputs)} files are done already.', flush=True)
        try:
            others = self._photos([file for file in todo if not inputs.is_video(file)])
            for file in todo:
                if file in others:
                    others[file](file)
                elif inputs.is_video(file):
                    self._video(file)
        finally:
            if self.overlays:
                self.overlays.close()

    def write(self, complete: bool) -> Path:
        """Writes what was predicted so far; the journal stays until all is."""
        entries = [entry for file in self.inputs for entry in self.journal.entries[file]]
        environment = logbook.environment()
        notes = {file: note for file, note in self.journal.finished.items() if note}
        about = {'complete': complete, 'joints': hand.JOINTS, 'passed_over': self.passed, 'notes': notes}
        about = self.about | about | environment
        errors = [{'file': file, 'error': sentence} for file, sentence in self.errors.items()]
        path = outputs.write(self.output, self.options.format, entries, errors, about)
        self.journal.close(remove=complete)
        return path

    def _photos(self, todo: Sequence[str]) -> dict:
        """In batches of hands; the next photos are read meanwhile. Returns those files that are of another kind, each
        with what is to be called with it."""
        batch, others, read = [], {}, partial(images.picture, first_frame=self.options.first_frame)
        with ThreadPoolExecutor() as pool, runtime.Progress(len(todo), 'photo') as bar:
            try:
                ready = min(2 * self.options.batch_size, (os.cpu_count() or 1) + 4)  # large photos take 200 MB each
                for file, reading in inputs.ahead(pool, read, todo, ready):
                    try:
                        batch.append(Shot(file, reading.result(), self.boxes(file)))
                    except images.Several as e:
                        others[file] = partial(self._video, reading=video.animation) if e.animated else self._pictures
                    except Exception as e:
                        if isinstance(e, images.NoPicture) and video.is_video(file):
                            others[file] = self._video
                        else:
                            self._fail(file, e)
                    if self._is_full(batch):
                        self._predict(batch)
                        batch = []
                    bar.update()
                self._predict(batch)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return others

    def _is_full(self, batch: Sequence[Shot]) -> bool:
        pixels = sum(shot.picture.image.size // 3 for shot in batch)
        return sum(len(shot.boxes) for shot in batch) >= self.options.batch_size or pixels > MOST_PIXELS

    def _pictures(self, file: str) -> None:
        """Those of a file of several, which are no film."""
        for batch in self._batches(file):
            self._predict(batch)
        self._finish(file)

    def _batches(self, file: str) -> Iterator[list[Shot]]:
        batch = []
        try:
            with images.opened(file) as opened:
                for frame, picture, _ in images.frames(opened):
                    batch.append(Shot(file, picture, self.boxes(file, frame), frame))
                    if self._is_full(batch):
                        yield batch
                        batch = []
        except Exception as e:
            self._fail(file, e)
        yield batch

    def _predict(self, batch: list[Shot]) -> None:
        try:
            hands = self._hands(batch)
        except Exception as e:
            if len(batch) == 1:
                self._fail(batch[0].file, e)
            else:  # whose failure it is
                for shot in batch:
                    self._predict([shot])
            return
        for shot, found in zip(batch, hands, strict=True):
            self.empty += not found
            for pose in found:
                self._add(shot.file, shot.picture.size, pose, shot.frame)
            if self.overlays:
                self.overlays.photo(shot, found)
        if self.overlays:
            for file, error in self.overlays.wait():
                self._fail(file, error)
        for shot in batch:
            if shot.frame is None:
                self._finish(shot.file, shot.picture.note)

    def _hands(self, batch: list[Shot]) -> list[list[HandPose]]:
        """Those of each picture."""
        boxed = [(shot.picture, box) for shot in batch if not self._is_searched(shot.boxes) for box in shot.boxes]
        hands = iter(self.estimator.predict(*zip(*boxed, strict=True)) if boxed else [])
        searched = [shot.picture for shot in batch if self._is_searched(shot.boxes)]
        found = iter(self.estimator.detect(searched, self.options.max_hands))
        return [next(found) if self._is_searched(s.boxes) else [next(hands) for _ in s.boxes] for s in batch]

    def _finish(self, file: str, note: str = '') -> None:
        """Unless it has failed, it need not be predicted again."""
        if file not in self.errors:
            self.journal.finish(file, note)

    def _is_searched(self, boxes: Sequence) -> bool:
        return self.searches and list(boxes) == [None]

    def _video(self, file: str, reading=video.reading) -> None:
        """Frame by frame, since each needs the last one's hand; what comes before a broken frame is kept.

        reading: video.reading, or video.animation for an animated picture.
        """
        print(file, flush=True)
        try:
            with (
                reading(file) as clip,
                runtime.Progress(clip.num_frames, 'frame') as bar,
                self._written(file, clip, '' if inputs.is_video(file) else '.mp4') as write,
            ):
                self._frames(file, clip, bar, write)
        except Exception as e:
            self._fail(file, e)
        self._finish(file)

    @contextlib.contextmanager
    def _written(self, file: str, clip: video.Video, ending: str) -> Iterator:
        """What writes the overlay's next frame; None where no overlay is asked for, or it cannot be written."""
        with contextlib.ExitStack() as stack:
            write = None
            if self.overlays:
                path = self.overlays.path(file, ending)
                try:
                    write = stack.enter_context(video.writing(path, clip.fps, clip.width, clip.height))
                except Exception as e:
                    self._fail(file, e)
            yield write

    def _frames(self, file: str, clip: video.Video, bar: runtime.Progress, write) -> None:
        trackers, hands_tracker = [], HandsTracker(self.estimator, self.options.max_hands, self.options.smooth)
        try:
            for index, seconds, image in clip.frames:
                boxes = self.boxes(file, index)
                if self._is_searched(boxes) and not trackers:
                    hands = shown = hands_tracker(image, seconds)
                else:
                    trackers += [Tracker(self.estimator, self.options.smooth) for _ in boxes[len(trackers) :]]
                    boxes = boxes + [None] * (len(trackers) - len(boxes))
                    tracked = [track(image, seconds, box) for track, box in zip(trackers, boxes, strict=True)]
                    hands = [track.hand for track in tracked]
                    shown = [track.hand for track in tracked if track.found]
                for pose in hands:
                    self._add(file, image.shape[1::-1], pose, index, seconds)
                if write:
                    write = self._write(file, write, self.overlays.draw(image, shown), seconds)
                bar.update()
        except Exception as e:  # the video that is written ends here, too
            self._fail(file, e)

    def _write(self, file: str, write, image: np.ndarray, seconds: float):
        """One frame of an overlay; returns `write`, or None once it has failed."""
        try:
            write(image, seconds)
        except Exception as e:
            self._fail(file, e)
            return None
        return write

    def _add(self, file: str, size: tuple[int, int], pose: HandPose, frame: int | None = None, seconds=None) -> None:
        self.journal.add(
            {
                'file': file,
                'frame': frame,
                'time': seconds,
                'width': size[0],
                'height': size[1],
                'keypoints': pose.keypoints.tolist(),
                'scores': pose.scores.tolist(),
                'score': pose.score,
                'presence': pose.presence,
                'box': pose.box.tolist(),
                'handedness': pose.handedness,
                'model': self.about['model'],
                'decoder': self.about['decoder'],
            }
        )

    def _fail(self, file: str, error: BaseException) -> None:
        """Lists the error, whatever it is, as that file's; of several the first. A full disk is everybody's."""
        if isinstance(error, outputs.Unwritable):
            raise error
        known = isinstance(error, UserError)
        sentence = str(error) if known else f'{file}: failed: {type(error).__name__} {str(error).partition(chr(10))[0]}'
        self.errors.setdefault(file, sentence)


def several(names: Sequence[str]) -> str:
    """How many, and some of them."""
    more = f' and {len(names) - NAMED} more' if len(names) > NAMED else ''
    return f'{len(names)} ({", ".join(names[:NAMED])}{more})'


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    summary, _, rest = __doc__.partition('\n\n')
    parser = argparse.ArgumentParser('python -m hpe_jax.predict', description=summary, epilog=rest)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add('--workdir', default=str(SHIPPED), help='a run directory; default: the shipped model')
    add('--input', nargs='+', action='extend', required=True, metavar='PATH', help='photos, folders, globs, videos')
    add('--output', required=True, metavar='DIR')
    add('--format', choices=outputs.FORMATS, default='json')
    add('--draw', action='store_true', help='also write pictures and videos with the skeletons')
    add('--decoder', default='', help="one of the run's config.eval.decoders; default its config.eval.decoder")
    add(
        '--hand',
        choices=HANDS,
        default='auto',
        help='auto (default): the network predicts which, or the higher score decides',
    )
    add('--max_hands', type=int, default=2, metavar='N', help='hands a picture, where it is searched (default 2)')
    add(
        '--boxes',
        default='',
        metavar='FILE',
        help="x0, y0, x1, y1 around the hands: JSON {file: box}, or a run's output",
    )
    add(
        '--refine',
        type=int,
        default=1,
        metavar='N',
        help='how often to crop again around what was found, where that gives higher peaks (default 1)',
    )
    add(
        '--rotations',
        type=int,
        metavar='N',
        help='turned copies of each crop to look at: 1, 4, 8 or 12 (default: 8 if trained on any orientation)',
    )
    add('--min_score', type=float, help='leave out hands below it; default 0.8, and 0.5 of networks without presence')
    add('--smooth', action='store_true', help='videos: a one-euro filter on the tracks')
    add('--first_frame', action='store_true', help='of animated pictures and files of several take the first alone')
    add('--batch_size', type=int, default=16, help='photos at a time (default 16)')
    add('--compilation_cache', default=runtime.COMPILED, metavar='DIR', help='as of hpe_jax.main')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status.

    Raises:
      UserError: nothing could be done.
    """
    options = arguments(argv)
    sys.stdout.reconfigure(errors='backslashreplace')  # for names that are not UTF-8
    for name in ('batch_size', 'max_hands'):
        if getattr(options, name) < 1:
            raise UserError(f'--{name}={getattr(options, name)}: must be at least 1')
    runtime.keep_compiled(options.compilation_cache)
    chosen = {name: getattr(options, name) for name in ('decoder', 'hand', 'refine', 'rotations', 'min_score')}
    estimator = HandPoseEstimator.load(options.workdir, **chosen)
    files.check_writable(options.output)
    with files.locked(options.output):
        return predict(Prediction(estimator, options.input, options.output, options))


def predict(prediction: Prediction) -> int:
    """Predicts all files and writes what was found; returns the exit status."""
    interrupted = False
    try:
        prediction.run()
    except KeyboardInterrupt:
        interrupted = True
    except BaseException:
        prediction.write(complete=False)
        raise
    path = prediction.write(complete=not interrupted)
    for error in prediction.errors.values():
        print(f'error: {error}', file=sys.stderr)
    done, total = len(prediction.journal.finished), len(prediction.inputs)
    kinds = defaultdict(list)
    for file, note in prediction.journal.finished.items():
        kinds[note].append(file)
    for note, noted in kinds.items():
        if note:
            print(f'{several(noted)}: {note}')
    empty = f', {prediction.empty} photos without a hand' if prediction.empty else ''
    print(f'{done} of {total} files predicted, {len(prediction.errors)} errors{empty}: {path}', flush=True)
    if interrupted:
        print('Interrupted: the same command goes on from here.', file=sys.stderr)
        return 130
    return 3 if prediction.errors else 0


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)  # orbax has its own words for what is said in one sentence below
    runtime.keep_freed()
    try:
        sys.exit(main())
    except UserError as e:
        sys.exit(f'error: {e}')
