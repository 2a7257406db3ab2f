"""A grid of config overrides x seeds: every run trained and scored, then compared in one table.

    python -m experiments.ablation --config=configs/quickstart.py --output=runs/codecs --seeds=0,1,2 \
        --vary=loss.name=iou,mse --vary=heatmap.codec=subpixel,reference [--set=train.epochs=10] [--dry_run]

Each `--vary` is a field of the config and its values; a variant is one choice of a value for each of them. `--set`
overrides a field in all variants. A run is `python -m hpe_jax.main` in a folder of its own, OUTPUT/VARIANT/seed_SEED,
with what it printed in log.txt: give the same command again, and finished runs are kept, killed ones continued and
failed ones tried again. `--jobs=8` trains eight at a time, each on a separate GPU or TPU chip (tried on CPUs only).

OUTPUT then holds results.json, table.md, and loss.png, pck.png, error_pct.png.
"""

import contextlib
import itertools
import json
import os
import queue
import re
import runpy
import shlex
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from hpe_jax import configuration, files, logbook, visualize
from hpe_jax.data import prepared
from hpe_jax.errors import UserError
from hpe_jax.metrics import NAMES

MAIN = (sys.executable, '-m', 'hpe_jax.main')
Overrides = Mapping[str, str]  # a field's dotted name -> its value, as on the command line


@dataclass(frozen=True)
class Run:
    """One training: a variant and a seed, and where it lies."""

    variant: str
    seed: int
    config_file: str
    overrides: Overrides
    workdir: Path

    @property
    def flags(self) -> list[str]:
        overrides = {**self.overrides, 'seed': self.seed}
        return [f'--config={self.config_file}', *(f'--config.{field}={value}' for field, value in overrides.items())]

    def config(self) -> ConfigDict:
        """The config as main reads it, checked.

        Raises:
          UserError: the file or a field does not exist, or a value cannot work.
        """
        values, argv = flags.FlagValues(), configuration.find_file_in(['', *self.flags])
        config = config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
        try:
            values(argv)
        except (AttributeError, KeyError) as e:
            base = runpy.run_path(str(configuration.find_file(self.config_file)))['get_config']()
            unknown = next(field for field in self.overrides if field not in configuration.fields(base))
            nearest = configuration.nearest_field(base, unknown)
            raise UserError(f'no field config.{unknown}; the nearest is config.{nearest}') from e
        except (flags.Error, TypeError, ValueError) as e:
            raise UserError(f'{self.variant}: {str(e).splitlines()[0]}') from e
        configuration.check(config.value)
        return config.value


def grid(vary: Sequence[str]) -> dict[str, Overrides]:
    """['loss.name=iou,mse', ...] to {variant: overrides}, all combinations; commas in brackets do not split."""
    choices = []
    for choice in vary:
        field, equals, values = choice.partition('=')
        if not (field and equals and values):
            raise UserError(f'--vary={choice}: want FIELD=VALUE,VALUE,...')
        choices.append([(field, value) for value in re.split(r',(?![^(]*\))', values)])
    combinations = [dict(fields) for fields in itertools.product(*choices)]
    return {' '.join(f'{k}={v}' for k, v in choice.items()) or 'baseline': choice for choice in combinations}


def plan(config_file: str, variants: Mapping[str, Overrides], seeds: Sequence[int], output: Path) -> list[Run]:
    """All runs, seed by seed, so that a first picture of every variant comes early."""
    folders = {variant: output / folder_name(variant) for variant in variants}
    return [
        Run(variant, seed, config_file, overrides, folders[variant] / f'seed_{seed}')
        for seed in seeds
        for variant, overrides in variants.items()
    ]


def folder_name(variant: str) -> str:
    """Letters that no shell minds; a checksum keeps 'train[:10]' and 'train[:10%]' apart."""
    plain = re.sub(r'[^\w.=-]+', '_', variant)
    return plain if plain == variant else f'{plain}-{zlib.crc32(variant.encode()):08x}'


def plain(config: ConfigDict) -> dict:
    """As it is read back from JSON."""
    return json.loads(json.dumps(config.to_dict()))


def finished(run: Run) -> dict | None:
    """The report of a run that has ended with just this config; None without one yet."""
    path = run.workdir / 'report.json'
    if not path.exists():
        return None
    report = json.loads(path.read_text())
    return report if report['config'] == plain(run.config()) else None


def print_plan(runs: Sequence[Run]) -> None:
    """Lists the runs, and which of them have ended already."""
    for run in runs:
        run.config()
        print('done ' if finished(run) else 'to do', shlex.join([*run.flags, f'--workdir={run.workdir}']))


