"""Who takes part in benchmark_train and benchmark_infer: ours and the PyTorch baseline, each in a separate process.

Each has the memory allocator as its users have it: `python -m hpe_jax.main` has glibc keep freed memory on a CPU
(hpe_jax/runtime.py); 'tuned allocator' gives PyTorch the same, 'default allocator' takes it from us.
"""

import functools
import io
import itertools
import multiprocessing
import os
import re
import resource
import shlex
import sys
import time
import traceback

import numpy as np
from ml_collections import ConfigDict

from configs import hands, unet
from hpe_jax import models, runtime, trained_model
from hpe_jax.errors import UserError

CPU = {
    'ours': {'kept': True},
    'ours, default allocator': {},
    "ours, default allocator, conv='xla'": {'conv': 'xla'},
    'PyTorch eager': {'torch': {}},
    'PyTorch channels_last': {'torch': {'channels_last': True}},
    'PyTorch compile, channels_last': {'torch': {'channels_last': True, 'compiled': True}},
    'PyTorch eager, tuned allocator': {'torch': {}, 'kept': True},
    'PyTorch channels_last, tuned allocator': {'torch': {'channels_last': True}, 'kept': True},
}
GPU = {
    'ours': {},
    'ours, bfloat16': {'precision': 'bfloat16'},
    'PyTorch eager': {'torch': {}},
    'PyTorch channels_last': {'torch': {'channels_last': True}},
    'PyTorch compile, channels_last': {'torch': {'channels_last': True, 'compiled': True}},
    'PyTorch compile, channels_last, bfloat16': {
        'torch': {'channels_last': True, 'compiled': True},
        'precision': 'bfloat16',
    },
}

NETWORKS = ('unet', 'handnet')

# From the bytes of a photo's file to keypoints in its pixels, as hpe_jax.predict does it: how often it crops again.
LOOKS = {'file to keypoints, one crop': 0, 'file to keypoints, refined once': 1}


def chosen(gpu: bool, pattern: str) -> dict[str, dict]:
    """The implementations for the device whose names a regular expression finds.

    Raises:
      UserError: it finds none, or is no regular expression.
    """
    all_of_them = GPU if gpu else CPU
    try:
        found = {name: spec for name, spec in all_of_them.items() if re.search(pattern, name)}
    except re.error as e:
        raise UserError(f'--only={pattern}: no regular expression ({e})') from e
    if not found:
        raise UserError(f'--only={pattern}: finds none of {"; ".join(all_of_them)}')
    return found


def config_of(settings: dict) -> ConfigDict:
    """Of the network that is compared: UNet and its loss, or HandNet, its heads and theirs; both by SGD, which costs
    either side nothing, on what the host has made."""
    config = unet.get_config()
    if settings['network'] == 'handnet':
        recipe = hands.get_config()
        config.model, config.heatmap, config.loss = recipe.model, recipe.heatmap, recipe.loss
    config.data.image_size, config.train.batch_size = settings['size'], settings['batch_size']
    config.data.update(dataset=settings['dataset'], data_dir=settings['data_dir'], source='resident')
    return config


