"""The analysis of trained models on a split; `python -m experiments.analyze` writes it as a page."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.analyze import numbers as analysis
from experiments.analyze import page
from hpe_jax import files, heatmap, logbook, metrics, trained_model, visualize
from hpe_jax.data import prepared
from hpe_jax.errors import UserError

WORST, BEST = 24, 8  # photos shown


def batches(num_images: int, size: int) -> Iterator[np.ndarray]:
    """Indices in batches of one size, so that everything compiles once; the last one repeats the last index."""
    for start in range(0, num_images, size):
        yield np.minimum(np.arange(start, start + size), num_images - 1)


def predict(
    run: trained_model.TrainedModel, split: prepared.Split
) -> tuple[dict[str, dict[str, np.ndarray]], np.ndarray]:
    """Codec -> decoder -> keypoints (n, 21, 2), and peaks (n, 21); heatmaps are dropped batch by batch."""
    num_images, decoders = len(split), run.config.eval.decoders
    parts = {codec: {decoder: [] for decoder in decoders} for codec in heatmap.CODECS}
    peaks = []
    turns = list(batches(num_images, min(num_images, run.config.eval.batch_size)))
    for which in tqdm(turns, 'Predicting', disable=None):
        prediction = run.predict([split.image(i) for i in which])
        peaks.append(prediction.peaks)
        for codec, found in parts.items():
            for decoder in decoders:
                found[decoder].append(run.decode(prediction.heatmaps, decoder, codec))
    keypoints = {c: {d: np.concatenate(found)[:num_images] for d, found in ways.items()} for c, ways in parts.items()}
    return keypoints, np.concatenate(peaks)[:num_images]


def analyse(run: trained_model.TrainedModel, split: str = '') -> tuple[dict, dict[str, list[tuple[dict, Figure]]]]:
    """One run on one split of the data that its config names.

    Args:
      split: a TFDS split; '' is config.data.test_split.

    Returns:
      the content of its JSON file, and the pictures of its worst and best photos for page.photos.

    Raises:
      UserError: the data cannot be read, or the split holds no photos.
    """
    data, codec, decoder = run.config.data, run.config.heatmap.codec, run.config.eval.decoder
    split = split or data.test_split
    photos = prepared.load(prepared.open_dataset(data), split)
    if not len(photos):
        raise UserError(f'split {split!r} of {data.dataset} holds no photos')
    keypoints, peaks = predict(run, photos)
    scores = {
        c: {d: analysis.scores(photos.keypoints, k, photos.visible) for d, k in ways.items()}
        for c, ways in keypoints.items()
    }
    own = keypoints[codec][decoder]
    numbers = analysis.breakdown(
        photos.keypoints, own, photos.visible, peaks, photos.xyz, photos.names, photos.occluded, photos.labelled
    )
    content = hashlib.sha256(photos.keypoints.tobytes() + b''.join(photos.photos)).hexdigest()
    result = {
        'workdir': str(run.workdir),
        'epoch': run.epoch,
        'split': split,
        'num_images': len(photos),
        'data': {
            **{name: data[name] for name in ('dataset', 'manual_dir', 'data_dir')},
            'num_keypoints': int(photos.visible.sum()),
            'sha256': content,
        },
        'decoder': decoder,
        'codec': codec,
        'decoders': scores[codec],
        'codecs': {c: {d: {k: s[k] for k in metrics.NAMES} for d, s in ways.items()} for c, ways in scores.items()},
        **numbers,
        'channel_statistics': run.model.standardise.to_dict(),
        'source': run.meta.get('source'),
        **logbook.environment(),
        'config': run.config.to_dict(),
    }
    return result, gallery(run, photos, numbers['photos'], own)


def ranking(numbers: list[dict]) -> tuple[list[int], list[int]]:
    """Which photos to show, from the worst on and from the best on; one without keypoints in the frame is neither.

    Where all photos are among the worst, the best one is shown again.
    """
    order = sorted((i for i, n in enumerate(numbers) if n['in_frame']), key=lambda i: -numbers[i]['error_pct'])
    return order[:WORST], order[WORST:][::-1][:BEST] or order[-1:]


def gallery(
    run: trained_model.TrainedModel, photos: prepared.Split, numbers: list[dict], predicted: np.ndarray
) -> dict[str, list[tuple[dict, Figure]]]:
    """Pictures of the worst and the best photos, with the photo's numbers, by title."""
    worst, best = ranking(numbers)
    pictures = _pictures(run, photos, numbers, predicted, np.array(worst + best, int))
    return {
        f'the worst, {len(worst)} of {len(numbers)} photos': pictures[: len(worst)],
        f'the best, {len(best)} of {len(numbers)} photos': pictures[len(worst) :],
    }


def _pictures(run, photos, numbers, predicted, which) -> list[tuple[dict, Figure]]:
    size, options = run.config.data.image_size, run.config.heatmap
    images = np.array([trained_model.resize(photos.image(i), size) for i in which])
    turns = batches(len(which), min(len(photos), run.config.eval.batch_size))
    found = np.array([maps for turn in turns for maps in run.predict(images[turn]).heatmaps])[: len(which)]
    true, visible, predicted = photos.keypoints[which], photos.visible[which], predicted[which]
    drawn = np.float32(heatmap.encode(true, visible, (size, size), options.sigma, options.codec, xp=np))
    if photos.left is not None:
        visualize.mirror_back(photos.left[which], (images, drawn, found), (true, predicted))
    return [
        (numbers[i], visualize.compared(image, t, p, v, t_maps, p_maps))
        for i, image, t, p, v, t_maps, p_maps in zip(which, images, true, predicted, visible, drawn, found, strict=True)
    ]


def write_report(runs: dict[str, trained_model.TrainedModel], output: str | Path, split: str = '') -> dict[str, dict]:
    """Analyses the runs, by name, writes OUTPUT/report.html and OUTPUT/NAME.json, and returns the latter's contents.

    Raises:
      UserError: as `analyse`, or the folder cannot be written.
    """
    files.check_writable(output)
    analysed = {name: analyse(run, split) for name, run in runs.items()}
    results = {name: result for name, (result, _) in analysed.items()}
    for name, result in results.items():
        files.write_json(Path(output) / f'{name}.json', result)
    text = page.page(results, {name: pictures for name, (_, pictures) in analysed.items()})
    files.write_text(Path(output) / 'report.html', text)
    return results
