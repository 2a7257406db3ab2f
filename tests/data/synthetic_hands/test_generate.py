import json
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from hpe_jax import geometry
from hpe_jax.data.freihand import folder
from hpe_jax.data.synthetic_hands import generate, render
from hpe_jax.data.synthetic_hands.synthetic_hands_dataset_builder import Builder
from hpe_jax.errors import UserError

pytestmark = pytest.mark.slow

NUMBER = 2 * generate.CHUNK + 3


@pytest.fixture(scope='module')
def recipe(renders):
    """Arguments of write() whose renderer is compiled already."""
    return {'number': NUMBER} | dict(zip(('preset', 'seed', 'size'), renders.recipe, strict=True))


@pytest.fixture(scope='module')
def made(recipe, tmp_path_factory):
    return generate.write(tmp_path_factory.mktemp('made') / 'hands', **recipe, threads=2)


def content(path) -> dict:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob('*')) if p.is_file()}


def test_the_folder_is_one_of_freihands_and_its_pictures_are_the_renderers(made, renders):
    part = folder.find(made, 'training')
    assert len(part.photos) == len(part.xyz) == NUMBER and part.num_versions == 1
    number = generate.CHUNK + 2
    written = np.asarray(Image.open(part.photos[number])).astype(int)
    assert np.abs(written - renders.image[number]).mean() < 3  # what JPEG changes
    mask = np.asarray(Image.open(made / f'training/mask/{number:08d}.jpg')) > 127
    assert (mask == renders.mask[number]).mean() > 0.995
    np.testing.assert_allclose(geometry.project(part.xyz, part.K)[number], renders.uv[number], atol=1e-2)
    assert len({photo.read_bytes() for photo in part.photos}) == NUMBER
    assert json.loads((made / 'training_occluded.json').read_text())[number] == renders.occluded[number].tolist()


def test_one_thread_writes_the_same_bytes_as_two(made, recipe, tmp_path):
    again = generate.write(tmp_path / 'hands', **recipe, threads=1)
    assert content(again) == content(made)


def test_a_killed_run_goes_on_with_what_it_has(made, recipe, tmp_path, monkeypatch):
    cut = shutil.copytree(made, tmp_path / 'cut')
    for name in ('training_xyz.json', 'training_occluded.json', f'parts/{generate.CHUNK:08d}.json'):
        (cut / name).unlink()
    rendered = []
    renderer = generate.renderer
    monkeypatch.setattr(
        generate, 'renderer', lambda *a: lambda numbers: rendered.append(numbers) or renderer(*a)(numbers)
    )
    generate.write(cut, **recipe)
    assert [numbers[0] for numbers in rendered] == [generate.CHUNK]
    assert content(cut) == content(made)


def test_the_builder_reads_it_like_freihand_with_the_mask_on_top(made, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, 'write', lambda path, number, preset, size: shutil.copytree(made, path))
    builder = Builder(config=Builder.find_config(f'full_{NUMBER}_128px'), data_dir=str(tmp_path))
    builder.download_and_prepare()
    source = builder.as_data_source('train', decoders={'image': tfds.decode.SkipDecoding()})
    part = folder.find(made, 'training')
    assert source[4]['image'] == part.photos[4].read_bytes()
    assert source[4]['mask'].shape == (128, 128, 1) and source[4]['mask'].mean() > 5
    hidden = json.loads((made / 'training_occluded.json').read_text())
    assert source[4]['occluded'].tolist() == hidden[4] and 0 < np.mean(hidden) < 0.7
    np.testing.assert_allclose(source[4]['uv'], geometry.project(part.xyz[4], part.K[4]), rtol=1e-5)
    assert sum(split.num_examples for split in builder.info.splits.values()) == NUMBER


def test_names_of_configs():
    assert (Builder.find_config('full').number, Builder.find_config('full').preset) == (32560, 'full')
    assert (Builder.find_config('studio_77').number, Builder.find_config('studio_77').preset) == (77, 'studio')
    assert Builder.find_config('attic') is None and Builder.find_config('studio_0') is None


def test_wrong_input(made, recipe, tmp_path):
    with pytest.raises(UserError, match="preset 'attic': unknown; choose from studio, full"):
        generate.write(tmp_path / 'a', 10, 'attic')
    with pytest.raises(UserError, match='0 hands: the number must be'):
        generate.write(tmp_path / 'a', 0)
    with pytest.raises(UserError, match='holds other hands'):
        generate.write(made, **recipe | {'preset': 'studio'})


def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    def no_space(*_, **__):
        raise OSError(28, 'No space left on device')

    sample = render.Sample(*(np.zeros((generate.CHUNK, *shape)) for shape in
                             ((2, 2, 3), (21, 3), (3, 3), (21, 2), (21,), (21,), (2, 2))))  # fmt: skip
    monkeypatch.setattr(generate, 'renderer', lambda *_: lambda numbers: sample._replace(image=np.uint8(sample.image)))
    monkeypatch.setattr(Image.Image, 'save', no_space)
    with pytest.raises(UserError, match=r'cannot write .*00000000.jpg: No space left on device'):
        generate.write(tmp_path / 'hands', 5)
    assert not list((tmp_path / 'hands').rglob('*.jpg')) and not (tmp_path / 'hands/training_xyz.json').exists()
    assert json.loads((tmp_path / 'hands/parts/recipe.json').read_text())['number'] == 5
