"""Where runs err: one HTML page to look at, and the numbers of each run as JSON.

    python -m experiments.analyze [RUN ...] [--split=test] [--output=runs/analysis]
    python -m experiments.analyze runs/published --dataset=freihand/full --manual_dir=FOLDER --split=all

RUN is a run directory; without one, the shipped model's. Each is analysed by the config that lies in it and on the
data that this config names, unless --dataset, --manual_dir or --data_dir name other data for all. Writes
OUTPUT/report.html and OUTPUT/RUN.json, whose top level has the fields of a run's own report.json. Needs no TensorFlow.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from experiments import analyze
from experiments.analyze import page
from hpe_jax import trained_model
from hpe_jax.errors import UserError
from hpe_jax.trained_model import SHIPPED


def names_of(workdirs: list[str]) -> dict[str, str]:
    """Short names of run directories: the folder's, and its parent's where two are alike."""
    paths = [Path(workdir).resolve() for workdir in workdirs]
    short = [path.name for path in paths]
    names = [p.name if short.count(p.name) == 1 else f'{p.parent.name}-{p.name}' for p in paths]
    if len(set(names)) < len(names):
        raise UserError(f'run directories with the same name: {", ".join(workdirs)}')
    return dict(zip(names, workdirs, strict=True))


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    given = {
        f'data.{name}': values[name].value for name in ('dataset', 'manual_dir', 'data_dir') if values[name].present
    }
    runs = {name: trained_model.load(workdir, given) for name, workdir in names_of(argv[1:] or [str(SHIPPED)]).items()}
    results = analyze.write_report(runs, values.output, values.split)
    print('| run | data | photos | decoder | error_pct | PCK@0.05 | AUC 0-30 px |')
    print('| --- | --- | ---: | --- | ---: | ---: | ---: |')
    for name, r in results.items():
        s = page.own_scores(r)
        numbers = f'{s["error_pct"]:.3f} | {s["pck@0.05_image"]:.1f} | {s["auc_0_30px224"]:.3f}'
        print(f'| {name} | {r["data"]["dataset"]} {r["split"]} | {r["num_images"]} | {r["decoder"]} | {numbers} |')
    if not page.same_photos(results):
        print('\nThese runs were scored on different photos: their numbers do not compare.')
    print(f'\nThe whole report: {Path(values.output) / "report.html"}')


def define_flags() -> None:
    flags.DEFINE_string('split', '', 'A TFDS split; default: config.data.test_split of each run.')
    flags.DEFINE_string('dataset', '', 'As config.data.dataset, for all runs; default: that of each run.')
    flags.DEFINE_string('manual_dir', '', 'As config.data.manual_dir, for all runs.')
    flags.DEFINE_string('data_dir', '', 'As config.data.data_dir, for all runs.')
    flags.DEFINE_string('output', 'runs/analysis', 'Folder to write into.')


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)  # orbax logs the tracebacks of what is said in one sentence below
    define_flags()
    try:
        app.run(main)
    except UserError as e:
        sys.exit(f'error: {e}')
