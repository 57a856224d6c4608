"""The options of an experiment: frozen dataclasses whose fields are the flags, word for word.

Every option is declared once, here, with its default, its help and its bounds. `official/flags.py`
makes the flags from these fields; below the jobs nothing knows about flags.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Iterable, Mapping

from official.catalog import FORMATS, JOBS, TASKS


def option(
    default: Any,
    help: str,
    *,
    choices: tuple = (),
    lower: float | None = None,
    upper: float | None = None,
    words: tuple[str, ...] = (),
    decisive: bool = True,
    of_machine: bool = False,
    later: bool = False,
    formerly: str = "",
) -> Any:
    """A dataclass field that also describes its flag.

    Args:
      words: that a number may also be.
      decisive: False: it changes where or how fast a run goes, or what is done with it, but not what it
        computes.
      of_machine: it is of the machine that a run was trained on; a job on the finished run may be elsewhere.
      later: at its default a run is what it was before there was this flag.
      formerly: its name in the version before, which flagfiles, runs and models of that version have.
    """
    metadata = {"help": help, "choices": choices, "lower": lower, "upper": upper, "words": words}
    metadata |= {"decisive": decisive, "of_machine": of_machine, "later": later, "formerly": formerly}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Data:
    """What is read; see official/data/sources.py for the words."""

    labeled_data: str = option("", "Human-labelled training data, e.g. coco:train.json,images.")
    unlabeled_data: str = option(
        "rest", "Images to pseudo-label; `rest`: what --labeled_fraction leaves over."
    )
    eval_data: str = option("", "Labelled data to evaluate on.")
    eval_fraction: float = option(
        0.0,
        (
            "Without --eval_data: share of the labelled images that is held out to evaluate on, every "
            "class in proportion; --split_seed decides which. 0: none."
        ),
        lower=0.0,
        upper=0.9,
    )
    joint_data: str = option(
        "", "Joint training: data with classes (or boxes, which are cut out), e.g. tfds:imagenet2012:train."
    )
    data_dir: str = option(
        "", "Where TFDS data sets are prepared (TFDS' own default when empty).", decisive=False
    )
    index_dir: str = option(
        "",
        (
            "Where indexes of data sets are kept, so that opening a large one again takes seconds; several "
            "runs may share it. When empty: in the run folder."
        ),
        decisive=False,
    )
    labeled_fraction: float = option(
        1.0, "Share of --labeled_data whose labels are used.", lower=0.0, upper=1.0
    )
    split_seed: int = option(
        0, "Which subset --labeled_fraction takes, and which images --eval_fraction holds out.", lower=0
    )
    reviewed: str = option(
        "",
        (
            "Labelled data that people have corrected, of job=review_labels or any: it joins "
            "--labeled_data, and its images leave the unlabelled ones."
        ),
    )
    labeled_ids: str = option(
        "", "File with the ids or file names to use as labelled, instead of a fraction."
    )
    scenes_seed: int = option(0, "Seed of the embedded data set.", lower=0)
    scenes_size: int = option(160, "Side of the embedded images in pixels.", lower=32)
    max_boxes: int = option(100, "Boxes per training image; further ones are left out.", lower=1)
    max_skipped_fraction: float = option(
        0.1,
        "Unusable share of a data set above which a run fails.",
        lower=0.0,
        upper=1.0,
        decisive=False,
    )
    crowd: str = option(
        "ignore",
        (
            "What an object that is marked as a crowd, difficult or a group is: ignored, or an object like "
            "others."
        ),
        choices=("ignore", "objects"),
    )
    stated_size: str = option(
        "check",
        (
            "An image of another size than its annotations state (EXIF turns are understood): left out, or "
            "its boxes and masks scaled to it where the shapes agree."
        ),
        choices=("check", "scale"),
    )
    max_image_pixels: int = option(100_000_000, "An image whose header claims more is skipped.", lower=1)
    check_images: str = option(
        "full",
        "How an image is checked before the run: every pixel, or header and end.",
        choices=("full", "header"),
        decisive=False,
    )
    crop_style: str = option(
        "auto",
        "Classification, contrastive: whose crops. The centre that an image is evaluated by is size / "
        "(size + round(size / 7)) of its shorter side (efficientnet), size / (size + 32) (noisy_student), "
        "or 0.875 (simclr, which also clips its pixels, and takes the whole image where no random crop "
        "fits); auto: simclr for task=contrastive and job=linear_eval, else efficientnet.",
        choices=("auto", "efficientnet", "noisy_student", "simclr"),
    )
    legacy_resize: bool = option(
        False, "Resize as TF1 did, without half-pixel centres: images, and a segmenter's maps and logits."
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """The network; defaults are the paper's RetinaNet with EfficientNet-B7 and FPN P3-P7."""

    task: str = option(
        "detection",
        "What is learned.",
        choices=tuple(TASKS),
    )
    backbone: str = option(
        "efficientnet-b7",
        (
            "efficientnet-b0 ... -b7 or -l2; efficientnet-lite0 ... -lite4 (small machines; published for "
            "224, 240, 260, 280, 300 px); resnet-50, -101 or -152; spinenet-49s, -49, -96, -143 or -190; "
            "keras-cv-resnet-50[-v2] and so on."
        ),
    )
    backbone_width: float = option(
        0.0, "Width coefficient in place of the backbone's own; 0 keeps it.", lower=0.0
    )
    backbone_depth: float = option(
        0.0, "Depth coefficient in place of the backbone's own; 0 keeps it.", lower=0.0
    )
    survival_probability: float = option(
        0.8,
        "Of the last residual branch (stochastic depth) of an EfficientNet or SpineNet; 1 turns it off.",
        lower=0.01,
        upper=1.0,
    )
    image_size: int = option(640, "Side of the square network input in pixels.", lower=32)
    min_level: int = option(3, "Finest pyramid level (stride 2^level).", lower=2, upper=5)
    max_level: int = option(7, "Coarsest pyramid level.", lower=3, upper=8)
    fpn_filters: int = option(256, "Channels of the pyramid.", lower=1)
    head_filters: int = option(256, "Channels of the class and box towers.", lower=1)
    head_convs: int = option(4, "Convolutions in each tower.", lower=0)
    pyramid: str = option("nas_fpn", "Segmentation: the feature pyramid.", choices=("nas_fpn", "fpn"))
    pyramid_repeats: int = option(7, "Segmentation: how often NAS-FPN's cell is repeated.", lower=1)
    separable_pyramid: bool = option(True, "Segmentation: depthwise-separable convolutions in NAS-FPN.")
    segmentation_convs: int = option(3, "Segmentation: convolutions before the classifier.", lower=0)
    anchor_scale: float = option(4.0, "Anchor side in units of the level's stride.", lower=0.1)
    num_scales: int = option(3, "Anchor sizes per octave.", lower=1)
    activation: str = option(
        "relu",
        (
            "Of heads, NAS-FPN, and a ResNet's or SpineNet's blocks; an EfficientNet's is always swish, an "
            "EfficientNet-Lite's ReLU6."
        ),
        choices=("relu", "swish"),
    )
    batch_norm_momentum: float = option(
        0.997, "Of pyramid, heads, and a ResNet's or SpineNet's blocks.", lower=0.0, upper=1.0
    )
    batch_norm_epsilon: float = option(
        1e-4, "Of pyramid, heads, and a ResNet's or SpineNet's blocks.", lower=0.0
    )
    backbone_batch_norm_momentum: float = option(0.99, "Of an EfficientNet.", lower=0.0, upper=1.0)
    input_normalization: str = option(
        "auto",
        (
            "Scale of the backbone's pixels: ImageNet mean and deviation, [0, 1], [-1, 1], 0..255 or (p - "
            "127) / 128; auto: what the weights of --init say, else lite for an EfficientNet-Lite and "
            "imagenet for all others."
        ),
        choices=("auto", "imagenet", "unit", "symmetric", "bytes", "lite"),
    )
    resnet_pool: str = option(
        "auto",
        (
            "ResNet: how the pool after the stem is padded, as in TensorFlow (same) or as in PyTorch "
            "(symmetric); auto: what the weights of --init say, else same."
        ),
        choices=("auto", "same", "symmetric"),
    )
    zero_last_gamma: bool = option(False, "ResNet: residual branches start at zero (SimCLR).")
    dropout: float = option(
        0.0,
        (
            "Classification: share of the pooled features dropped in training (EfficientNet-B0 ... B7: 0.2 "
            "... 0.5, -Lite0, 1: 0.2, -Lite2 ... 4: 0.3)."
        ),
        lower=0.0,
        upper=0.95,
    )
    linear_probe: bool = option(
        False, "Classification: a linear layer on a frozen backbone (job=linear_eval sets it)."
    )
    projection_layers: int = option(3, "Contrastive: dense layers of the projection head.", lower=0)
    projection_dim: int = option(128, "Contrastive: width of the last one.", lower=1)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Training augmentation."""

    augment: str = option(
        "s1", "Preset: `none` or the paper's Augment-S1 ... S4.", choices=("none", "s1", "s2", "s3", "s4")
    )
    student_augment: str = option(
        "",
        (
            "The student's preset, where it differs; taken as it is, without --jitter_*, --autoaugment and "
            "--randaugment_layers."
        ),
        choices=("", "none", "s1", "s2", "s3", "s4"),
    )
    jitter_min: float = option(0.0, "Smallest scale, in place of the preset's; 0 keeps it.", lower=0.0)
    jitter_max: float = option(0.0, "Largest scale, in place of the preset's; 0 keeps it.", lower=0.0)
    flip: bool = option(True, "Random horizontal flip.")
    autoaugment: str = option(
        "",
        "AutoAugment policy, in place of the preset's.",
        choices=("", "none", "v0", "v1", "v2", "v3", "imagenet"),
    )
    randaugment_layers: int = option(
        0, "RandAugment operations per image; 0 keeps the preset's, -1: none.", lower=-1
    )
    randaugment_magnitude: float = option(
        10.0, "RandAugment's level, 10 is the top of the scale (the paper: 10; ResNet-101: 15).", lower=0.0
    )
    randaugment_ops: str = option(
        "auto",
        "Ten operations for boxes, or sixteen for images; auto: by task.",
        choices=("auto", "boxes", "image"),
    )
    augment_reference_size: int = option(
        0,
        (
            "0: Translate and Cutout move whole pixels of the stored image (the original). N: meant for "
            "images with a longer side of N, scaled for others."
        ),
        lower=0,
    )
    solarize_posterize: str = option(
        "original",
        (
            "With the level these two weaken, and wrap in uint8 (Solarize at 10 inverts all), as in the "
            "original; weakening: without the wrapping; or strengthening."
        ),
        choices=("original", "weakening", "strengthening"),
    )
    contrast_grey: str = option(
        "pixel_count",
        "What Contrast blends with: pixels / 256 (the original's quirk) or the mean.",
        choices=("pixel_count", "mean"),
    )
    box_rounding: str = option(
        "original",
        "Boxes in geometric operations: whole pixels, a sliver stays of a box that leaves; or exact.",
        choices=("original", "exact"),
    )
    smallest_crop: float = option(
        0.08,
        "Classification, contrastive: share of the image that a random crop has at least.",
        lower=0.001,
        upper=1.0,
    )
    color_strength: float = option(
        1.0, "Contrastive: strength of the colour distortion (ImageNet 1, CIFAR 0.5).", lower=0.0, upper=1.25
    )
    blur: bool = option(True, "Contrastive: blurs half of the views.")
    blur_per_image: bool = option(
        False,
        "Contrastive: a sigma for every view; off: one for the whole batch (the original's quirk).",
        formerly="blur_per_picture",
    )
    min_box_size: float = option(
        0.0, "Boxes with a shorter side in the network's input are dropped.", lower=0.0
    )


@dataclasses.dataclass(frozen=True)
class Loss:
    """The losses and how they are joined."""

    joint_loss: str = option(
        "normalized", "The paper's normalised loss, or L_h + alpha L_p.", choices=("normalized", "standard")
    )
    alpha: float = option(1.0, "Weight of the pseudo-label loss.", lower=0.0)
    ema_decay: float = option(0.9997, "Of the moving averages of both losses.", lower=0.0, upper=1.0)
    focal_alpha: float = option(0.25, "Focal loss: weight of the positive class.", lower=0.0, upper=1.0)
    focal_gamma: float = option(1.5, "Focal loss: focusing exponent.", lower=0.0)
    box_weight: float = option(50.0, "Weight of the box loss.", lower=0.0)
    huber_delta: float = option(0.1, "Box loss: where it turns linear.", lower=1e-6)
    match_iou: float = option(0.5, "IoU from which an anchor is positive.", lower=0.0, upper=1.0)
    mask_resize: str = option(
        "logits",
        (
            "Segmentation: where logits and labels meet: logits enlarged to the labels; labels cut to the "
            "logits (nearest, as the release); bilinear class numbers (an artefact)."
        ),
        choices=("logits", "nearest", "bilinear"),
    )
    label_smoothing: float = option(
        0.0, "Of class targets, in segmentation and classification.", lower=0.0, upper=1.0
    )
    temperature: float = option(0.1, "Contrastive: divides the similarities of NT-Xent.", lower=1e-3)
    joint_weight: float = option(
        0.0,
        (
            "Joint training: weight of the classification loss on --joint_data (the paper: 0.5 alone, 0.2 "
            "with self-training); 0: off."
        ),
        lower=0.0,
    )
    weight_decay: float = option(
        1e-4,
        (
            "L2 on kernels: weight_decay * 0.5 * sum of squares; classification, contrastive: on all but "
            "batch norm, unless --optimizer=lars."
        ),
        lower=0.0,
    )
    decay_batch_norm: bool = option(
        False, "Weight decay also on batch norm's scale and shift (the paper's ResNet-101 study)."
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How weights move. Learning rates are for the human batch size; nothing is rescaled."""

    optimizer: str = option(
        "momentum",
        (
            "momentum: v = m v + g, w -= lr v (the paper's). nesterov, rmsprop (EfficientNet's), lars "
            "(SimCLR's). adam: for small runs."
        ),
        choices=("momentum", "nesterov", "rmsprop", "lars", "adam"),
    )
    learning_rate: float = option(0.32, "After warm-up.", lower=0.0)
    student_learning_rate: float = option(
        0.0, "The student's, where it differs; 0 means the same.", lower=0.0
    )
    schedule: str = option(
        "cosine", "Decay after warm-up.", choices=("cosine", "step", "constant", "exponential")
    )
    warmup_steps: int = option(1000, "Linear warm-up.", lower=0)
    warmup_learning_rate: float = option(0.0032, "Where the warm-up starts.", lower=0.0)
    decay_boundaries: str = option("", "step schedule: steps, comma separated.")
    decay_rates: str = option("", "step schedule: learning rate from each boundary on, comma separated.")
    decay_every: float = option(
        0.0,
        "exponential schedule: steps between decays, may be broken (EfficientNet: 2.4 epochs).",
        lower=0.0,
    )
    decay_factor: float = option(0.97, "exponential schedule: factor of every decay.", lower=0.0, upper=1.0)
    momentum: float = option(
        0.9, "Of the momentum, nesterov, rmsprop and lars optimizers.", lower=0.0, upper=1.0
    )
    lars_coefficient: float = option(0.001, "lars: trust coefficient.", lower=0.0)
    weight_average: float = option(
        0.0,
        (
            "Decay of an exponential average of the weights that is evaluated, exported and labels "
            "(EfficientNet: 0.9999); 0: off."
        ),
        lower=0.0,
        upper=1.0,
    )
    clip_norm: float = option(
        0.0, "Clips the global gradient norm, after summing over replicas; 0: off.", lower=0.0
    )


