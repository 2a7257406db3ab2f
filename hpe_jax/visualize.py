"""The only plotting file. Every function returns a matplotlib Figure; `save` and `as_image` take it from there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from hpe_jax import files, hand, metrics


def save(figure: Figure, path: str | Path) -> None:
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def as_image(figure: Figure) -> UInt8[np.ndarray, 'h w 3']:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def mirror_back(
    left: Bool[np.ndarray, ' n'],
    maps: Sequence[Shaped[np.ndarray, 'n _ _ _']],
    keypoints: Sequence[Float[np.ndarray, 'n 21 2']],
) -> None:
    """Makes left hands, which are stored mirrored, what was photographed; in place.

    maps: images or heatmaps; keypoints: normalised.
    """
    for each in maps:
        each[left] = each[left, :, ::-1]
    for points in keypoints:
        points[left, :, 0] = 1 - points[left, :, 0]


def draw_hand(axes: Axes, keypoints: Float[np.ndarray, '21 2'], visible: Bool[np.ndarray, '21'], **style) -> None:
    """A skeleton in finger colours; keypoints in pixels of the picture below it, invisible ones left out."""
    for finger, joints in hand.FINGERS.items():
        chain = [j for j in (0, *joints) if visible[j]]
        axes.plot(*keypoints[chain].T, color=hand.COLOURS[finger], solid_capstyle='round', **style)
    axes.scatter(*keypoints[visible].T, s=5, color='white', linewidths=0, zorder=3)


def overlay(
    image: UInt8[np.ndarray, 'h w 3'], keypoints: Float[np.ndarray, 'n 21 2'], opacity: Sequence[float]
) -> UInt8[np.ndarray, 'h w 3']:
    """A picture of any size, at its own size, with hands drawn into it: skeletons in finger colours, white joints.

    Args:
      keypoints: pixels of the picture.
      opacity: of each hand, in [0, 1].
    """
    picture = Image.fromarray(image)
    for hand_keypoints, opaque in zip(keypoints, opacity, strict=True):
        low, high = hand_keypoints.min(0), hand_keypoints.max(0)
        width = max(1.5, (high - low).max() / 45)
        left, upper = (max(0, int(x - 2 * width)) for x in low)
        right, lower = (min(n, int(x + 2 * width) + 1) for x, n in zip(high, picture.size, strict=True))
        if left >= right or upper >= lower:
            continue
        # Drawn larger and shrunk, since Pillow draws without antialiasing; a large hand does not need it.
        factor = 4 if (right - left) * (lower - upper) < 1_500_000 else 1
        layer = Image.new('RGBA', (factor * (right - left), factor * (lower - upper)))
        _draw_skeleton(ImageDraw.Draw(layer), factor * (hand_keypoints - [left, upper]), factor * width)
        layer = layer.reduce(factor)
        layer.putalpha(layer.getchannel('A').point(lambda alpha, opaque=opaque: opaque * alpha))
        picture.paste(layer, (left, upper), layer)
    return np.asarray(picture)


def _draw_skeleton(pen: ImageDraw.ImageDraw, points: Float[np.ndarray, '21 2'], width: float) -> None:
    for finger, joints in hand.FINGERS.items():
        chain = [tuple(points[j]) for j in (0, *joints)]
        pen.line(chain, fill=hand.COLOURS[finger], width=max(1, round(width)), joint='curve')
    for x, y in points:
        pen.circle((x, y), 0.62 * width, fill='white')


def show(axes: Axes, image: np.ndarray, **options) -> None:
    """A picture with the convention of geometry.py: it spans [0, width] x [0, height]."""
    height, width = image.shape[:2]
    axes.imshow(image, extent=(0, width, height, 0), **options)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def skeletons(
    images: UInt8[np.ndarray, 'n h w 3'],
    true: Float[np.ndarray, 'n 21 2'],
    predicted: Float[np.ndarray, 'n 21 2'],
    visible: Bool[np.ndarray, 'n 21'],
    columns: int = 4,
) -> Figure:
    """Photos in pairs, the true skeleton on the left and the predicted one on the right; keypoints normalised."""
    size = np.array(images.shape[2:0:-1])
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(4.4 * columns, 2.35 * rows), layout='constrained')
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.axis('off')
    pairs = grid.reshape(-1, 2)
    for pair, image, t, p, v in zip(pairs, images, true, predicted, visible, strict=False):
        error = f', {100 * np.linalg.norm(t - p, axis=-1)[v].mean():.1f} %' if v.any() else ': no keypoint in the frame'
        for axes, keypoints, title in ((pair[0], t, 'true'), (pair[1], p, f'predicted{error}')):
            show(axes, image)
            draw_hand(axes, keypoints * size, v, linewidth=1.8)
            axes.set_title(title, fontsize=9)
    return figure


def sheet(
    images: UInt8[np.ndarray, 'rows columns h w 3'],
    keypoints: Float[np.ndarray, 'rows columns 21 2'],
    visible: Bool[np.ndarray, 'rows columns 21'],
) -> Figure:
    """Photos side by side with their skeletons; keypoints normalised."""
    rows, columns, height, width = images.shape[:4]
    figure = Figure(figsize=(1.6 * columns, 1.6 * rows * height / width))
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.02, hspace=0.02)
    for place in np.ndindex(rows, columns):
        grid[place].axis('off')
        show(grid[place], images[place])
        draw_hand(grid[place], keypoints[place] * [width, height], visible[place], linewidth=1)
    return figure


def heatmaps(image: UInt8[np.ndarray, 'h w 3'], maps: Float[np.ndarray, 'h w 21']) -> Figure:
    """The 21 predicted heatmaps of one photo, each over the photo in grey, with its highest value."""
    grey = image.mean(-1)
    figure = Figure(figsize=(14, 6.6), layout='constrained')
    for axes, name, one in zip(figure.subplots(3, 7).flat, hand.JOINTS, np.moveaxis(maps, -1, 0), strict=True):
        show(axes, grey, cmap='gray', vmin=0, vmax=255)
        show(axes, one, cmap='inferno', vmin=0, vmax=1, alpha=np.clip(0.15 + one, 0, 1))
        axes.set_title(f'{name}  {one.max():.2f}', fontsize=8)
    return figure


def curves(history: Sequence[Mapping]) -> Figure:
    """Losses, validation error and learning rate against the epoch."""
    epochs = [record['epoch'] for record in history]
    figure = Figure(figsize=(9, 8), layout='constrained')
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1.2))
    marker = 'o' if len(epochs) == 1 else None
    for name in ('train_loss', 'validation_loss'):
        top.plot(epochs, [record[name] for record in history], label=name.replace('_', ' '), marker=marker)
    top.set_ylabel('loss')
    top.legend()
    middle.plot(epochs, [record['validation_error_pct'] for record in history], color='C1', marker=marker)
    middle.set_ylabel('validation error\n% of the image size')
    bottom.plot(epochs, [record['learning_rate'] for record in history], color='C2', marker=marker)
    bottom.set(ylabel='learning rate', xlabel='epoch', yscale='log')
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    return figure


def pck(curves: Mapping[str, Sequence[float]]) -> Figure:
    """PCK against the threshold, one line a name; the values belong to metrics.CURVE_PX224."""
    figure = Figure(figsize=(7, 5), layout='constrained')
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(metrics.CURVE_PX224, values, label=name)
    axes.set(
        xlabel='threshold, px of a 224 px wide image', ylabel='keypoints within it, %', xlim=(0, 30), ylim=(0, 100)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def compared_histories(histories: Mapping[str, Sequence[Mapping[str, Sequence[float | None]]]]) -> Figure:
    """Training loss, validation loss and validation error of many runs; a name's runs (its seeds) share a colour.

    The axes are logarithmic: different losses lie decades apart.
    """
    figure = Figure(figsize=(9, 10), layout='constrained')
    panels = figure.subplots(3, 1, sharex=True)
    for i, (name, runs) in enumerate(histories.items()):
        for run in runs:
            for axes, values in zip(panels, run.values(), strict=True):
                values = np.array(values, float)  # None becomes NaN, which is not drawn
                label = name if run is runs[0] else None
                axes.plot(np.arange(1, len(values) + 1), values, color=f'C{i}', alpha=0.7, label=label)
    for axes, label in zip(
        panels, ('train loss', 'validation loss', 'validation error\n% of the image size'), strict=True
    ):
        axes.set(ylabel=label, yscale='log')
        axes.grid(alpha=0.3, which='both')
    panels[-1].set_xlabel('epoch')
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center', ncols=3, fontsize=8)
    return figure


def compared_pck(curves: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Each name's mean PCK over its runs, and the range between them shaded."""
    figure = pck({name: np.mean(runs, 0).tolist() for name, runs in curves.items()})
    for line, runs in zip(figure.axes[0].lines, curves.values(), strict=True):
        low, high = np.min(runs, 0), np.max(runs, 0)
        figure.axes[0].fill_between(metrics.CURVE_PX224, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return figure


def compared_bars(values: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Each name's mean as a bar, its standard deviation as a whisker, and every run as a dot."""
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(values)), layout='constrained')
    axes = figure.subplots()
    for row, runs in enumerate(values.values()):
        spread = np.std(runs, ddof=1) if len(runs) > 1 else None
        axes.barh(row, np.mean(runs), xerr=spread, color=f'C{row}', alpha=0.6, capsize=4)
        axes.plot(runs, [row] * len(runs), 'o', color='black', markersize=3)
    axes.set(yticks=range(len(values)), yticklabels=values, xlabel=label)
    axes.invert_yaxis()
    axes.grid(axis='x', alpha=0.3)
    return figure


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, diagonal: bool = False
) -> Figure:
    """Points joined by lines, one line a name: name -> (x, y); with the diagonal of [0, 1] if it means something."""
    figure = Figure(figsize=(4.8, 3.5), layout='constrained')
    axes = figure.subplots()
    if diagonal:
        axes.plot([0, 1], [0, 1], color='0.6', linestyle='--', linewidth=1)
    for name, (x, y) in series.items():
        axes.plot(x, y, label=name, marker='o', markersize=3)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def bars(series: Mapping[str, Mapping[str, float]], label: str, height: float = 3.5) -> Figure:
    """Horizontal bars, those of one row side by side: name -> row -> value; the first row is on top."""
    figure = Figure(figsize=(4.8, height), layout='constrained')
    axes = figure.subplots()
    rows = list(dict.fromkeys(row for values in series.values() for row in values))
    thickness = 0.8 / max(1, len(series))
    for i, (name, values) in enumerate(series.items()):
        places = [rows.index(row) + (i + 0.5) * thickness - 0.4 for row in values]
        axes.barh(places, list(values.values()), thickness, label=name)
    axes.set(xlabel=label, yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.4, -0.6))
    axes.grid(alpha=0.3, axis='x')
    if len(series) > 1:
        axes.legend()
    return figure


