"""The READMEs' results are those of the records, and their links lead somewhere."""

import importlib.util
import json
import re
import statistics
from pathlib import Path

import pytest

from configs import unet
from experiments import ablation, benchmark_start, fine_tuning, hands, transfer
from hpe_jax import configuration

ROOT = Path(__file__).parents[1]
PACKAGE_READMES = ('hpe_jax', 'configs', 'experiments', 'hpe_jax/weights/hands')
READMES = ('README.md', *(f'{folder}/README.md' for folder in PACKAGE_READMES))
TEXTS = {name: (ROOT / name).read_text() for name in READMES}
ROW = re.compile(r'^\| .* \| *([\d.]+) \| *([\d.]+) \| *([\d.]+) \|.*\(experiments/(records/\w+\.json)\) \|$', re.M)
ROWS = ROW.findall(TEXTS['README.md'])
LINKS = [(name, link) for name, text in TEXTS.items() for link in re.findall(r'\]\(((?!http)[^)]+)\)', text)]

HELD = {  # first lines of the tables of measured numbers, and what holds them
    '| what | error_pct | PCK@0.05 | AUC 0-30 px | time, device | record |': 'a record a row',
    '| loss, optimiser (its rate) | error_pct | PCK@0.05 | AUC 0-30 px |': 'records/loss_ablation.json',
    '| | largest difference |': 'tests/test_torch_weights.py',
    '| | a step, ms | ours / it | images a second, whole epochs | peak memory, GB |': 'records/benchmark_train.json',
    '| | ms at batch 1 | photos a second at 1 | photos a second at 8 | photos a second at 48 |': 'benchmark_infer.json',
    '| | examples a second |': 'records/benchmark_input.json',
    '| hands, pixels | images a second, one process | a process a core | GFLOP | MB | an H100 at most |': (
        'records/benchmark_render.json'
    ),
    '| | memory, GB | read and written, GB | images/s by bytes | images/s by arithmetic |': 'records/aot_tpu.json',
    '| | memory, GB |': 'records/aot_cuda.json',
    '| | nme | median | PCK@0.1 | PCK@0.2 |': 'records/hands.json',
    '| samples, million | synthetic nme | FreiHAND-like nme | FreiHAND-like PCK@0.2 | other sets nme |': (
        'records/hands_training.json'
    ),
    '| | synthetic nme | PCK@0.2 | FreiHAND-like nme | PCK@0.2 | other sets nme |': 'records/transfer.json',
    '| labelled crops | nme | PCK@0.2 of the box | error_pct |': 'records/fine_tuning.json',
    '| | seconds |': 'records/benchmark_start.json',
    '| field | default | |': 'configs/unet.py',
    '| | ours (`hpe_jax/metrics.py`) | mmpose | the same? |': 'tests/test_metrics.py',
}


def record(path: str) -> dict:
    return json.loads((ROOT / 'experiments' / path).read_text())


def anchors(text: str) -> set[str]:
    headings = re.findall(r'^#+ (.*)$', text, re.M)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_some_rows_were_measured():
    assert len(ROWS) >= 2


@pytest.mark.parametrize('row', ROWS, ids=lambda row: Path(row[-1]).stem)
def test_a_row_is_that_of_its_record(row):
    *numbers, path = row
    kept = record(path)
    metrics = kept['decoders'][kept['config']['eval']['decoder']]
    for text, name in zip(numbers, ('error_pct', 'pck@0.05_image', 'auc_0_30px224'), strict=True):
        assert float(text) == pytest.approx(metrics[name], abs=0.51 * 10 ** -len(text.partition('.')[2]))
    assert kept['command'] and kept['git_commit'] and kept['device']


def test_the_table_of_the_loss_ablation_is_that_of_its_record():
    kept = record('records/loss_ablation.json')
    for name, variant in kept['variants'].items():
        assert len(variant['seeds']) >= 3 and all(run['status'] == 'done' for run in variant['seeds'].values())
        mean, std = variant['mean'][kept['decoder']], variant['std'][kept['decoder']]
        cells = [ablation.number(mean[key], std[key]) for key in ('error_pct', 'pck@0.05_image', 'auc_0_30px224')]
        assert f'| {" | ".join([name, *cells])} |' in TEXTS['experiments/README.md']
    assert kept['command'] and kept['git_commit'] and kept['device']


@pytest.mark.parametrize('readme', ['experiments/README.md', 'hpe_jax/weights/hands/README.md'])
def test_the_table_of_the_hands_model_is_that_of_its_record(readme):
    kept = record('records/hands.json')
    assert hands.table(kept) in TEXTS[readme]
    assert kept['command'] and kept['git_commit'] and kept['device']