class Ours:
    """A train state, a batch on the device, and the compiled step."""

    def __init__(self, settings: dict, spec: dict):
        import jax
        from flax import nnx

        from hpe_jax import train
        from hpe_jax.data import resident

        self.settings, self.jax, config = settings, jax, config_of(settings)
        config.model.conv, config.precision = spec.get('conv', 'auto'), spec.get('precision', 'float32')
        graphdef, self.state = nnx.split(train.TrainState(config))
        self.config, self.expand = config, resident.Resident.expand
        self.train_step = train.make_train_step(config, graphdef, self.expand)
        image, heatmaps = example(settings)
        keypoints = np.random.default_rng(0).uniform(0.25, 0.75, (len(image), 21, 2)).astype(np.float32)
        visible, mask = np.ones(keypoints.shape[:2], bool), np.ones(len(keypoints), bool)
        batch = {'image': image, 'heatmaps': heatmaps, 'keypoints': keypoints, 'visible': visible, 'mask': mask}
        self.batch = jax.device_put(batch)

    def turn(self, steps: int) -> float:
        """Seconds a step."""
        began = time.perf_counter()
        for _ in range(steps):
            self.state, loss = self.train_step(self.state, self.batch)
        loss.block_until_ready()
        return (time.perf_counter() - began) / steps

    @functools.cached_property
    def source(self):
        from hpe_jax.data import prepared, resident

        split = resident.load(prepared.open_dataset(self.config.data), {'': 'train'}, self.config.data.image_size)['']
        return resident.Resident(split)

    @functools.cached_property
    def train_epoch(self):
        from hpe_jax import train

        return train.make_train_epoch(self.train_step)

    def epoch(self, steps: int, epoch_index: int) -> float:
        """Seconds of a training epoch, the device's waiting for photos included."""
        order = self.config.seed, epoch_index, steps, self.settings['batch_size']
        began = time.perf_counter()
        if self.settings['gpu']:
            self.state, loss = self.train_epoch(self.state, self.source.arrays, self.source.order(*order))
        else:
            for batch in itertools.islice(self.source.epochs(*order), steps):
                self.state, loss = self.train_step(self.state, batch)
        loss.block_until_ready()
        return time.perf_counter() - began

    @functools.cached_property
    def run(self):
        """The network in eval mode, as a run directory gives it."""
        from pathlib import Path

        return trained_model.TrainedModel(Path(), self.config, 0, models.make(self.config), {})

    def infer(self, what: str, batch_size: int, seconds: float) -> list[float]:
        """Seconds of each call, for about so long. `what`: one of LOOKS, or 'network'."""
        from flax import nnx

        from hpe_jax import HandPoseEstimator
        from hpe_jax.inference import images

        if what in LOOKS:
            estimator = HandPoseEstimator(self.run, refine=LOOKS[what], min_score=0.0)
            files = [photo_file()] * batch_size
            return calls(lambda: estimator.predict([images.read(file) for file in files]), seconds)
        state = nnx.state(self.run.inference_model)
        run = self.jax.jit(trained_model.make_forward(self.config, self.run.inference_model))
        shape = batch_size, *[self.settings['size']] * 2, 3
        photos = self.jax.device_put(np.random.default_rng(0).random(shape, np.float32))
        return calls(lambda: self.jax.block_until_ready(run(state, photos)), seconds)

    def facts(self) -> dict:
        """What a step is by XLA's count, and what the device can do."""
        import jax.numpy as jnp

        cost = self.train_step.lower(self.state, self.batch).compile().cost_analysis()
        big = jnp.ones((4096, 4096), jnp.dtype(self.config.precision))
        long = jnp.ones(1 << 26)
        product, add = self.jax.jit(lambda a: a @ a), self.jax.jit(lambda a: a + 1, donate_argnums=0)
        return {
            'bytes': cost['bytes accessed'],
            'flops': flops(self.settings),
            'ceiling_flops_per_s': 2 * 4096**3 / fastest(lambda: product(big).block_until_ready()),
            'ceiling_bytes_per_s': self._copying(add, long),
        }

    @staticmethod
    def _copying(add, array) -> float:
        seconds = []
        for _ in range(10):
            began = time.perf_counter()
            array = add(array).block_until_ready()
            seconds.append(time.perf_counter() - began)
        return 2 * array.nbytes / min(seconds)

    def peak(self) -> int | None:
        stats = self.jax.local_devices()[0].memory_stats()
        return stats['peak_bytes_in_use'] if stats else None