@dataclasses.dataclass(frozen=True)
class Training:
    """How long and on how much."""

    batch_size: int = option(256, "Human-labelled images per step, over all replicas.", lower=1)
    pseudo_batch_size: int = option(
        256, "Pseudo-labelled images per student step, over all replicas.", lower=1
    )
    teacher_batch_size: int = option(
        0,
        "Human-labelled images per step of the teacher, and of the control, whose steps hold labels alone, "
        "too; 0: --batch_size.",
        lower=0,
    )
    accumulate: int = option(
        1,
        (
            "In how many parts a batch is passed, where it does not fit into memory at once; batch norm "
            "normalises every part by itself, all else is as in one go."
        ),
        lower=1,
        later=True,
    )
    teacher_steps: int = option(45_000, "Steps of the teacher.", lower=1)
    student_steps: int = option(45_000, "Steps of the student.", lower=1)
    patience: int = option(
        0,
        (
            "Ends teacher and student after so many evaluations (--eval_every) in a row without a better "
            "one; the control is trained as long as they were. 0: all steps are taken."
        ),
        lower=0,
        later=True,
    )
    take: str = option(
        "last",
        (
            "Which checkpoint of a phase goes on, into the next phase and the export: the last, or the "
            "best that "
            "--eval_every found; it is chosen on the evaluation data, so its score there is too good."
        ),
        choices=("last", "best"),
        later=True,
    )
    control: bool = option(
        False,
        (
            "Also trains the fair control: labels alone, teacher's plus student's steps; "
            "official/self_training/loop.py says what fair is."
        ),
    )
    rounds: int = option(
        1,
        (
            "job=self_train: how often; from the second round on the last one's student is the teacher, in "
            "<model_dir>/round_2 and so on."
        ),
        lower=1,
    )
    student_init: str = option(
        "teacher",
        "Where the student starts: teacher, scratch (as the teacher did), or anything that --init takes.",
    )
    teacher: str = option(
        "",
        (
            "A trained model to label with and start the student from, in place of training one: a run "
            "folder (the first finished one of its student, teacher and imported network), a phase in one, "
            "or a checkpoint folder. It is used as the network that it was trained as; flags of the "
            "network that are not given are its own."
        ),
    )
    init_checkpoint: str = option(
        "", "Run folder, phase or checkpoint folder that the teacher starts from, heads included."
    )
    init: str = option(
        "random",
        (
            "Backbone weights to start from: random, imagenet, imagenet++, simclr (public weights, looked "
            "up by name), a run folder, phase or checkpoint folder, or a file; see "
            "official/models/weights/import_checkpoint.py."
        ),
    )
    weights_dir: str = option(
        "weights",
        (
            "Where --init=imagenet, imagenet++ and simclr look first: <backbone>_<init>.npz, or a public "
            "file under its own name; see official/models/weights/public_weights.py."
        ),
        decisive=False,
    )
    download: bool = option(
        False,
        (
            "Fetches the public file that --init=imagenet or imagenet++ names where none is here: once, "
            "its hash checked, going on where it broke off."
        ),
        decisive=False,
    )
    joint_batch_size: int = option(
        256, "Joint training: images of --joint_data per step, over all replicas.", lower=1
    )
    joint_image_size: int = option(224, "Joint training: side of their crops.", lower=32)
    freeze: str = option(
        "",
        "Regular expression: variables whose names it matches from the start are not trained, nor decayed.",
    )


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """How labels are made and read."""

    score_threshold: float | str = option(
        0.5,
        (
            "Pseudo boxes below it are not used. auto: a threshold for every class, which leaves as many "
            "boxes "
            "per image as people draw, times --label_density; see official/self_training/thresholds.py."
        ),
        lower=0.0,
        upper=1.0,
        words=("auto",),
    )
    label_density: float = option(
        1.0,
        (
            "With --score_threshold=auto: how many pseudo boxes of a class an image has on average, as a "
            "multiple of the labelled images'."
        ),
        lower=0.001,
        upper=100.0,
    )
    ignore_above: float = option(
        1.0,
        (
            "Detection: anchors on pseudo boxes from this score to the threshold are neither object nor "
            "background; 1: boxes below the threshold are background, as in the paper."
        ),
        lower=0.0,
        upper=1.0,
    )
    class_thresholds: str = option("", "Per-class thresholds, e.g. disc=0.6,ring=0.4.")
    score_floor: float = option(0.05, "Detections below it are not stored.", lower=0.0, upper=1.0)
    empty_pseudo_images: str = option(
        "keep",
        "Images without a pseudo label: kept (background, or all ignored), or left out.",
        choices=("keep", "drop"),
    )
    label_scales: str = option(
        "0.5,0.75,1,1.25,1.5,1.75",
        "Segmentation: input scales that the teacher's probabilities are averaged over.",
    )
    label_flip: bool = option(False, "Segmentation: also averages over mirrored images.")
    soft_labels: bool = option(
        False,
        (
            "Classification: the student learns the teacher's probabilities instead of its class (Noisy "
            "Student)."
        ),
    )
    label_temperature: float = option(1.0, "Classification: temperature of the soft labels.", lower=0.01)
    pseudo_images_per_class: int = option(
        0,
        (
            "Classification: keep the surest images of every class, at most so many, and repeat them up to "
            "so many (Noisy Student: 1300 for 1.2 M labelled images); 0: all."
        ),
        lower=0,
        formerly="pictures_per_class",
    )
    label_shard_size: int = option(1000, "Images per label shard.", lower=1)
    shard_index: int = option(0, "Which worker of a shared labelling job this is.", lower=0, decisive=False)
    engine: str = option(
        "local",
        (
            "job=pseudo_label: who shares the labelling out: this process (and others, by --shard_index), or "
            "Apache Beam (requirements-beam.txt)."
        ),
        choices=("local", "beam"),
        decisive=False,
    )
    beam_options: str = option(
        "",
        (
            "--engine=beam: options of the pipeline, as in '--runner=FlinkRunner "
            "--flink_master=HOST:8081'; when empty Beam's runner on this machine."
        ),
        decisive=False,
    )
    num_shards: int = option(1, "How many workers share the labelling job.", lower=1, decisive=False)
    label_store: str = option(
        "", "A label store to use, in place of <model_dir>/pseudo_labels.", decisive=False
    )

    @property
    def drawn_from(self) -> float:
        """The score from which boxes are drawn."""
        return 0.3 if isinstance(self.score_threshold, str) else self.score_threshold