def train(run: Run, job: int | None) -> dict:
    """Trains in a separate process, on the job's own device if there are several jobs.

    Returns:
      what `results.json` states of the run: its status, 'done' or 'failed', and either scores or the reason.
    """
    report = finished(run)
    began = time.perf_counter()
    if report is None:
        run.workdir.mkdir(parents=True, exist_ok=True)
        command = [*MAIN, *run.flags, f'--workdir={run.workdir.resolve()}']
        alone = {} if job is None else device_alone(job)
        with (run.workdir / 'log.txt').open('a') as log:
            code = subprocess.run(command, env=os.environ | alone, stdout=log, stderr=subprocess.STDOUT).returncode
        report = finished(run) if code == 0 else None
        if report is None:
            lines = (run.workdir / 'log.txt').read_text().split('\n')
            reason = next((line for line in reversed(lines) if line.strip()), 'it printed nothing')
            result = {'status': 'failed', 'reason': f'exit code {code}: {reason}'}
            return _told(run, result, reason, began)
    history = [json.loads(line) for line in (run.workdir / 'metrics.jsonl').read_text().splitlines()]
    kept = ('train_loss', 'validation_loss', 'validation_error_pct')
    result = {
        'status': 'done',
        'split': report['split'],
        'best_epoch': report['best_epoch'],
        'wall_time_s': report['wall_time_s'],
        'git_commit': report['git_commit'],
        'decoders': {
            name: {key: scores[key] for key in (*NAMES, 'pck_curve')} for name, scores in report['decoders'].items()
        },
        'history': {key: [record[key] for record in history] for key in kept},
    }
    error = report['decoders'][report['config']['eval']['decoder']]['error_pct']
    return _told(run, result, f'error_pct {error:.2f}', began)


def _told(run: Run, result: dict, words: str, began: float) -> dict:
    seconds = time.perf_counter() - began
    line = f'{result["status"]:6s}  {run.variant}, seed {run.seed}: {words} ({seconds:.0f} s)\n'
    print(line, end='', flush=True)  # in one piece, since other threads print too
    return result


def device_alone(job: int) -> dict[str, str]:
    """Environment that shows a process one GPU or TPU chip of this machine; it changes nothing on a CPU."""
    tpu = {'TPU_PROCESS_BOUNDS': '1,1,1', 'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1', 'TPU_VISIBLE_CHIPS': str(job)}
    return {'CUDA_VISIBLE_DEVICES': str(job), **tpu}


def prepare(config: ConfigDict) -> str | None:
    """Makes a run's data, so that no two runs do it at once; returns what is wrong with them, if anything is."""
    try:
        prepared.open_dataset(config.data)
    except UserError as e:
        return str(e)


def train_all(runs: Sequence[Run], jobs: int) -> list[dict]:
    """The result of every run, `jobs` of them at a time; none keeps another from going on."""
    places = queue.SimpleQueue()
    for job in range(jobs):
        places.put(job if jobs > 1 else None)

    @contextlib.contextmanager
    def place():
        job = places.get()
        try:
            yield job
        finally:
            places.put(job)

    def one(run):
        with place() as job:
            return train(run, job)

    data = {json.dumps([c.data.dataset, c.data.manual_dir, c.data.data_dir]): c for c in (r.config() for r in runs)}
    with ProcessPoolExecutor(1, get_context('spawn')) as pool:  # a process that leaves the devices to the runs
        for problem in pool.map(prepare, data.values()):
            if problem:
                print(f'error: {problem}', flush=True)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, runs))


def summarise(runs: Sequence[Run], results: Sequence[dict]) -> dict:
    """{variant: {'overrides', 'seeds': {seed: result}, 'mean', 'std'}}; mean and std by decoder and metric.

    The standard deviation is that of a sample (n - 1), None for a single run.
    """
    variants = {}
    for run, result in zip(runs, results, strict=True):
        variant = variants.setdefault(run.variant, {'overrides': dict(run.overrides), 'seeds': {}})
        variant['seeds'][str(run.seed)] = result
    for variant in variants.values():
        done = [seed['decoders'] for seed in variant['seeds'].values() if seed['status'] == 'done']
        names = done[0] if done else {}
        values = {name: {key: [scores[name][key] for scores in done] for key in NAMES} for name in names}
        variant['mean'] = {name: {k: float(np.mean(v)) for k, v in keys.items()} for name, keys in values.items()}
        variant['std'] = {
            name: {k: float(np.std(v, ddof=1)) if len(v) > 1 else None for k, v in keys.items()}
            for name, keys in values.items()
        }
    return variants


def wall_time(variants: Mapping[str, dict]) -> float:
    """Seconds of training and scoring, added up over all runs that ended."""
    return sum(run.get('wall_time_s', 0) for variant in variants.values() for run in variant['seeds'].values())


