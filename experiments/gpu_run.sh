#!/usr/bin/env bash
# The first minutes on a GPU: tests of the numerics, the benchmarks, then the hands recipe for the rest of the time.
#
#     MINUTES=10 [STEPS='tests training'] experiments/gpu_run.sh OUTPUT
#
# The machine has Python with JAX for its GPU, flax, optax, orbax-checkpoint, pytest and PyTorch. What else is needed is
# installed from the folder `wheels`, if there is one: a machine without a network. It is made where pip has one by
#
#     pip download --no-deps --only-binary=:all: --python-version=3.12 --dest=wheels ml-collections tensorflow-datasets \
#         array-record dm-tree immutabledict simple-parsing docstring-parser tensorflow-metadata termcolor toml wrapt \
#         importlib_resources tensorboardX beartype googleapis-common-protos
#     pip wheel --no-deps --wheel-dir=wheels promise
#
# OUTPUT then holds JSON of each benchmark, what each step printed, steps.jsonl with their times and exit statuses, and
# the run directory of the training. A step that fails or takes too long does not keep the next one from its turn. On an
# H100 compiling is most of it: a minute for the renderer, 40 s for each network's training. Bring along, as
# runs/tensorflow_datasets, the two small sets below, for which the renderer would compile twice more.
# SMALL=1 tries all of it within minutes, on a CPU too, with sizes that measure nothing.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: [MINUTES=10] [STEPS='tests training'] [SMALL=1] experiments/gpu_run.sh OUTPUT}
ends=$((SECONDS + 60 * ${MINUTES:-10}))
python=${PYTHON:-python3}
mkdir -p "$out"
if ls wheels/*.whl >/dev/null 2>&1; then
    "$python" -m pip install --quiet --no-index --no-deps wheels/*.whl
fi

# NAME SECONDS COMMAND...: runs it for at most that long
step() {
    local name=$1 most=$2 began=$SECONDS
    if [[ " ${STEPS:-$name} " != *" $name "* ]]; then return; fi
    shift 2
    if [ -n "${SMALL:-}" ]; then most=900; fi
    timeout "$most" "$@" >"$out/$name.log" 2>&1
    printf '{"step": "%s", "exit_status": %d, "seconds": %d}\n' "$name" $? $((SECONDS - began)) | tee -a "$out/steps.jsonl"
}

if [ -n "${SMALL:-}" ]; then
    presence=synthetic_hands/presence_100_128px sets=synthetic_hands/presence_100_128px
    turns=(--rounds=1 --steps=1 --epochs=1 --epoch_steps=1 --batch_size=2 --image_size=32 '--only=^ours')
    looks=(--seconds=0.1 --turns=1 --image_size=32 --at=1 '--only=^ours')
    images=(--seconds=1 --sizes 32 --batch 2 --presets FULL)
    training=(--config.data.live_pool=4 --config.data.live_batch=1 --config.train.steps_per_epoch=2)
    training+=(--config.train.batch_size=2 --config.train.epochs=3)
else
    presence=synthetic_hands/presence_2000_128px sets="$presence:1, synthetic_hands/open_800_128px:0.4"
    turns=(--rounds=5 --epochs=2 '--only=bfloat16') looks=(--seconds=1 --turns=1 '--only=bfloat16')
    images=(--sizes 128 --batch 256 --presets PRESENCE)
    training=(--config.data.live_pool=120000 --config.data.live_batch=256 --config.train.steps_per_epoch=1000)
    training+=(--config.train.batch_size=256 --config.train.epochs=100000 --config.train.checkpoint_every=4)
fi
data=--data_dir=runs/tensorflow_datasets

export JAX_DEFAULT_MATMUL_PRECISION=highest # not TF32, for the tests
JAX_PLATFORMS=$("$python" -c 'import jax; print(jax.default_backend())') step tests 90 "$python" -m pytest -q \
    tests/test_heatmap.py tests/test_losses.py tests/test_metrics.py
unset JAX_DEFAULT_MATMUL_PRECISION
step benchmark_render 90 "$python" -m experiments.benchmark_render --out="$out/benchmark_render.json" "${images[@]}"
step benchmark_train 240 "$python" -m experiments.benchmark_train --output="$out/benchmark_train.json" "$data" \
    --dataset="$presence" "${turns[@]}"
step benchmark_infer 90 "$python" -m experiments.benchmark_infer --output="$out/benchmark_infer.json" "${looks[@]}"
# Two minutes are left for starting, rendering and compiling, and half a one for the scores at the end.
left=$((ends - SECONDS))
step training $((left > 60 ? left : 60)) "$python" -m hpe_jax.main --config=configs/hands.py --workdir="$out/hands" \
    --config.init_from=hands --config.data.source=live --config.data.dataset="$sets" \
    --config.data.validation_split=train+validation --config.precision=bfloat16 --config.train.scan_epochs=True \
    --config.train.minutes=$((left > 210 ? (left - 150) / 60 : 1)) "${training[@]}"