def test_what_is_said_of_the_training_on_a_gpu_is_that_of_its_record():
    kept, text = record('records/hands_training.json'), ' '.join(TEXTS['experiments/README.md'].split())
    for row in kept['curve']['rows']:
        samples, *scores = row.values()
        assert f'| {samples:.2f} | {" | ".join(f"{score:.3f}" for score in scores)} |' in text
    config, history, rendering = kept['config'], kept['history'], kept['rendering']
    samples = config['train']['batch_size'] * config['train']['steps_per_epoch'] * len(history)
    rate = statistics.median(epoch['images_per_second'] for epoch in history)
    minutes = sum(epoch['seconds'] for epoch in history) / 60
    assert f'in {minutes:.1f} minutes ([record](records/hands_training.json)): {samples:,} samples of' in text
    assert f'at {round(rate, -3):,.0f} a second, in bfloat16' in text
    assert f'{rendering["hands"]:,} hands in {rendering["seconds"]:.0f} s' in text
    assert rendering['hands'] == config['data']['live_pool'] and kept['command'] and 'H100' in kept['device']


def test_what_is_said_of_the_training_of_the_heads_is_that_of_its_record():
    kept, text = record('records/hands_training_heads.json'), ' '.join(TEXTS['experiments/README.md'].split())
    train = kept['config']['train']
    assert kept['samples'] == len(kept['history']) * train['steps_per_epoch'] * train['batch_size']
    assert f'{kept["samples"]:,} samples in {kept["seconds"] / 60:.0f} minutes' in text
    assert train['heads_only'] and len({epoch['validation_error_pct'] for epoch in kept['history']}) == 1
    others = record('records/hands.json')['others']
    assert f'In {others["with_a_hand_found"] * others["images"]:.0f} of {others["images"]} portraits' in text


@pytest.mark.parametrize(
    'name, variants, seeds',
    [('transfer', transfer.VARIANTS, 3), ('transfer_renders', transfer.LONG_VARIANTS, 1)],
)
def test_the_table_of_what_transfers_is_that_of_its_record(name, variants, seeds):
    kept = record(f'records/{name}.json')
    assert transfer.table(kept['variants']) in TEXTS['experiments/README.md']
    assert len(kept['seeds']) == seeds and kept['variants'].keys() == variants.keys()
    assert kept['command'] and kept['git_commit'] and kept['device']


@pytest.mark.parametrize('name', ['benchmark_train', 'benchmark_train_handnet'])
def test_the_table_of_training_speed_is_that_of_its_record(name):
    from experiments import benchmark_train

    text = ' '.join(TEXTS['experiments/README.md'].split())
    assert ' '.join(benchmark_train.table(record(f'records/{name}.json')).split()) in text


def test_the_table_of_rendering_speed_is_that_of_its_record():
    from experiments import benchmark_render

    kept = record('records/benchmark_render.json')
    assert benchmark_render.table(kept) in TEXTS['experiments/README.md'] and kept['counted'] and kept['git_commit']


@pytest.mark.parametrize('name', ['aot_tpu', 'aot_cuda'])
def test_the_tables_of_compiled_steps_are_those_of_their_records(name):
    from experiments import aot

    kept = record(f'records/{name}.json')
    assert aot.table(kept) in TEXTS['experiments/README.md'] and kept['target'] and kept['git_commit']


@pytest.mark.parametrize('name', ['benchmark_infer', 'benchmark_infer_handnet'])
def test_the_table_of_inference_is_that_of_its_record(name):
    for what, by_size in record(f'records/{name}.json')['seconds'].items():
        medians = {int(n): statistics.median(values) for n, values in by_size.items()}
        rates = ''.join(f' {n / seconds:.0f} |' for n, seconds in medians.items())
        assert f'\n| {what} | {1e3 * medians[1]:.2f} |{rates}\n' in TEXTS['experiments/README.md']


def test_the_table_of_the_input_is_that_of_its_record():
    for name, rates in record('records/benchmark_input.json')['rates'].items():
        assert f'\n| {name} | {statistics.median(rates):.0f} |\n' in TEXTS['experiments/README.md']


def test_the_table_of_fine_tuning_is_that_of_its_record():
    kept = record('records/fine_tuning.json')
    assert fine_tuning.table(kept['crops']) in TEXTS['experiments/README.md'] and kept['command'] and kept['git_commit']


def test_the_table_of_starting_is_that_of_its_record():
    kept = record('records/benchmark_start.json')
    assert benchmark_start.table(kept['seconds']) in TEXTS['experiments/README.md'] and kept['device']


def test_the_times_of_freihands_full_size_are_those_of_the_record():
    kept = record('records/benchmark_freihand.json')
    assert (
        f'{kept["photos"]:,} photos are prepared in {kept["preparing"]:.0f} s ({kept["preparing_ms_a_photo"]:.2f} ms a '
        f'photo), the first start then takes {kept["first_start"]:.0f} s and every later one '
        f'{kept["second_start"]:.0f} s; the process never has more than {kept["peak_memory_GB"]:.1f} GB.'
    ) in ' '.join(TEXTS['experiments/README.md'].split())


