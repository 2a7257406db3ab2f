"""The READMEs' results are those of the records, and their links lead somewhere."""

import json
import re
from pathlib import Path

import pytest

from experiments import ablation, hands

ROOT = Path(__file__).parents[1]
PACKAGE_READMES = ('hpe_jax', 'configs', 'experiments', 'hpe_jax/weights/hands')
READMES = ('README.md', *(f'{folder}/README.md' for folder in PACKAGE_READMES))
TEXTS = {name: (ROOT / name).read_text() for name in READMES}
ROW = re.compile(r'^\| .* \| *([\d.]+) \| *([\d.]+) \| *([\d.]+) \|.*\(experiments/(records/\w+\.json)\) \|$', re.M)
ROWS = ROW.findall(TEXTS['README.md'])
LINKS = [(name, link) for name, text in TEXTS.items() for link in re.findall(r'\]\(((?!http)[^)]+)\)', text)]


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
    for name, variant in kept['arms'].items():
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


@pytest.mark.parametrize(('readme', 'link'), LINKS)
def test_every_link_leads_somewhere(readme, link):
    path, _, anchor = link.partition('#')
    target = (ROOT / readme).parent / path if path else ROOT / readme
    assert target.exists()
    assert not anchor or anchor in anchors(target.read_text())
