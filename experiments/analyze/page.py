"""The report of this package as one HTML page that needs no other file: its pictures lie in it."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape

from matplotlib.figure import Figure
from PIL import Image

from hpe_jax import visualize

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; margin: 0 auto; padding: 0 16px 48px; max-width: 1240px; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; border-top: 1px solid #ddd; padding-top: 1rem; }
h3 { font-size: 1.05rem; margin-bottom: .3rem; }
p { max-width: 46rem; margin: .4rem 0 .8rem; overflow-wrap: anywhere; }
.note { color: #555; font-size: .9rem; }
.warning { background: #fff1d6; border-left: 4px solid #d98200; padding: .5rem .8rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .4rem 0 1rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
th { font-weight: 600; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.plots, .photos { display: grid; gap: 16px; align-items: start; }
.plots { grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); }
.photos { grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)); }
figure { margin: 0; min-width: 0; }
img { width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; color: #444; }
"""
Results = Mapping[str, dict]  # a run's name -> the content of its JSON file
LABEL = 'mean error, % of the image size'
# Keys of numbers.group and their columns.
GROUP = {
    'count': 'count',
    'error_pct': 'error %',
    'median_error_pct': 'median %',
    'within_5_pct': 'within 5 %',
    'peak': 'peak',
}


def data_uri(figure: Figure, dpi: int, **options) -> str:
    """A figure as a WebP picture inside an address."""
    figure.set_dpi(dpi)
    file = io.BytesIO()
    Image.fromarray(visualize.as_image(figure)).save(file, 'WEBP', **options)
    return 'data:image/webp;base64,' + base64.b64encode(file.getvalue()).decode()


def picture(uri: str, alt: str, caption: str) -> str:
    return f'<figure><img src="{uri}" alt="{escape(alt)}"><figcaption>{escape(caption)}</figcaption></figure>'


def plots(*captioned: tuple[Figure, str]) -> str:
    pictures = ''.join(picture(data_uri(figure, 150, lossless=True), caption, caption) for figure, caption in captioned)
    return f'<div class="plots">{pictures}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Floats with two digits after the point; what is missing is a dash."""

    def cell(value) -> str:
        if value is None or value != value:
            return '–'
        return f'{value:.2f}' if isinstance(value, float) else escape(str(value))

    lines = ['<tr>' + ''.join(f'<td>{cell(value)}</td>' for value in row) + '</tr>' for row in rows]
    head = ''.join(f'<th>{escape(name)}</th>' for name in head)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def rows_of(results: Results, groups: Callable) -> list[str]:
    """Names of all runs' groups: intervals in their order, others as they come; `groups`: result -> {name: group}."""
    union = {name: group for r in results.values() for name, group in groups(r).items()}
    return sorted(union, key=lambda name: union[name].get('from', 0))


def grouped(title: str, results: Results, groups: Callable) -> str:
    """A table of numbers.group's dicts."""
    found = {run: groups(r) for run, r in results.items()}
    rows = [(name, run) for name in rows_of(results, groups) for run in found if name in found[run]]
    keys = [key for key in GROUP if all(key in found[run][name] for name, run in rows)]
    runs = len(results) > 1
    head = [title, *(['run'] if runs else []), *(GROUP[key] for key in keys)]
    return table(head, [[n, *([run] if runs else []), *(found[run][n][key] for key in keys)] for n, run in rows])


def errors(results: Results, groups: Callable) -> dict[str, dict[str, float]]:
    """The mean errors in such groups, for visualize.bars; NaN where a run has none."""
    rows = rows_of(results, groups)
    return {
        run: {name: groups(r).get(name, {}).get('error_pct', float('nan')) for name in rows}
        for run, r in results.items()
    }


def own_scores(result: dict) -> dict:
    """The scores by the run's own decoder and codec."""
    return result['decoders'][result['decoder']]


def same_photos(results: Results) -> bool:
    return len({result['data']['sha256'] for result in results.values()}) == 1