def table(variants: Mapping[str, dict]) -> str:
    """Markdown: mean ± standard deviation over seeds, one row a variant and decoder; then the runs that failed."""
    rows = [['variant', 'seeds', 'decoder', *NAMES], ['---', '---:', '---'] + ['---:'] * len(NAMES)]
    failures = []
    for name, variant in variants.items():
        failed = {seed: r['reason'] for seed, r in variant['seeds'].items() if r['status'] == 'failed'}
        failures += [f'- failed: {name}, seed {seed}: {reason}' for seed, reason in failed.items()]
        total = len(variant['seeds'])
        count = f'{total - len(failed)} of {total}' if failed else str(total)
        for decoder, means in variant['mean'].items():
            spread = variant['std'][decoder]
            rows.append([name, count, decoder, *(number(means[key], spread[key]) for key in NAMES)])
        if not variant['mean']:
            rows.append([name, count, 'failed', *('' for _ in NAMES)])
    text = '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)
    return text + ('\n\n' + '\n'.join(failures) if failures else '') + '\n'


def number(mean: float, std: float | None) -> str:
    digits = 3 if abs(mean) < 1 else 2
    return f'{mean:.{digits}f}' + ('' if std is None else f' ± {std:.{digits}f}')


def draw(variants: Mapping[str, dict], decoder: str, output: Path) -> None:
    """loss.png, pck.png and error_pct.png, of the runs that ended."""
    done = {name: [r for r in variant['seeds'].values() if r['status'] == 'done'] for name, variant in variants.items()}
    done = {name: results for name, results in done.items() if results}
    if not done:
        return
    histories = {name: [r['history'] for r in results] for name, results in done.items()}
    curves = {name: [r['decoders'][decoder]['pck_curve'] for r in results] for name, results in done.items()}
    errors = {name: [r['decoders'][decoder]['error_pct'] for r in results] for name, results in done.items()}
    visualize.save(visualize.compared_histories(histories), output / 'loss.png')
    visualize.save(visualize.compared_pck(curves), output / 'pck.png')
    visualize.save(visualize.compared_bars(errors, f'error_pct, decoder {decoder}'), output / 'error_pct.png')


def compare(
    config_file: str, variants: Mapping[str, Overrides], seeds: Sequence[int], output: str | Path, jobs: int = 1
) -> dict:
    """Trains every variant with every seed, and writes the results, the table and the plots into `output`.

    Returns:
      the content of results.json.

    Raises:
      UserError: a field or a value of some variant cannot work; nothing was trained then.
    """
    output = Path(output)
    runs = plan(config_file, variants, seeds, output)
    decoder = [run.config() for run in runs][0].eval.decoder
    files.check_writable(output)
    summary = summarise(runs, train_all(runs, jobs))
    base = Run('', 0, config_file, {}, output).config()
    about = {'config_file': config_file, 'config': plain(base), 'decoder': decoder, **logbook.environment()}
    results = {**about, 'jobs': jobs, 'wall_time_s': wall_time(summary), 'variants': summary}
    files.write_json(output / 'results.json', results)
    files.write_text(output / 'table.md', table(summary))
    draw(summary, decoder, output)
    return results


def main(_) -> None:
    fixed = {}
    for choice in SET.value:
        field, equals, value = choice.partition('=')
        if not equals:
            raise UserError(f'--set={choice}: want FIELD=VALUE')
        fixed[field] = value
    variants = {variant: {**fixed, **overrides} for variant, overrides in grid(VARY.value).items()}
    seeds = [int(seed) for seed in SEEDS.value]
    if DRY_RUN.value:
        return print_plan(plan(CONFIG.value, variants, seeds, Path(OUTPUT.value)))
    results = compare(CONFIG.value, variants, seeds, OUTPUT.value, JOBS.value)
    print(f'\n{table(results["variants"])}\n{OUTPUT.value}: results.json, table.md and the plots')


def define_flags() -> tuple[flags.FlagHolder, ...]:
    """--output, --seeds, --jobs and --dry_run, which every experiment of this kind has."""
    output = flags.DEFINE_string('output', None, 'Folder for runs and results.', required=True)
    seeds = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds of each variant.')
    flags.register_validator('seeds', lambda seeds: all(map(str.isdecimal, seeds)), 'want whole numbers: 0,1,2')
    jobs = flags.DEFINE_integer('jobs', 1, 'Runs at a time, each on a separate device.', lower_bound=1)
    return output, seeds, jobs, flags.DEFINE_bool('dry_run', False, 'Only list the runs.')


def call(main) -> None:
    """Runs an experiment's main; bad input is answered in one sentence."""
    try:
        app.run(main)
    except UserError as e:
        sys.exit(f'error: {e}')


if __name__ == '__main__':
    OUTPUT, SEEDS, JOBS, DRY_RUN = define_flags()
    CONFIG = flags.DEFINE_string('config', None, 'The config file that all runs start from.', required=True)
    VARY = flags.DEFINE_multi_string('vary', [], 'FIELD=VALUE,VALUE,...; repeat it for a grid.')
    SET = flags.DEFINE_multi_string('set', [], 'FIELD=VALUE, in all runs; may be repeated.')
    call(main)
