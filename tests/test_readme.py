"""The README's results are those of the records beside it."""

import json
import re
from pathlib import Path

import pytest

from experiments import ablation

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
ROWS = re.findall(
    r'^\| .* \| *([\d.]+) \| *([\d.]+) \| *([\d.]+) \|.*\((experiments/records/\w+\.json)\) \|$', README, re.M
)


def test_some_rows_were_measured():
    assert len(ROWS) >= 2


@pytest.mark.parametrize('row', ROWS, ids=lambda row: Path(row[-1]).stem)
def test_a_row_says_what_its_record_says(row):
    *numbers, path = row
    record = json.loads((ROOT / path).read_text())
    scores = record['decoders'][record['config']['eval']['decoder']]
    for text, name in zip(numbers, ('error_pct', 'pck@0.05_image', 'auc_0_30px224'), strict=True):
        assert float(text) == pytest.approx(scores[name], abs=0.51 * 10 ** -len(text.partition('.')[2]))
    assert record['command'] and record['git_commit'] and record['device']


def test_the_table_of_the_loss_ablation_is_its_records():
    record = json.loads((ROOT / 'experiments/records/loss_ablation.json').read_text())
    for name, arm in record['arms'].items():
        assert len(arm['seeds']) >= 3 and all(run['status'] == 'done' for run in arm['seeds'].values())
        mean, std = arm['mean'][record['decoder']], arm['std'][record['decoder']]
        cells = [ablation.number(mean[key], std[key]) for key in ('error_pct', 'pck@0.05_image', 'auc_0_30px224')]
        assert f'| {" | ".join([name, *cells])} |' in README
    assert record['command'] and record['git_commit'] and record['device']


@pytest.mark.parametrize('path', re.findall(r'\]\(((?!http|#)[^)]+)\)', README))
def test_every_link_leads_somewhere(path):
    assert (ROOT / path).exists()