def summary(results: Results) -> str:
    head = ['run', 'error_pct', 'PCK@0.05', 'AUC 0–30 px', 'photos', 'dataset', 'split', 'decoder', 'codec', 'input px']
    rows, notes = [], ''
    for name, r in results.items():
        scores, data, channels = own_scores(r), r['data'], r['channel_statistics']
        rows.append([name, scores['error_pct'], scores['pck@0.05_image'], f'{scores["auc_0_30px224"]:.3f}'])
        rows[-1] += [r['num_images'], data['dataset'], r['split'], r['decoder'], r['codec']]
        rows[-1] += [r['config']['data']['image_size']]
        where = data['manual_dir'] or data['data_dir'] or 'the default folder of prepared data'
        mean, std = (', '.join(f'{x:.4f}' for x in channels[key]) for key in ('mean', 'std'))
        text = (
            f'{name}: {r["workdir"]}, best epoch {r["epoch"]}. '
            f'{r["num_images"]} photos of {data["dataset"]} {r["split"]} ({where}), '
            f'{data["num_keypoints"]} keypoints in the frame. Channel mean {mean}, std {std}.'
        )
        if r['source']:
            text += f' Weights from {r["source"]["file"]}, SHA-256 {r["source"]["sha256"]}.'
        notes += f'<p class="note">{escape(text)}</p>'
    warning = '<p class="warning">These runs were scored on different photos: their numbers do not compare.</p>'
    return table(head, rows) + ('' if same_photos(results) else warning) + notes


def decoders(results: Results) -> str:
    """Every decoder with both codecs on the same heatmaps, and what each changes against the run's own."""
    text = (
        '<p>The same heatmaps, decoded in every way. The codec defines where a pixel lies: <code>subpixel</code> at '
        'its centre, <code>reference</code> at its upper left corner, half a pixel off, as the published PyTorch code '
        'has it. A change is against the run’s own way.</p>'
    )
    head = ['decoder, codec', 'error_pct', 'change', 'EPE px of 224', 'PCK@0.05', 'PCK@0.2 box', 'AUC 0–30 px']
    for name, r in results.items():
        rows = []
        for codec, ways in r['codecs'].items():
            for decoder, scores in ways.items():
                own = (decoder, codec) == (r['decoder'], r['codec'])
                change = scores['error_pct'] - own_scores(r)['error_pct']
                rows.append([f'{decoder}, {codec}', scores['error_pct'], 'own' if own else f'{change:+.2f}'])
                rows[-1] += [scores[key] for key in ('epe_px224', 'pck@0.05_image', 'pck@0.2_box')]
                rows[-1] += [f'{scores["auc_0_30px224"]:.3f}']
        text += f'<h3>{escape(name)}</h3>' + table(head, rows)
    return text


def curves(results: Results) -> str:
    runs = {name: own_scores(r)['pck_curve'] for name, r in results.items()}
    drawn = [(visualize.pck(runs), 'PCK against the threshold, each run by its own decoder')] if len(runs) > 1 else []
    for name, r in results.items():
        lines = {decoder: scores['pck_curve'] for decoder, scores in r['decoders'].items()}
        drawn.append((visualize.pck(lines), f'PCK of {name} by decoder, codec {r["codec"]}'))
    for figure, _ in drawn:
        figure.set_size_inches(4.8, 3.5)
    edges = next(iter(results.values()))['histogram']['edges_pct'][:-1]
    step = edges[1] - edges[0]
    counts = {name: r['histogram']['keypoints'] for name, r in results.items()}
    shares = {name: [100 * n / max(1, sum(c)) for n in c] for name, c in counts.items()}
    histogram = visualize.steps(shares, [*edges, edges[-1] + step], 'error, % of the image size', 'keypoints, %')
    drawn.append((histogram, f'Histogram of the keypoints’ errors; the last bin holds all above {edges[-1]:.0f} %'))
    percentiles = {name: r['histogram']['photo_error_percentiles_pct'] for name, r in results.items()}
    head = ['error of a photo, %', *next(iter(percentiles.values()))]
    return plots(*drawn) + table(head, [[name, *p.values()] for name, p in percentiles.items()])


def joints(results: Results) -> str:
    px224 = {name: own_scores(r)['per_joint']['epe_px224'] for name, r in results.items()}
    joint = {name: {j: px / 2.24 for j, px in values.items()} for name, values in px224.items()}
    finger = errors(results, lambda r: r['per_finger'])
    height = 1 + 3.8 * max(1, 0.6 * len(results))
    drawn = plots(
        (visualize.bars(finger, LABEL, min(height, 2.5 + len(results))), 'Error per finger'),
        (visualize.bars(joint, LABEL, height), 'Error per joint, from the palm outwards'),
    )
    return drawn + grouped('finger', results, lambda r: r['per_finger'])


