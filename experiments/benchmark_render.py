"""How many synthetic hands a second this machine renders, and what bounds a GPU.

    python -m experiments.benchmark_render [--count] --out=runs/benchmark_render.json

On CPU: images one after another (jit of lax.map), in one process and in one process a core, each kept to its core.
On an accelerator: batches by vmap. Compilation is not counted. --count adds what an image takes of arithmetic and of
bytes read and written, by XLA's count of a batch by vmap, compiled for a CPU, each of its loops taken once; an H100's
peaks (aot.py) put bounds on them.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import time
from pathlib import Path

from hpe_jax import logbook


def wrong(presets: list[str], sizes: list[int]) -> str:
    """What is wrong with them; '' if nothing is. A process that measures and fails would be waited for for ever."""
    from hpe_jax.data.synthetic_hands import generate, render
    from hpe_jax.errors import UserError

    known = [name.upper() for name in generate.PRESETS]
    for preset in presets:
        if preset not in known:
            return f'--presets: {preset} is unknown; choose from {", ".join(known)}'
    try:
        for size in sizes:
            render.Config(size=size)
    except UserError as e:
        return f'--sizes: {e}'
    return ''


def measure(preset: str, size: int, batch: int, seconds: float, core: int | None, ready, answers):
    """Renders batches for that long once all processes are ready, and answers (images a second, device)."""
    if core is not None:
        os.sched_setaffinity(0, {core})  # before JAX starts its threads
    import jax

    from hpe_jax.data.synthetic_hands import render

    config = dataclasses.replace(getattr(render, preset), size=size)
    device = jax.devices()[0]

    @jax.jit
    def draw(key):
        keys = jax.random.split(key, batch)
        if device.platform == 'cpu':
            return jax.lax.map(lambda key: render.render(key, config).image, keys)
        return jax.vmap(lambda key: render.render(key, config).image)(keys)

    draw(jax.random.key(0)).block_until_ready()
    ready.wait()
    start, turns = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        turns += 1
        draw(jax.random.key(turns)).block_until_ready()
    answers.put((turns * batch / (time.perf_counter() - start), device.device_kind))


def count(preset: str, size: int, batch: int) -> dict:
    """Arithmetic and bytes of an image, and the most that an H100 could do of them."""
    from experiments import aot  # which keeps JAX to the CPU
    from hpe_jax.data.synthetic_hands import render

    config = dataclasses.replace(getattr(render, preset), size=size)
    keys = aot.jax.eval_shape(lambda: aot.jax.random.split(aot.jax.random.key(0), batch))
    draw = aot.jax.jit(aot.jax.vmap(lambda key: render.render(key, config).image))
    cost = draw.lower(keys).compile().cost_analysis()
    flops, num_bytes, peaks = cost['flops'] / batch, cost['bytes accessed'] / batch, aot.PEAKS['cuda']
    return {
        'preset': preset,
        'size': size,
        'batch': batch,
        'GFLOP': round(flops / 1e9, 3),
        'MB_accessed': round(num_bytes / 1e6, 1),
        'H100_at_most_by_arithmetic': round(peaks['float32'] / flops),
        'H100_at_most_by_bytes': round(peaks['bytes'] / num_bytes),
    }


def run(preset: str, size: int, batch: int, seconds: float, cores: list[int | None]) -> dict:
    """One row of the table: as many processes as cores are named; None leaves a process free."""
    context = multiprocessing.get_context('spawn')
    ready, answers = context.Barrier(len(cores)), context.Queue()
    jobs = [
        context.Process(target=measure, args=(preset, size, batch, seconds, core, ready, answers)) for core in cores
    ]
    for job in jobs:
        job.start()
    rates, devices = zip(*(answers.get() for _ in jobs), strict=True)
    for job in jobs:
        job.join()
    return {
        'preset': preset,
        'size': size,
        'processes': len(cores),
        'device': devices[0],
        'images_per_second': round(sum(rates), 1),
    }


def table(record: dict) -> str:
    """A record of a CPU in Markdown."""
    lines = ['| hands, pixels | images a second, one process | a process a core |']
    head = '| --- | ---: | ---: |'
    if record['counted']:
        lines[0] += ' GFLOP | MB | an H100 at most |'
        head += ' ---: | ---: | ---: |'
    lines.append(head)
    for i, (one, all_cores) in enumerate(zip(record['rows'][::2], record['rows'][1::2], strict=True)):
        cells = [one['images_per_second'], all_cores['images_per_second']]
        if record['counted']:
            counted = record['counted'][i]
            most = min(counted['H100_at_most_by_arithmetic'], counted['H100_at_most_by_bytes'])
            cells += [counted['GFLOP'], counted['MB_accessed'], f'{most:,}']
        lines.append(f'| {one["preset"].lower()}, {one["size"]} | {" | ".join(map(str, cells))} |')
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('runs/benchmark_render.json'))
    parser.add_argument('--seconds', type=float, default=10)
    parser.add_argument('--batch', type=int, default=20)
    parser.add_argument('--sizes', type=int, nargs='+', default=[128, 224])
    parser.add_argument('--presets', nargs='+', default=['STUDIO', 'FULL'])
    parser.add_argument('--count', action='store_true', help='also count arithmetic and bytes')
    args = parser.parse_args()
    if args.batch < 1:
        parser.error(f'--batch: {args.batch} images; expected at least 1')
    with multiprocessing.get_context('spawn').Pool(1) as pool:  # this process leaves JAX, and a GPU, to the others
        if message := pool.apply(wrong, (args.presets, args.sizes)):
            parser.error(message)
    cores = sorted(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    print(f'{logbook.processor()}, {len(cores)} cores, load {load:.1f} before')
    rows = []
    for preset in args.presets:
        for size in args.sizes:
            for kept in [[None], cores] if len(cores) > 1 else [[None]]:
                if rows and rows[0]['device'] != 'cpu' and len(kept) > 1:
                    continue  # one process has the whole GPU
                rows.append(run(preset, size, args.batch, args.seconds, kept))
                row = rows[-1]
                print(
                    f'{row["preset"]:7} {size:4} px  {row["processes"]:2} processes  '
                    f'{row["images_per_second"]:8.1f} images/s  {row["device"]}',
                    flush=True,
                )
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        wanted = [(preset, size, args.batch) for preset in args.presets for size in args.sizes] if args.count else []
        counted = pool.starmap(count, wanted)
    for row in counted:
        print(json.dumps(row))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps({**logbook.environment(), 'load_before': load, 'rows': rows, 'counted': counted}, indent=2) + '\n'
    )


if __name__ == '__main__':
    main()
