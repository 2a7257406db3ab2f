r"""Hands in real photos: the network that is shipped, trained on nothing but this project's own renders.

python -m hpe_jax.main --config=configs/hands.py --workdir=runs/hands
python -m hpe_jax.main --config=configs/hands.py --workdir=runs/hands --config.data.source=live \
    --config.data.live_pool=120000 --config.data.live_batch=256 \
    --config.data.dataset='synthetic_hands/presence_2000_128px:1, synthetic_hands/open_800_128px:0.4' \
    --config.data.validation_split=train+validation --config.precision=bfloat16 --config.train.scan_epochs=True \
    --config.train.batch_size=256 --config.train.steps_per_epoch=1000 --config.train.epochs=10000 \
    --config.train.minutes=5.3                                                       (on a GPU)
python -m hpe_jax.main --config=configs/hands.py --workdir=runs/hands_heads --config.init_from=runs/hands \
    --config.data.dataset='synthetic_hands/presence_40000_128px:1, synthetic_hands/open_16000_128px:0.4,
    synthetic_hands/bodies_12000_128px:0.8' --config.train.heads_only=True --config.train.batch_size=64 \
    --config.train.steps_per_epoch=250 --config.train.epochs=60 --config.train.minutes=14 \
    --config.optimizer.options.adam_learning_rate=2e-3

Expected: the second command, from the model that was shipped before (config.init_from), made the keypoints of the
shipped one on an H100. 120,000 hands were rendered in 37 s, then 10 million samples trained on in 5.3 minutes, 36,000 a
second: nme 0.068 on unseen renders, 0.111 on photos like FreiHAND's (experiments/records/hands.json;
experiments/README.md lists the runs before it). The third trained its heads on, with faces and bare limbs among the
images, in 14 minutes of two AVX-512 cores. The first command is for CPUs, of which two AVX-512 cores do 110 to 135
samples a second, with config.model.conv='onednn_bfloat16'.
"""

from ml_collections import ConfigDict

from configs import unet


def get_config() -> ConfigDict:
    config = unet.get_config()
    config.data.dataset = 'synthetic_hands/presence_40000_128px:1, synthetic_hands/open_16000_128px:0.4'
    config.data.update(source='resident', data_dir='runs/tensorflow_datasets', targets='device')
    config.data.train_split, config.data.validation_split = 'train+validation[:90%]', 'validation[90%:]'
    config.data.live_preset = 'presence:1, open:0.4'
    config.model.update(name='handnet', widths=(16, 24, 56, 112, 112), blocks=(2, 4, 2))
    config.heatmap.update(sigma=5.0, stride=4, activation='softmax')
    config.loss.update(name='cross_entropy', presence=1.0, handedness=3.0)
    config.augment.update(left=0.4, rotation=180.0, scale=0.4, shift=0.1, fill='random', cover=0.3, away=0.1)
    config.augment.update(brightness=0.3, contrast=0.3, gamma=0.2, tint=0.18, saturation=0.5, grey=0.12)
    config.augment.update(blur=1.2, noise=0.06)
    config.optimizer.update(name='muon', learning_rate=8e-3, clip=5.0, schedule='cosine')
    config.optimizer.options = ConfigDict({'adam_learning_rate': 4e-3, 'weight_decay': 0.02})
    config.train.update(batch_size=32, epochs=32, steps_per_epoch=500, validation_batches=32, average=0.999)
    config.train.early_stopping.patience = 1_000_000
    config.eval.decoders = ConfigDict({'window': {'radius': 3.0}, 'mean': {}, 'argmax': {}})
    return config