def conditions(results: Results) -> str:
    """Hand size, occlusion, visibility."""

    def sizes(r):
        return {f'{100 * b["from"]:.0f} to {100 * b["to"]:.0f}': b for b in r['hand_size']}

    def framed(r):
        return r['visibility']['photos by keypoints in the frame']

    text = '<h3>Hand size</h3><p>The longer side of the true box around the keypoints in the frame, % of the image.</p>'
    text += plots((visualize.bars(errors(results, sizes), LABEL), 'Error of photos against hand size in %'))
    text += grouped('hand size, %', results, sizes)
    text += (
        '<h3>Occlusion</h3><p>Synthetic hands know what is hidden, by the hand or by a thing. FreiHAND does not '
        'state it, but its labels in 3-D show what is hidden by the hand itself: another bone, with flesh of 10 mm '
        'around it, crosses the line of sight to the keypoint.</p>'
    )
    with_occlusion = {name: r for name, r in results.items() if r['occlusion']}
    flat = ', '.join(results.keys() - with_occlusion.keys())
    if flat:
        text += f'<p class="warning">{escape(flat)}: these labels have no depth, so occlusion is unknown.</p>'
    if with_occlusion:
        text += plots(
            (visualize.bars(errors(with_occlusion, lambda r: r['occlusion']), LABEL, 2.0), 'Error against occlusion')
        )
        text += grouped('keypoints', with_occlusion, lambda r: r['occlusion'])
    text += (
        '<h3>Visibility</h3><p>A keypoint is visible if it lies in the frame; others are masked in training and count '
        'in no score. Their predictions, which cannot leave the frame, are listed for their peaks: a low one shows '
        'that the keypoint is missing.</p>'
    )
    text += plots((visualize.bars(errors(results, framed), LABEL, 2.5), 'Error of photos by keypoints in the frame'))
    text += grouped('photos by keypoints in the frame', results, framed)
    return text + grouped('keypoints', results, lambda r: r['visibility']['keypoints'])


def calibration(results: Results) -> str:
    bins = {name: r['calibration']['bins'] for name, r in results.items()}
    share = {name: ([b['peak'] for b in bs], [b['within_5_pct'] / 100 for b in bs]) for name, bs in bins.items()}
    error = {name: ([b['peak'] for b in bs], [b['error_pct'] for b in bs]) for name, bs in bins.items()}
    x = 'peak height of the heatmap'
    drawn = plots(
        (
            visualize.lines(share, x, 'share of keypoints within 5 %', diagonal=True),
            'Peak height as the probability that a keypoint is within 5 %: a calibrated one lies on the dashed line',
        ),
        (visualize.lines(error, x, LABEL), 'Error against peak height'),
    )
    rows = []
    for name, r in results.items():
        rows.append([name, *(f'{r["calibration"][key]:.3f}' for key in ('ece', 'rank_correlation'))])
    text = table(['run', 'expected calibration error', 'rank correlation of peak and error'], rows)
    return (
        drawn
        + text
        + grouped('peak', results, lambda r: {f'{b["from"]:.1f} to {b["to"]:.1f}': b for b in r['calibration']['bins']})
    )


def photos(galleries: Mapping[str, dict[str, list[tuple[dict, Figure]]]]) -> str:
    """`galleries`: run -> title -> (the photo's numbers, its picture)."""
    text = '<p>In each picture: true (left) and predicted (right); skeletons above, heatmaps below.</p>'
    for name, gallery in galleries.items():
        for title, tiles in gallery.items():
            shown = ''
            for numbers, figure in tiles:
                caption = f'{numbers["name"]}: error {numbers["error_pct"]:.2f} %, mean peak {numbers["peak"]:.2f}'
                alt = f'Photo {caption}; true and predicted skeletons and heatmaps'
                shown += picture(data_uri(figure, 110, quality=72), alt, caption)
            text += f'<h3>{escape(name)}: {escape(title)}</h3><div class="photos">{shown}</div>'
    return text


def page(results: Results, galleries: Mapping[str, dict]) -> str:
    """The whole report; both by the runs' names, as analyze.analyse returns them."""
    first = next(iter(results.values()))
    sections = {
        'Runs and data': summary(results),
        'Decoders and codecs': decoders(results),
        'PCK curves and histogram': curves(results),
        'Joints and fingers': joints(results),
        'Hand size, occlusion, visibility': conditions(results),
        'Calibration: peak height against error': calibration(results),
        'Photos': photos(galleries),
    }
    body = ''.join(f'<section><h2>{escape(title)}</h2>{content}</section>' for title, content in sections.items())
    made = escape(f'{first["command"]} · commit {first["git_commit"]} · {first["device"]}')
    title = escape(f'Hand pose: {", ".join(results)}')
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{STYLE}</style></head>
<body><h1>{title}</h1>
<p class="note">Errors are distances in % of the image size, unless named otherwise, over keypoints in the frame;
error_pct is their mean over a photo, then over photos.</p>
{body}<p class="note"><code>{made}</code></p></body></html>
"""
