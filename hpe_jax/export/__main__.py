"""A run as one file that needs none of this code: uint8 photos in, keypoints and scores out.

    python -m hpe_jax.export [--workdir=RUN] --format=stablehlo|onnx|tflite [--output=FOLDER] [--decoder=window]

Normalisation, network, weights and decoder are inside, in float32, for any number of photos. `metadata.json` beside it
states what goes in and comes out, what the model was trained on and under which licence, how to run the file, and how
closely it agrees with the model: every file is loaded back and compared before it gets its name.
"""

import sys
from pathlib import Path

import jax
from absl import app, flags, logging

from hpe_jax.errors import UserError
from hpe_jax.export import export, formats, verify
from hpe_jax.trained_model import SHIPPED


def define_flags() -> None:
    flags.DEFINE_string('workdir', str(SHIPPED), 'The run directory; default: the shipped model.')
    flags.DEFINE_enum('format', None, list(formats.FORMATS), 'What to write.', required=True)
    flags.DEFINE_string(
        'output',
        '',
        'The folder for the file and metadata.json; empty: export/FORMAT in the workdir; here for the shipped model.',
    )
    flags.DEFINE_string('decoder', '', 'From heatmaps to keypoints; empty: config.eval.decoder of the run.')


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f'unexpected argument: {argv[1]}')
    jax.config.update('jax_platforms', 'cpu')  # accelerators round to fewer bits than the comparison needs
    values = flags.FLAGS
    shipped = Path(values.workdir) == SHIPPED
    output = Path(values.output or Path('.' if shipped else values.workdir) / 'export' / values.format)
    metadata = export(values.workdir, values.format, output, values.decoder)
    path = output / metadata['file']
    print(f'{path}: {metadata["bytes"] / 1e6:.1f} MB, decoder {metadata["decoder"]["name"]}.')
    print(f'Loaded back, it differs from the model: {verify.sentence(metadata["verification"])}.')


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)
    define_flags()
    try:
        app.run(main)
    except UserError as e:
        sys.exit(f'error: {e}')
