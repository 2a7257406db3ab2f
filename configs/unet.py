"""The reference recipe on FreiHAND raw: Chernytska, "Gentle introduction to 2D Hand Pose Estimation", 2021.

    python -m hpe_jax.main --config=configs/unet.py --workdir=runs/unet                     (downloads 4.4 GB)
    python -m hpe_jax.main --config=configs/unet.py --workdir=runs/unet --config.data.manual_dir=FOLDER

Expected (published, PyTorch, a GPU of 2021): about 200 epochs in 2 hours, training and validation loss 0.437 and
0.476, error_pct 4.5 with the decoder and codec of the reference. Not measured here yet: FreiHAND cannot be downloaded
on the machines that this was written on.

The tutorial's text has 50 and 20 batches an epoch, which is used here; its code runs 51 and 21.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # A run directory to fine-tune, or the name of a shipped one ('hands'): a fresh run takes its best model, and its
    # channel statistics if data.mean is ().
    config.init_from = ''

    config.data = data = ConfigDict()
    # 'tfdata' reads from the host. 'resident' keeps all photos in the device's memory as uint8 (1.6 GB; 'full' 6.4 GB),
    # makes targets inside jit, and needs no TensorFlow. 'live' renders fresh synthetic hands in each step; `dataset` is
    # then for validation and test.
    data.source = 'tfdata'
    data.live_preset = 'full'  # or several with their weights: 'presence:1, open:0.4'
    data.live_batch = 1  # pictures rendered side by side; on a GPU as many as fit, on a CPU one
    # 0: each picture is seen once. Else this many are rendered before the first step, into the device's memory, and
    # training goes through them again and again as through those of 'resident'.
    data.live_pool = 0
    data.dataset = 'freihand/raw'  # 'freihand/full', 'synthetic_hands/studio', 'synthetic_hands/full_5000', ...
    # Several sets, of which each epoch draws by their weights: 'freihand/full:1, coco_hands:0.5'. Then manual_dir,
    # joints and handedness may be lists, too, with a value for each set.
    data.manual_dir = ''  # an extracted FreiHAND folder ('' downloads the archives), or one for 'coco_hands'
    # Of 'coco_hands' (hpe_jax/data/coco_hands/README.md), your own photos with COCO keypoint JSON:
    data.relative_hand_size = 0.47  # the fraction of a crop that the hand's box takes
    data.context = 1.5  # how much wider pictures are kept than crops, for augmentation to shift and shrink
    data.joints = 'freihand'  # the order of its keypoints: or 'interhand', 'rhd', 'names' (by those in the JSON)
    data.handedness = 'right'  # of hands whose annotation does not state it
    data.data_dir = ''  # where prepared data is kept; '' is TFDS' own place, ~/tensorflow_datasets
    # Where decoded photos and channel statistics are kept; '' is beside the prepared data, or where these cannot be
    # written, ~/.cache/hpe_jax/data.
    data.cache_dir = ''
    data.train_split = 'train'  # any TFDS split expression
    data.validation_split = 'validation'
    data.test_split = 'test'
    data.image_size = 128
    data.mean = ()  # per channel, in [0, 1]; () computes them over the training split. The numbers published for
    data.std = ()  # FreiHAND are (.3950, .4323, .2954) and (.1966, .1734, .1836).
    data.targets = 'host'  # heatmaps are made by tf.data; 'device' makes them inside jit
    data.cache = True  # decode every photo once and keep it: 49 KB a photo at 128x128, 1.3 GB for the training split

    # Of training photos, inside jit, in hpe_jax/augment.py's order; 0 is off. Needs data.targets = 'device', or a
    # source other than 'tfdata'.
    config.augment = augment = ConfigDict()
    augment.left = 0.0  # probability; a left hand, mirrored for the heads of a network alone: its heatmaps do not count
    augment.quarter_turns = False  # by a random multiple of 90 degrees, exactly
    augment.mirror = 0.0  # probability; makes a LEFT hand of a right one
    augment.rotation = 0.0  # largest angle either way, degrees: 180 is any angle
    augment.scale = 0.0  # largest relative change: 0.25 is 1 / 1.25 to 1.25
    augment.shift = 0.0  # largest shift along each axis, as a part of the photo's size
    augment.brightness = 0.0  # largest change of the factor on the grey levels: 0.3 is 0.7 to 1.3
    augment.contrast = 0.0  # the same on their distance from the photo's mean
    augment.gamma = 0.0  # largest relative change of their exponent: 0.25 is 1 / 1.25 to 1.25
    augment.hue = 0.0  # largest change either way, circles: 0.5 is any hue
    augment.tint = 0.0  # largest change of each channel's own factor
    augment.saturation = 0.0  # largest change of the factor on the distance from grey
    augment.grey = 0.0  # probability of a grey photo
    augment.sharpen = 0.0  # largest amount of an unsharp mask of 1 to 8 pixels
    augment.blur = 0.0  # largest standard deviation, pixels
    augment.noise = 0.0  # largest standard deviation, where 1 is white
    augment.borders = 0.0  # probability that the content ends inside the frame
    # Where the photo was moved away, and in borders: 'black', 'replicate', 'reflect', or 'random'ly one of them.
    augment.fill = 'black'
    augment.erasing = 0.0  # probability that a rectangle of random pixels hides a part
    # Probability that any place of the photo becomes the middle, enlarged: mostly no hand, for the head of presence.
    augment.away = 0.0
    augment.cover = 0.0  # probability that a rectangle of one colour, or of another part of the photo, hides a part

    config.heatmap = ConfigDict({'sigma': 3.0, 'codec': 'subpixel'})  # sigma in pixels of image_size
    config.heatmap.stride = 1  # pixels of the photo a pixel of the map: the network's own, 1 or 4
    config.heatmap.activation = 'sigmoid'  # of each pixel, or 'softmax' over a map's

    # 'bfloat16': the network computes in it; parameters, BatchNorm statistics, loss and decoding stay float32.
    config.precision = 'float32'

    config.model = model = ConfigDict({'name': 'unet', 'widths': (16, 32, 64, 128)})
    # What computes the convolutions: 'xla'; or on a CPU 'onednn', or 'im2col_grad' (XLA with a quicker gradient by the
    # weights). 'auto' takes the quickest that works on this machine.
    model.conv = 'auto'

    config.loss = ConfigDict({'name': 'iou', 'options': {}})  # 'iou', 'mse', 'balanced_mse', or 'cross_entropy'
    config.loss.presence = config.loss.handedness = 0.0  # weights of the losses of a network's heads

    config.optimizer = ConfigDict({'name': 'sgd', 'learning_rate': 0.1, 'options': {}})
    config.optimizer.clip = 0.0  # largest norm of the gradient; 0: any
    config.optimizer.schedule = 'plateau'  # or 'cosine', over all steps of config.train
    # Parts: of the steps that the rate rises in, and of the rate that is left at the end.
    config.optimizer.cosine = ConfigDict({'warmup': 0.05, 'final': 0.01})
    # PyTorch's patience 20 is optax's 21 (see optim.py).
    config.optimizer.plateau = ConfigDict({'factor': 0.5, 'patience': 21, 'rtol': 1e-5})

    config.train = train = ConfigDict()
    train.batch_size = 48
    train.epochs = 1000  # an upper bound; early stopping ends the run
    train.steps_per_epoch = 50
    # 0: no limit. Else training ends after about this many minutes on any machine, with the schedule 'cosine' fully
    # run through; such a run is no pure function of its config.
    train.minutes = 0.0
    # With 'resident': an epoch is one call. For accelerators: a CPU takes as long for it, and far longer with
    # model.conv = 'xla'; and a signal then ends a run only after an epoch.
    train.scan_epochs = False
    train.validation_batches = 20  # drawn again from the validation split in each epoch
    train.heads_only = False  # True: what presence and handedness alone use is trained, all else stays
    train.average = 0.0  # decay of the weights' moving average, which is evaluated and kept; 0: the weights themselves
    train.early_stopping = ConfigDict({'window': 10, 'patience': 10})
    train.checkpoint_every = 1  # epochs
    train.images_every = 10  # epochs between pictures in TensorBoard

    config.eval = ConfigDict()
    config.eval.batch_size = 48
    config.eval.decoder = 'window'  # the one that headline numbers and pictures use
    config.eval.decoders = ConfigDict(
        {'window': {'radius': 9.0}, 'mean': {}, 'argmax': {}, 'softargmax': {'temperature': 0.05}}
    )
    return config
