"""Keypoints of hands in photos, folders and videos, by the shipped model or a trained run.

    python -m hpe_jax.predict --input PHOTO FOLDER 'GLOB*' VIDEO ... --output=DIR [--draw] [--workdir=RUN]

Writes DIR/predictions.json (one entry a hand, see predictions.py; --format csv or coco: another file) and, with --draw,
pictures and videos with the skeletons in DIR/overlays. Without --workdir the shipped model is used. Without --boxes
each picture is searched for up to --max_hands hands; by a network without a head for presence, for one.

A folder gives the photos and videos in it and below it, by their suffixes; a file that is named is tried whatever its
suffix. One that cannot be read is listed under `errors` and at the end, and the others are predicted. Interrupted, the
command leaves what it has done in the same file and goes on from there when it is given again.

Exit status: 0 all inputs predicted; 1 nothing could be done, for the reason that is said; 2 wrong options; 3 all done
but for the inputs listed as errors; 130 interrupted.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image
from tqdm import tqdm

from hpe_jax import checkpoint, files, hand, logbook, runtime, visualize
from hpe_jax.errors import UserError
from hpe_jax.inference import images, inputs, outputs, video
from hpe_jax.inference.estimator import HANDS, HandPose, HandPoseEstimator
from hpe_jax.inference.tracking import HandsTracker, Tracker
from hpe_jax.trained_model import SHIPPED

EVERY = 10.0  # seconds between lines where no terminal watches
FAINT = 0.3  # opacity of a hand whose score is below min_score


class Overlays:
    """Pictures and videos with the hands drawn in; the photos are drawn and saved on background threads."""

    def __init__(self, folder: Path, paths: Sequence[str], min_score: float):
        self._min_score, self._pool, self._waiting = min_score, ThreadPoolExecutor(), []
        root = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in paths])
        self._paths = {}
        for file in paths:
            path = folder / os.path.relpath(os.path.abspath(file), root)
            suffix = '.mp4' if inputs.is_video(file) else '.jpg'
            alone = path.with_suffix(suffix) not in self._paths.values()
            self._paths[file] = path.with_suffix(suffix) if alone else path.with_name(path.name + suffix)

    def path(self, file: str) -> Path:
        return self._paths[file]

    def draw(self, image: np.ndarray, hands: Sequence[HandPose]) -> np.ndarray:
        opacity = [1.0 if one.score >= self._min_score else FAINT for one in hands]
        keypoints = np.array([one.keypoints for one in hands]).reshape(-1, 21, 2)
        return visualize.overlay(image, keypoints, opacity)

    def photo(self, file: str, image: np.ndarray, hands: Sequence[HandPose]) -> None:
        self._waiting.append(self._pool.submit(self._save, file, image, hands))

    def wait(self) -> None:
        """Until all of them are on disk."""
        while self._waiting:
            self._waiting.pop().result()

    def _save(self, file: str, image: np.ndarray, hands: Sequence[HandPose]) -> None:
        with files.replacing(self.path(file)) as temporary:
            Image.fromarray(self.draw(image, hands)).save(temporary, quality=92)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Progress(tqdm):
    """A bar where a terminal watches, a line now and then where none does."""

    def __init__(self, total: int | None, unit: str):
        super().__init__(total=total, unit=unit, disable=None)
        self._count, self._total, self._unit, self._began = 0, total, unit, time.monotonic()
        self._said = self._began

    def step(self) -> None:
        self.update()
        self._count, now = self._count + 1, time.monotonic()
        if self.disable and now - self._said > EVERY:
            self._said, rate = now, self._count / (now - self._began)
            left = f' of {self._total}, {(self._total - self._count) / rate:.0f} s left' if self._total else ''
            print(f'{self._count}{left}, {rate:.1f} {self._unit}s a second', flush=True)


class Prediction:
    """One run of the command: `run` predicts all, and `write` leaves what there is."""

    def __init__(self, estimator: HandPoseEstimator, paths: Sequence[str], output: str | Path, options):
        """Checks everything that can be wrong before any work. `options`: as `arguments` has them."""
        self.estimator, self.output, self.options = estimator, Path(output), options
        self.inputs = inputs.collect(paths, output)
        self.boxes = inputs.Boxes(options.boxes, self.inputs)
        files.check_writable(self.output)
        self.overlays = Overlays(self.output / 'overlays', self.inputs, estimator.min_score) if options.draw else None
        run = estimator.run
        self.searches = 'presence' in estimator.heads
        self.about = {
            'model': f'{run.workdir}, epoch {run.epoch}',
            'model_sha256': checkpoint.digest(checkpoint.leaves(run.model)),
            'decoder': estimator.decoder,
            'hand': estimator.hand,
            'refine': estimator.refine,
            'max_hands': options.max_hands if self.searches else 1,
            'min_score': estimator.min_score,
            'smooth': options.smooth,
        }
        boxes = Path(options.boxes).read_text() if options.boxes else ''
        self.journal = outputs.Journal(self.output, self.about | {'boxes': boxes, 'draw': options.draw})
        self.errors, self.empty = [], 0  # empty: photos in which no hand was found

    def run(self) -> None:
        todo = [file for file in self.inputs if file not in self.journal.finished]
        if len(todo) < len(self.inputs):
            print(f'Going on: {len(self.inputs) - len(todo)} of {len(self.inputs)} files are done already.', flush=True)
        try:
            self._photos([file for file in todo if not inputs.is_video(file)])
            for file in todo:
                if inputs.is_video(file):
                    self._video(file)
        finally:
            if self.overlays:
                self.overlays.close()

    def write(self, complete: bool) -> Path:
        """Writes what was predicted so far; the journal stays until all is."""
        entries = [entry for file in self.inputs for entry in self.journal.entries[file]]
        surroundings = logbook.environment()
        about = self.about | {'complete': complete, 'joints': hand.JOINTS} | surroundings
        path = outputs.write(self.output, self.options.format, entries, self.errors, about)
        self.journal.close(remove=complete)
        return path

    def _photos(self, todo: Sequence[str]) -> None:
        """In batches of hands; the next photos are read meanwhile."""
        batch = []
        with ThreadPoolExecutor() as pool, Progress(len(todo), 'photo') as bar:
            try:
                for file, reading in inputs.ahead(pool, images.read, todo, 2 * self.options.batch_size):
                    try:
                        batch.append((file, reading.result(), self.boxes(file)))
                    except UserError as e:
                        self._fail(file, e)
                    if sum(len(boxes) for *_, boxes in batch) >= self.options.batch_size:
                        self._predict(batch)
                        batch = []
                    bar.step()
                self._predict(batch)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _predict(self, batch: list) -> None:
        """`batch`: (file, image, boxes) of each photo."""
        boxed = [(image, box) for _, image, boxes in batch if not self._is_searched(boxes) for box in boxes]
        hands = iter(self.estimator.predict(*zip(*boxed, strict=True)) if boxed else [])
        searched = iter(
            self.estimator.detect([x for _, x, boxes in batch if self._is_searched(boxes)], self.options.max_hands)
        )
        for file, image, boxes in batch:
            found = next(searched) if self._is_searched(boxes) else [next(hands) for _ in boxes]
            self.empty += not found
            for one in found:
                self._add(file, image, one)
            if self.overlays:
                self.overlays.photo(file, image, found)
        if self.overlays:
            self.overlays.wait()
        for file, *_ in batch:
            self.journal.finish(file)

    def _is_searched(self, boxes: Sequence) -> bool:
        return self.searches and list(boxes) == [None]

    def _video(self, file: str) -> None:
        """Frame by frame, since each needs the last one's hand; what comes before a broken frame is kept."""
        print(file, flush=True)
        try:
            with video.reading(file) as clip, Progress(clip.number, 'frame') as bar:
                if not self.overlays:
                    self._frames(file, clip, bar, None)
                else:
                    with video.writing(self.overlays.path(file), clip.fps, clip.width, clip.height) as write:
                        self._frames(file, clip, bar, write)
        except UserError as e:
            self._fail(file, e)
        else:
            if file not in [error['file'] for error in self.errors]:
                self.journal.finish(file)

    def _frames(self, file: str, clip: video.Video, bar: Progress, write) -> None:
        trackers, hands_tracker = [], HandsTracker(self.estimator, self.options.max_hands, self.options.smooth)
        try:
            for index, seconds, image in clip.frames:
                boxes = self.boxes(file, index)
                if self._is_searched(boxes) and not trackers:
                    hands = hands_tracker(image, seconds)
                    for one in hands:
                        self._add(file, image, one, index, seconds)
                    if write:
                        write(self.overlays.draw(image, hands), seconds)
                    bar.step()
                    continue
                trackers += [Tracker(self.estimator, self.options.smooth) for _ in boxes[len(trackers) :]]
                boxes = boxes + [None] * (len(trackers) - len(boxes))
                tracked = [track(image, seconds, box) for track, box in zip(trackers, boxes, strict=True)]
                for one in tracked:
                    self._add(file, image, one.hand, index, seconds)
                if write:
                    write(self.overlays.draw(image, [one.hand for one in tracked if one.found]), seconds)
                bar.step()
        except UserError as e:  # the video that is written ends here, too
            self._fail(file, e)

    def _add(self, file: str, image: np.ndarray, one: HandPose, frame: int | None = None, seconds=None) -> None:
        self.journal.add(
            {
                'file': file,
                'frame': frame,
                'time': seconds,
                'width': image.shape[1],
                'height': image.shape[0],
                'keypoints': one.keypoints.tolist(),
                'scores': one.scores.tolist(),
                'score': one.score,
                'presence': one.presence,
                'box': one.box.tolist(),
                'handedness': one.handedness,
                'model': self.about['model'],
                'decoder': self.about['decoder'],
            }
        )

    def _fail(self, file: str, error: UserError) -> None:
        self.errors.append({'file': file, 'error': str(error)})


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
        '--hand', choices=HANDS, default='auto', help='auto (default): the network says which, or the higher score does'
    )
    add('--max_hands', type=int, default=2, metavar='N', help='hands a picture, where it is searched (default 2)')
    add(
        '--boxes',
        default='',
        metavar='FILE',
        help="x0, y0, x1, y1 around the hands: JSON {file: box}, or a run's output",
    )
    add('--refine', type=int, default=1, metavar='N', help='crop again around what was found, so often (default 1)')
    add('--min_score', type=float, help='leave out hands below it; default 0.9, and 0.5 of networks without presence')
    add('--smooth', action='store_true', help='videos: a one-euro filter on the tracks')
    add('--batch_size', type=int, default=16, help='photos at a time (default 16)')
    add('--compilation_cache', default=runtime.COMPILED, metavar='DIR', help='as of hpe_jax.main')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status.

    Raises:
      UserError: nothing could be done.
    """
    options = arguments(argv)
    for name in ('batch_size', 'max_hands'):
        if getattr(options, name) < 1:
            raise UserError(f'--{name}={getattr(options, name)}: must be at least 1')
    runtime.keep_compiled(options.compilation_cache)
    chosen = {name: getattr(options, name) for name in ('decoder', 'hand', 'refine', 'min_score')}
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
    path = prediction.write(complete=not interrupted)
    for error in prediction.errors:
        print(f'error: {error["error"]}', file=sys.stderr)
    done, total = len(prediction.journal.finished), len(prediction.inputs)
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
