"""Strict for every test: shapes are checked at run time, rank promotion and a random key that is used twice raise,
warnings are errors (pyproject)."""

import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib import metadata

os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # experiments/gpu_run.sh names another
os.environ['TFDS_DATA_DIR'] = '/nonexistent'  # a test that forgets to name its own folder fails
# Without its newer way to fuse operations XLA compiles the renderer in 15 s, not 27. jaxlib 0.12 ends at this flag.
if metadata.version('jaxlib').startswith('0.10.'):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_use_fusion_emitters=false'

from pathlib import Path
from types import SimpleNamespace

import jaxtyping

jaxtyping.install_import_hook('hpe_jax', 'beartype.beartype')

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

from hpe_jax import geometry  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_debug_key_reuse', True)

SHARED = Path(__file__).parents[2] / 'shared'


def pytest_collection_modifyitems(items) -> None:
    """Marks as slow what needs a network that is trained first."""
    for item in items:
        if 'fitted_run' in getattr(item, 'fixturenames', ()):
            item.add_marker(pytest.mark.slow)


def _common_folder(tmp_path_factory) -> Path:
    """The folder of this session's temporary files that all of pytest's workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base


@pytest.fixture(scope='session', autouse=True)
def compiled_once(tmp_path_factory) -> None:
    """What one test compiles, the others, pytest's other workers, and the processes that they start only read."""
    options = {
        'jax_compilation_cache_dir': str(_common_folder(tmp_path_factory) / 'compiled'),
        'jax_persistent_cache_min_compile_time_secs': 0,
    }
    kept = Path(options['jax_compilation_cache_dir'])
    kept.mkdir(exist_ok=True)
    # jaxlib cannot keep programs with oneDNN's call.
    (kept / f'onednn-{jax.lib.__version__}.json').write_text('{"works": false}')
    for name, value in options.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(scope='session', autouse=True)
def temporary_files_are_pytests(tmp_path_factory) -> None:
    """TFDS leaves an empty folder for each builder of data that are not prepared yet."""
    os.environ['TMPDIR'] = tempfile.tempdir = str(tmp_path_factory.mktemp('temporary'))


@pytest.fixture(scope='session')
def shared() -> Path:
    """Real photos and the published weights; they lie beside some checkouts only and their licences keep them there."""
    if not SHARED.is_dir():
        pytest.skip('needs the research data beside the checkout (../shared), which is not distributed')
    return SHARED


@pytest.fixture(scope='session')
def freihand_like(tmp_path_factory) -> Path:
    """A folder in FreiHAND's layout: 13 drawn hands in all four versions."""
    from tests import drawn_hands

    return drawn_hands.write(tmp_path_factory.mktemp('freihand_like'), 13, versions=4)


@pytest.fixture(scope='session')
def tiny_run(freihand_like, tmp_path_factory) -> Path:
    """A run directory with one checkpoint, epoch 3, of a tiny network that has learnt nothing. Not to be changed."""
    from configs import tiny
    from hpe_jax import checkpoint, configuration, train

    workdir = tmp_path_factory.mktemp('tiny_run')
    config = tiny.get_config()
    config.data.update(manual_dir=str(freihand_like), data_dir=str(tmp_path_factory.mktemp('tiny_data')))
    state = train.TrainState(config)
    state.model.standardise.set(np.array([0.4, 0.5, 0.3]), np.array([0.2, 0.1, 0.25]))
    configuration.save(config, workdir)
    checkpoint.Checkpoints(workdir).save(3, state.model, state.optimizer, {'history': []}, 0.5)
    return workdir


@pytest.fixture(scope='session')
def made_once(tmp_path_factory) -> Callable:
    """(name, make) -> a folder that make(folder) filled, in the first of pytest's workers that asked for it."""

    def made_once(name: str, make: Callable[[Path], None]) -> Path:
        folder = _common_folder(tmp_path_factory) / name
        try:
            folder.mkdir()
        except FileExistsError:
            while not (folder / 'done').exists():
                assert not (folder / 'failed').exists(), f'another worker could not make {name}'
                time.sleep(0.2)
        else:
            try:
                make(folder)
            except BaseException:
                (folder / 'failed').touch()
                raise
            (folder / 'done').touch()
        return folder

    return made_once


@pytest.fixture(scope='session')
def renders(made_once) -> SimpleNamespace:
    """32 hands of the renderer's preset 'full', 128 pixels wide: the fields of render.Sample, with a leading axis, and
    `recipe`, the arguments of generate.renderer, which is then compiled already for CHUNK of them.

    It compiles for most of a minute, hence one size and one seed for all tests; prepared data sets have small seeds.
    """
    from hpe_jax.data.synthetic_hands import generate

    recipe = 'full', 987_654_321, 128

    def render(folder: Path) -> None:
        with jax.numpy_rank_promotion('allow'):
            chunks = [generate.renderer(*recipe)(np.arange(generate.CHUNK) + start) for start in (0, generate.CHUNK)]
        samples = jax.tree.map(lambda *parts: np.concatenate(parts), *chunks)
        np.savez(folder / 'samples.npz', **samples._asdict())

    return SimpleNamespace(recipe=recipe, **np.load(made_once('renders', render) / 'samples.npz'))


@pytest.fixture(scope='session')
def fitted_run(made_once) -> SimpleNamespace:
    """A small network that knows eight drawn hands by heart, at several scales. Not to be changed.

    workdir; images: 8 x (224, 224, 3) uint8; keypoints: (8, 21, 2), pixels.
    """
    from tests import command, drawn_hands

    def fit(folder: Path) -> None:
        process = command.start(folder / 'printed', _fit, folder)
        process.join()
        assert process.exitcode == 0, (folder / 'printed/stderr').read_text()

    folder = made_once('fitted', fit)
    images = [np.asarray(Image.open(folder / f'hands/training/rgb/{i:08d}.jpg')) for i in range(8)]
    xyz = np.array(json.loads((folder / 'hands/training_xyz.json').read_text()))
    keypoints = geometry.project(xyz, np.broadcast_to(drawn_hands.CAMERA, (8, 3, 3)))
    return SimpleNamespace(workdir=folder / 'run', images=images, keypoints=keypoints)


def _fit(folder: Path) -> None:
    """Called in a new process, where JAX has not started yet, whatever the level of optimisation is in this one."""
    os.environ['XLA_FLAGS'] = '--xla_backend_optimization_level=1'  # at 0 the 400 steps take twice as long

    from configs import tiny
    from hpe_jax import train
    from tests import drawn_hands

    drawn_hands.write(folder / 'hands', 8)
    config = tiny.get_config()
    config.data.update(manual_dir=str(folder / 'hands'), data_dir=str(folder / 'data'), source='resident')
    config.data.update(train_split='all', validation_split='train[:0]', test_split='all')
    config.augment.update(scale=0.4, shift=0.05)
    config.model.widths = (16, 16, 16)  # equal ones: fewer shapes to compile
    config.optimizer.update(name='adam', learning_rate=6e-3)
    config.train.update(batch_size=8, epochs=2, steps_per_epoch=200)
    config.eval.batch_size = 8
    train.train_and_evaluate(config, folder / 'run')