def steps(series: Mapping[str, Sequence[float]], edges: Sequence[float], xlabel: str, ylabel: str) -> Figure:
    """Histograms as outlines: name -> one value a bin between two of the edges."""
    figure = Figure(figsize=(4.8, 3.5), layout='constrained')
    axes = figure.subplots()
    for name, values in series.items():
        axes.stairs(values, edges, label=name, linewidth=1.5)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(edges[0], edges[-1]))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def in_colours(image: UInt8[np.ndarray, 'h w 3'], maps: Float[np.ndarray, 'h w 21']) -> UInt8[np.ndarray, 'h w 3']:
    """All heatmaps of one hand in their finger's colour, the wrist's in white, over the photo in dark grey."""
    picture = np.repeat(0.35 * image.mean(-1, keepdims=True), 3, -1)
    colours = {(0,): '#ffffff'} | {joints: hand.COLOURS[finger] for finger, joints in hand.FINGERS.items()}
    for joints, colour in colours.items():
        height = np.clip(maps[..., joints].max(-1, keepdims=True), 0, 1)
        picture = (1 - height) * picture + height * 255 * np.array(to_rgb(colour))
    return np.uint8(picture)


def compared(
    image: UInt8[np.ndarray, 'h w 3'],
    true: Float[np.ndarray, '21 2'],
    predicted: Float[np.ndarray, '21 2'],
    visible: Bool[np.ndarray, '21'],
    true_maps: Float[np.ndarray, 'h w 21'],
    predicted_maps: Float[np.ndarray, 'h w 21'],
) -> Figure:
    """One photo four times: true and predicted skeleton above, true and predicted heatmaps below; normalised."""
    size = np.array(image.shape[1::-1])
    figure = Figure(figsize=(4.4, 4.4))
    grid = figure.subplots(
        2, 2, gridspec_kw={'left': 0, 'right': 1, 'bottom': 0, 'top': 1, 'wspace': 0.02, 'hspace': 0.02}
    )
    for axes, keypoints in zip(grid[0], (true, predicted), strict=True):
        show(axes, image)
        draw_hand(axes, keypoints * size, visible, linewidth=1.8)
    for axes, maps in zip(grid[1], (true_maps, predicted_maps), strict=True):
        show(axes, in_colours(image, maps))
    for axes in grid.flat:
        axes.axis('off')
    return figure