@dataclasses.dataclass(frozen=True)
class Decoding:
    """From network outputs to boxes; used in labelling, evaluation and export."""

    nms_iou: float = option(0.5, "Hard NMS suppresses above this IoU.", lower=0.0, upper=1.0)
    soft_nms_sigma: float = option(
        0.0,
        "Above 0: Gaussian Soft-NMS, scores times exp(-iou^2 / (2 sigma)), TensorFlow's formula. The "
        "Soft-NMS paper's is exp(-iou^2 / sigma): 0.3 here is 0.6 there. SpineNet's 0.3 does not say which "
        "of the two.",
        lower=0.0,
    )
    max_detections: int = option(100, "Per image.", lower=1)
    pre_nms_top_k: int = option(1000, "Candidates per level before NMS.", lower=1)
    legacy_decoding: bool = option(
        False,
        (
            "Boxes as the original decodes them: anchors a pixel wider and higher (+1), the far corner a "
            "pixel back, cut off at image_size - 1. An imported detector was scored so."
        ),
    )
    eval_score_threshold: float = option(
        0.05, "Detections below it are not evaluated or exported.", lower=0.0, upper=1.0
    )
    eval_batch_size: int = option(8, "Images per labelling or evaluation batch.", lower=1, decisive=False)


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where it runs, and how it keeps what it has done."""

    job: str = option(
        "self_train",
        "What to do; see official/catalog.py.",
        choices=tuple(JOBS),
        decisive=False,
    )
    model_dir: str = option("", "The run folder: everything a job writes is in it.", decisive=False)
    seed: int = option(0, "Decides weights, data order and every random draw.", lower=0)
    strategy: str = option(
        "auto",
        "auto: one device, or mirrored over several GPUs.",
        choices=("auto", "one", "mirrored", "multi_worker"),
        decisive=False,
        of_machine=True,
    )
    recipe: str = option(
        "none",
        (
            "auto: chooses image size, network, batch, steps, learning rate and what hangs on them for this "
            "machine and this amount of data, where no flag is given; printed with the reasons, kept in the "
            "run as recipe.cfg."
        ),
        choices=("none", "auto"),
        decisive=False,
        of_machine=True,
    )
    machine: str = option(
        "",
        (
            "--recipe=auto, --dry_run: plans for this machine in place of the one at hand, e.g. "
            "cores=64,memory=512,gpus=8,gpu_memory=80 (GB)."
        ),
        decisive=False,
        of_machine=True,
    )
    num_devices: int = option(
        0,
        "Devices to mirror over; 0: all. On a CPU host, logical CPU devices.",
        lower=0,
        decisive=False,
        of_machine=True,
    )
    tpu: str = option("", "TPU name, address or `local`.", decisive=False, of_machine=True)
    precision: str = option("float32", "Of activations.", choices=("float32", "bfloat16", "float16"))
    xla: bool = option(
        False, "Compiles the whole step with XLA (one replica; a TPU always does).", decisive=False
    )
    deterministic: bool = option(
        True,
        "Deterministic kernels: a resumed run is bit-identical. With --xla they are XLA's own.",
        decisive=False,
    )
    threads: int = option(
        0, "Threads of the input pipeline; 0: chosen at run time.", lower=0, decisive=False, of_machine=True
    )
    compute_threads: int = option(
        0,
        (
            "Threads that a process computes with on CPUs, results depend on them in the last bits; 0: the "
            "machine's cores, with --parallel_phases half of them."
        ),
        lower=0,
        decisive=False,
        of_machine=True,
    )
    parallel_phases: bool = option(
        False,
        (
            "job=self_train: trains the control beside teacher, labels and student, in a process of its "
            "own with "
            "half of the cores or GPUs. The same bits as one after the other with the same --compute_threads."
        ),
        decisive=False,
        of_machine=True,
    )
    checkpoint_every: int = option(1000, "Steps between checkpoints.", lower=1, decisive=False)
    keep_checkpoints: int = option(3, "How many to keep, besides the best.", lower=1, decisive=False)
    eval_every: int = option(
        0, "Steps between evaluations while training; 0: only at the end.", lower=0, decisive=False
    )
    summary_every: int = option(100, "Steps between TensorBoard scalars.", lower=1, decisive=False)
    drawn_images: int = option(
        16, "Images per grid that is drawn, at most.", lower=0, decisive=False, formerly="pictures"
    )
    on_nan: str = option(
        "stop",
        "A loss or gradient that is not finite: stop the run, or skip the step.",
        choices=("stop", "skip"),
        decisive=False,
    )
    max_nan_steps: int = option(
        100, "With --on_nan=skip: how many skipped steps end the run.", lower=1, decisive=False
    )


@dataclasses.dataclass(frozen=True)
class Serving:
    """Jobs on a finished model."""

    checkpoint: str = option(
        "",
        (
            "Run folder, phase or checkpoint folder to evaluate, label, predict or export with, the run's "
            "own when empty; job=import_checkpoint: the file."
        ),
    )
    classes: str = option(
        "",
        (
            "File of the classes of all data, a name a line in the order that they are to have, or a COCO "
            "JSON: needed where the words that a + joins have other classes. job=import_checkpoint of a "
            "whole network: its classes, a name a line in the order of its channels (a detector's without "
            "the background), or a COCO JSON whose category ids are the channels. Default: COCO's for a "
            "detector of 91 channels, PASCAL VOC's for a segmenter of 21, else class_1, class_2 ..."
        ),
    )
    detections: str = option("", "job=evaluate: a COCO results file to score instead of a model.")
    iou_type: str = option("bbox", "job=evaluate --detections: what is compared.", choices=("bbox", "segm"))
    images: str = option("", "job=predict: a folder of images.")
    output: str = option(
        "",
        (
            "Where job=predict, review_labels, write_scenes, write_tfrecords and export_labels write; of "
            "review_labels and export_labels a new folder."
        ),
    )
    format: str = option(
        "coco",
        (
            "job=export_labels, review_labels: of the labels that are written; masks become polygons, with "
            "voc PNGs."
        ),
        choices=tuple(FORMATS),
    )
    labels: str = option(
        "pseudo",
        (
            "job=export_labels: pseudo labels of --label_store or the run (on --unlabeled_data), "
            "predictions of the model (on --images or --unlabeled_data), both at --score_threshold and "
            "--class_thresholds; or human: those of --labeled_data at --labeled_fraction or --labeled_ids."
        ),
        choices=("pseudo", "predictions", "human"),
    )
    image_files: str = option(
        "copy",
        "job=export_labels, review_labels: image files are copied, or hard links where the disk allows it.",
        choices=("copy", "link"),
    )
    draw_scores: bool = option(True, "Drawings of pseudo and predicted boxes: scores behind the class names.")
    output_shards: int = option(8, "job=write_tfrecords: how many files.", lower=1)
    tflite: bool = option(False, "Also exports TFLite.")
    review_images: int = option(
        50, "job=review_labels: how many images are written for people to correct.", lower=1
    )
    quantize: str = option(
        "none",
        (
            "job=export --tflite: also a smaller TFLite network, its activations calibrated on evaluation "
            "images "
            "(int8) or its weights halved (float16), and its metrics beside those of the float32 one."
        ),
        choices=("none", "int8", "float16"),
    )
    study: str = option(
        "",
        (
            "job=study: a study file, or the name of one that comes with the program; see "
            "official/study/spec.py."
        ),
    )
    runs: str = option("", "job=report: a pattern of run folders, e.g. 'runs/seeds/*'.")
    workers: int = option(0, "job=study: how many runs at a time; 0: one per core.", lower=0)
    teraflops: float = option(
        0.0,
        (
            "--dry_run: what an accelerator sustains, in 10^12 floating-point operations per second; also "
            "says how many hours of one the steps take."
        ),
        lower=0.0,
    )
    dry_run: bool = option(
        False,
        (
            "job=self_train, train: opens the data, checks the flags and says what would be done; job=study: "
            "which runs there are and how long they take. Nothing is trained or written."
        ),
    )
    check_steps: int = option(
        5,
        "job=check_data: real training steps that are timed, to say how long a run takes; 0: none.",
        lower=0,
    )


GROUPS = {
    "data": Data,
    "model": Model,
    "augment": Augment,
    "loss": Loss,
    "optimizer": Optimizer,
    "training": Training,
    "pseudo_labels": PseudoLabels,
    "decoding": Decoding,
    "runtime": Runtime,
    "serving": Serving,
}


def _said(fact: str, value: bool) -> frozenset[str]:
    """The flags that say so of themselves, see `option`."""
    fields = (field for group in GROUPS.values() for field in dataclasses.fields(group))
    return frozenset(field.name for field in fields if field.metadata[fact] is value)


NOT_FINGERPRINTED = _said("decisive", False) | {field.name for field in dataclasses.fields(Serving)}
LATER = _said("later", True)
MACHINE = _said("of_machine", True)
FORMERLY = {
    field.metadata["formerly"]: field.name
    for group in GROUPS.values()
    for field in dataclasses.fields(group)
    if field.metadata["formerly"]
}


def by_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options by the names that they have now, where some have those of the version before."""
    return {FORMERLY.get(name, name): value for name, value in values.items()}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that decides a run."""

    data: Data = Data()
    model: Model = Model()
    augment: Augment = Augment()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    pseudo_labels: PseudoLabels = PseudoLabels()
    decoding: Decoding = Decoding()
    runtime: Runtime = Runtime()
    serving: Serving = Serving()
    # Names of the options that somebody gave; a trained network may decide the others.
    given: frozenset[str] = dataclasses.field(default=frozenset(), compare=False, repr=False)

    def flags(self) -> dict[str, Any]:
        """Every option by its flag's name."""
        return {k: v for group in GROUPS for k, v in dataclasses.asdict(getattr(self, group)).items()}

    def with_flags(self, values: Mapping[str, Any]) -> Experiment:
        """A copy with other values; what counts as given stays."""
        return experiment_from({**self.flags(), **values}, given=self.given) if values else self

    def decisive_flags(self) -> dict[str, Any]:
        """The options that decide the numbers; which steps are evaluated is one where that decides what goes
        on.
        """
        chosen = self.training.patience > 0 or self.training.take != "last"
        left_out = NOT_FINGERPRINTED - {"eval_every"} if chosen else NOT_FINGERPRINTED
        usual = {
            field.name: field.default for group in GROUPS.values() for field in dataclasses.fields(group)
        }
        return {
            k: v for k, v in self.flags().items() if k not in left_out and not (k in LATER and v == usual[k])
        }

    def fingerprint(self) -> str:
        """Twelve hex digits over the decisive flags."""
        text = json.dumps(self.decisive_flags(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def experiment_from(values: Mapping[str, Any], given: Iterable[str] | None = None) -> Experiment:
    """Builds an experiment from option values by name; the others keep their defaults.

    Args:
      values: names of the version before are taken, too.
      given: names of those that somebody gave, see `Experiment.given`; all of `values` by default.

    Raises:
      ValueError: a name that is no option.
    """
    values = by_present_names(values)
    given = frozenset(values if given is None else by_present_names(dict.fromkeys(given)))
    groups = {}
    for name, group in GROUPS.items():
        own = {field.name for field in dataclasses.fields(group)} & set(values)
        groups[name] = group(**{key: values.pop(key) for key in own})
    if values:
        raise ValueError(f"no such option: {sorted(values)}")
    return Experiment(**groups, given=given)