class Torch:
    """The same of the baseline."""

    def __init__(self, settings: dict, spec: dict):
        import torch

        from experiments import pytorch_baseline

        self.settings, self.torch, self.baseline = settings, torch, pytorch_baseline
        dtype = getattr(torch, spec.get('precision', 'float32'))
        options = {'channels_last': False, 'compiled': False} | spec['torch']
        config = config_of(settings).model
        blocks = [config.blocks] if settings['network'] == 'handnet' else []
        network = {'unet': pytorch_baseline.UNet, 'handnet': pytorch_baseline.HandNet}[settings['network']]
        model = network(config.widths, *blocks)
        self.trainer = pytorch_baseline.Trainer(model, 'cuda' if settings['gpu'] else 'cpu', **options, dtype=dtype)
        arrays = (torch.from_numpy(array.transpose(0, 3, 1, 2).copy()) for array in example(settings))
        self.batch = [self.trainer.put(array) for array in arrays]

    def turn(self, steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            self.trainer.step(*self.batch)
        self.trainer.wait()
        return (time.perf_counter() - began) / steps

    def infer(self, what: str, batch_size: int, seconds: float) -> list[float]:
        photos = self.torch.rand(batch_size, 3, *[self.settings['size']] * 2)
        photos, model = self.trainer.put(photos), self.trainer.model.eval()

        @self.torch.inference_mode()
        def run():
            with self.torch.autocast(photos.device.type, self.trainer.dtype, self.trainer.dtype != self.torch.float32):
                model(photos)
            self.trainer.wait()

        return calls(run, seconds)

    @functools.cached_property
    def batches(self):
        from hpe_jax.data import prepared

        config = config_of(self.settings)
        split = prepared.load(prepared.open_dataset(config.data), 'train')
        size, sigma, stride = self.settings['size'], config.heatmap.sigma, config.heatmap.get('stride', 1)
        photos = self.baseline.Photos(split.photos.tolist(), split.keypoints, size, sigma, [0.4] * 3, [0.2] * 3, stride)
        options = self.settings['batch_size'], os.cpu_count(), self.settings['gpu']
        return itertools.chain.from_iterable(itertools.repeat(self.baseline.loader(photos, *options)))

    def epoch(self, steps: int, epoch_index: int) -> float:
        began = time.perf_counter()
        for batch in itertools.islice(self.batches, steps):
            self.trainer.step(*map(self.trainer.put, batch))
        self.trainer.wait()
        return time.perf_counter() - began

    def peak(self) -> int | None:
        return self.torch.cuda.max_memory_allocated() if self.settings['gpu'] else None


@functools.cache
def photo_file() -> bytes:
    """A JPEG of 640 x 480 with as much detail as a photo; what a network sees in it does not change the time."""
    from PIL import Image

    coarse = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(stream, 'JPEG', quality=90)
    return stream.getvalue()


def example(settings: dict) -> tuple[np.ndarray, np.ndarray]:
    """Photos (B, H, W, 3) and heatmaps (B, H / stride, W / stride, 21), float32; what they show costs no time."""
    rng, size = np.random.default_rng(0), settings['size']
    side = size // config_of(settings).heatmap.get('stride', 1)
    batch = settings['batch_size']
    return rng.standard_normal((batch, size, size, 3), np.float32), rng.random((batch, side, side, 21), np.float32)


def flops(settings: dict) -> float:
    """Of the convolutions in a step: forward, and twice as many backward; a multiply-add is two."""
    import jax
    from flax import nnx

    config = config_of(settings)
    config.model.conv = 'xla'
    model = nnx.eval_shape(lambda: models.make(config))
    images = jax.ShapeDtypeStruct((settings['batch_size'], *[settings['size']] * 2, 3), np.float32)
    graphdef, state = nnx.split(model)
    program = jax.make_jaxpr(lambda state, images: nnx.merge(graphdef, state).logits(images)['heatmaps'])(state, images)
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == 'conv_general_dilated':
            kernel, out = equation.invars[1].aval, equation.outvars[0].aval
            total += 6 * out.size * kernel.size // out.shape[-1]
    return float(total)


def fastest(work, times: int = 7) -> float:
    """Seconds of the fastest of several runs."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def calls(work, seconds: float) -> list[float]:
    """Seconds of each of at least three runs, for about so long, after two that do not count."""
    work(), work()
    taken = []
    while len(taken) < 3 or sum(taken) < seconds:
        taken.append(fastest(work, 1))
    return taken


def serve(pipe, settings: dict, spec: dict) -> None:
    """An implementation's process: answers (method, arguments) until None comes."""
    try:
        if spec.get('kept') and not runtime.keep_freed():
            raise RuntimeError('this C library cannot keep freed memory')
        implementation = (Torch if 'torch' in spec else Ours)(settings, spec)
        pipe.send(None)
        while call := pipe.recv():
            method, *arguments = call
            pipe.send(getattr(implementation, method)(*arguments))
        pipe.send(implementation.peak() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    except Exception:
        pipe.send(RuntimeError(traceback.format_exc(limit=-1)))


class Process:
    """The near end of an implementation's process."""

    def __init__(self, settings: dict, spec: dict):
        context = multiprocessing.get_context('spawn')
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=serve, args=(far, settings, spec))
        self.process.start()
        far.close()
        self._answer()

    def __call__(self, *call):
        self.pipe.send(call or None)
        return self._answer()

    def _answer(self):
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def start(settings: dict, specs: dict, *warm_up) -> tuple[dict[str, Process], dict[str, str]]:
    """Starts and warms up all; those that do not work here are left out, with the reason."""
    running, failed = {}, {}
    for name, spec in specs.items():
        try:
            implementation = Process(settings, spec)
            implementation(*warm_up)
            running[name] = implementation
        except (RuntimeError, EOFError) as e:
            failed[name] = str(e).strip()
            print(f'{name}: does not work here: {failed[name].splitlines()[-1]}', flush=True)
    return running, failed


def describe() -> tuple[dict, bool]:
    """The machine for the record, and whether it computes on a GPU; in a process that ends, and frees the device."""
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        environment, gpu = pool.apply(_describe)
    return environment | {'command': shlex.join(sys.orig_argv)}, gpu


def _describe() -> tuple[dict, bool]:
    import jax

    from hpe_jax import logbook

    return logbook.environment(), jax.default_backend() == 'gpu'