def test_what_was_killed_is_that_of_the_record():
    kept = record('records/durability.json')
    of_sources = [kept[source] for source in ('resident', 'tfdata')]
    kills, runs, same = (
        sum(map(count, of_sources))
        for count in (lambda s: sum(s['kills'].values()), lambda s: s['runs'], lambda s: s['same_parameters'])
    )
    assert kills >= 50 and runs == same
    text = ' '.join(TEXTS['experiments/README.md'].split())
    assert f'{kills} kills in {runs} runs, of which {same} ended in the parameters' in text
    save = kept['save_ms']
    assert f'{save["synced"]:.0f} ms with syncing and in {save["not_synced"]:.0f} ms without' in text


def test_the_memory_is_that_of_its_record():
    kept = record('records/benchmark_memory.json')
    expected = {name: f'{value / 1e9:.2f} GB' for name, value in kept['arithmetic_bytes'].items()}
    measured = {name: f'{value / 1e9:.2f} GB' for name, value in kept['measured_bytes'].items()}
    assert (
        f'by arithmetic {expected["photos"]} of photos and {expected["step, by XLA"]} for a step; measured '
        f'{measured["photos"]} and {measured["photos and training"]} together, above the {measured["before"]} that'
    ) in ' '.join(TEXTS['experiments/README.md'].split())


@pytest.mark.parametrize(('column', 'preset'), [(1, 'full'), (2, 'studio')])
def test_the_statistics_of_synthetic_hands_are_those_of_their_record(column, preset):
    rows = {
        "longer side of the hand's box, % of the frame": 'box_pct_of_frame',
        "middle of the box from the frame's, % of the frame": 'centre_offset_pct',
        'keypoints hidden by a thing or by the hand itself, %': 'keypoints_occluded_pct',
    }
    table = (ROOT / 'hpe_jax/data/synthetic_hands/README.md').read_text()
    for name, key in rows.items():
        (line,) = (line for line in table.splitlines() if line.startswith(f'| {name} |'))
        numbers = [float(x) for x in re.findall(r'[\d.]+', line.split('|')[1 + column])]
        kept = record(f'records/synthetic_{preset}.json')[key]
        assert numbers == pytest.approx([kept[x] for x in ('mean', 'p5', 'p50', 'p95')], abs=0.051)


def test_the_table_of_fields_is_the_reference_config():
    rows = re.findall(r'^\| `([\w.]+)` \| `(.*?)` \| .*\|$', TEXTS['configs/README.md'], re.M)
    fields = configuration.fields(unet.get_config().to_dict())
    assert len(rows) == len(dict(rows)) and dict(rows) == {name: repr(value) for name, value in fields.items()}


def test_every_config_is_in_the_table():
    names = {path.name for path in (ROOT / 'configs').glob('*.py')} - {'__init__.py'}
    assert names == set(re.findall(r'^\| `configs/(\w+\.py)` \| [^|]* \| [^|]* \|$', TEXTS['README.md'], re.M))


def test_the_layout_names_every_module():
    for path in (ROOT / 'hpe_jax').iterdir():
        if path.suffix in ('.py', '.html') and path.name != '__init__.py' or (path / '__init__.py').exists():
            assert path.name in TEXTS['hpe_jax/README.md'], path.name


@pytest.mark.parametrize('readme', READMES)
def test_every_file_and_command_exists(readme):
    """Paths in backticks; modules after `python -m`; fields of configs."""
    text = TEXTS[readme]
    for path in re.findall(r'`((?:hpe_jax|configs|experiments|tests)/[\w./]+)`', text):
        assert (ROOT / path).exists() or path == 'configs/NAME.py', path
    for module in re.findall(r'python -m ((?:hpe_jax|experiments)[\w.]*)', text):
        assert importlib.util.find_spec(module), module
    fields = configuration.fields(unet.get_config().to_dict())
    for field in re.findall(r'--config\.([a-z_.]+)=', text):
        assert field in fields, field
    for config in re.findall(r'--config=(configs/\w+\.py)', text):
        assert (ROOT / config).exists(), config


@pytest.mark.parametrize('readme', READMES)
def test_no_table_of_numbers_is_held_by_nothing(readme):
    for table in re.findall(r'(?:^\|.*\n)+', TEXTS[readme], re.M):
        first, *rest = table.splitlines()
        assert first in HELD or not re.search(r'\| *\d+(\.\d+)? *\|', '\n'.join(rest)), first


@pytest.mark.parametrize(('readme', 'link'), LINKS)
def test_every_link_leads_somewhere(readme, link):
    path, _, anchor = link.partition('#')
    target = (ROOT / readme).parent / path if path else ROOT / readme
    assert target.exists()
    assert not anchor or anchor in anchors(target.read_text())
