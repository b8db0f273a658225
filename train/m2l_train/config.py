"""Configure a training run: one frozen record of settings, and its presets."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.sides import plain_sides, read_sides, times_halved
from m2l_runtime.errors import InputError
from m2l_runtime.literals import Norm, Upsample

Direction = Literal["AtoB", "BtoA"]
GanMode = Literal["vanilla", "lsgan"]
GeneratorName = Literal["unet", "resnet_6blocks", "resnet_9blocks"]

BLOCKS: Final[Mapping[GeneratorName, int]] = {"unet": 0, "resnet_6blocks": 6, "resnet_9blocks": 9}
"""Residual blocks of each generator; 0: it has none."""

MIN_SIDE: Final = 64
MAX_SIDE: Final = 1024
"""Shortest and longest side in pixels of the pictures that are trained on."""

MIN_DEPTH: Final = 5
"""How often both sides of a U-Net's pictures can be halved, at least."""

MIN_DISCRIMINATOR_SIDE: Final = 32
"""Side in pixels below which a discriminator's last layers have nothing left to norm."""

MAX_INTEGER: Final = 1 << 31
"""No setting that is a whole number is larger."""

MAX_THREADS: Final = 1024
"""PyTorch and its thread libraries crash when they are asked for very many."""

FIELD_BY_FLAG: Final[Mapping[str, str]] = {
    "reflect_pad": "mirror",
    "rotate90": "turn",
    "num_discriminators": "discriminators",
    "l1_pool": "l1_cell",
}
"""Fields named otherwise than their option, by the option's name: they are keys of config.json and keep their names."""

Check = Callable[[str, Any], Any]
"""Takes the name and the value of a setting, and returns the value as it is kept. Raises InputError if it is wrong."""


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Return `value` as an int.

    Raises:
        InputError: it is no whole number (a bool is none either), or not in low..high.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, got {value!r}") from None
    if not low <= number <= high:
        raise InputError(f"{name} must be between {low} and {high}, got {number}")
    return number


def check_float(name: str, value: Any) -> float:
    """Return `value` as a float.

    Raises:
        InputError: it is no finite number; a bool is none either.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{name} must be a finite number, got {value!r}")
    return number


def _sides(name: str, value: Any) -> int | str:
    height, width = read_sides(value, name)
    return plain_sides((height, width))


def _sides_or_none(name: str, value: Any) -> int | str | None:
    return None if value is None else _sides(name, value)


def _whole(low: int) -> Check:
    return lambda name, value: check_integer(name, value, low, MAX_INTEGER)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")
    return value


def _one_of(literal: Any) -> Check:
    choices = get_args(literal)

    def check(name: str, value: Any) -> Any:
        if isinstance(choices[0], int):
            value = check_integer(name, value, -MAX_INTEGER, MAX_INTEGER)
        elif isinstance(value, str):
            value = str.__str__(value)  # of an enumeration: its plain text
        else:
            raise InputError(f"{name} must be a text, got {value!r}")
        if value not in choices:
            raise InputError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
        return value

    return check


def _label(name: str) -> str:
    """Name a setting in a message, with its option where that has another name."""
    flag = next((flag for flag, field_name in FIELD_BY_FLAG.items() if field_name == name), None)
    return name if flag is None else f"{name} (--{flag.replace('_', '-')})"


def _field(default: Any, doc: str, check: Check, *, flag: str | None = None) -> Any:
    """Make a field with the check of its value, and what the command line needs.

    Args:
        default: its default.
        doc: one line of documentation, which the command line shows as help.
        check: called with each value.
        flag: the option without its dashes where it is not the field's name. Fields are keys of config.json and keep
            their names.
    """
    return field(default=default, metadata={"doc": doc, "check": check, "flag": flag, "option": flag and f"--{flag}"})


@check_types(renamed=FIELD_BY_FLAG)
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Hold the settings of a training run, by the original's names where it has one.

    The defaults are the preset `paper`. Whole numbers of any kind (NumPy's too) become int, real ones float.

    Example:
        >>> config = TrainConfig(image_size=128, ngf=32, n_epochs=10, n_epochs_decay=10)
        >>> config.epoch_count, config.resize_to
        (20, (143, 143))
        >>> TrainConfig(image_size="256x512").size
        (256, 512)
        >>> f"{config.learning_rate(20):.2g}"
        '1.8e-05'
        >>> TrainConfig(norm="group")
        Traceback (most recent call last):
        ...
        m2l_runtime.errors.ArgumentError: norm must be one of instance, batch, none, got 'group'

    Raises:
        InputError: a value is out of range, or of another type.
    """

    image_size: int | str | tuple[int, int] = _field(
        256,
        "Side of masks and images in pixels, or height x width as 256x512: multiples of 32 (for a ResNet generator 4), "
        "64 to 1024.",
        _sides,
    )
    load_size: int | str | tuple[int, int] | None = _field(
        None,
        "Side in pixels, or height x width, to which pictures are resized before a random crop of image_size.  "
        "[default: 286/256 of the image size]",
        _sides_or_none,
    )
    mirror: int = _field(
        0,
        "Pixels to add on each side of the resized pictures by reflection. Crops then move without resampling.",
        _whole(0),
        flag="reflect-pad",
    )
    flip: bool = _field(True, "Flip mask and image left to right with probability 0.5.", _switch)
    turn: bool = _field(
        False,
        "Rotate a pair by 0, 90, 180 or 270 degrees, each as likely; where it is no square, by 0 or 180.",
        _switch,
        flag="rotate90",
    )
    direction: Direction = _field(
        "AtoB",
        "Layout of combined A|B files: AtoB has the mask on the left, BtoA on the right.",
        _one_of(Direction),
    )
    generator: GeneratorName = _field(
        "unet",
        "Generator, the original's --netG: unet (as deep as the image size allows), resnet_6blocks or resnet_9blocks.",
        _one_of(GeneratorName),
    )
    ngf: int = _field(64, "Channels of the generator's first layer.", _whole(1))
    ndf: int = _field(64, "Channels of the discriminator's first layer.", _whole(1))
    discriminators: int = _field(
        1,
        "Number of discriminators. Each sees the image at half the side of the one before.",
        _whole(1),
        flag="num-discriminators",
    )
    detail: bool = _field(
        False,
        "Show discriminators the image's finest detail as well, amplified, grey apart from color.",
        _switch,
    )
    norm: Norm = _field("instance", "Norm of both networks: instance, batch or none.", _one_of(Norm))
    upsample: Upsample = _field(
        "deconv",
        "How the generator doubles the side: deconv as the original, or resize (repeat pixels, then "
        "convolve), which leaves no checkerboard artefacts.",
        _one_of(Upsample),
    )
    dropout: bool = _field(True, "Use dropout 0.5 in the generator's inner blocks.", _switch)
    appearance: bool = _field(
        False,
        "Give the generator an appearance as a second input: colors of lesion and skin, and their "
        "spread. It is measured from each training image.",
        _switch,
    )
    gan_mode: GanMode = _field(
        "vanilla",
        "GAN loss: vanilla (cross-entropy from logits) or lsgan (squared error).",
        _one_of(GanMode),
    )
    lambda_l1: float = _field(100.0, "Weight of the L1 loss beside the GAN loss.", check_float)
    l1_cell: int = _field(
        1,
        "Side in pixels of the squares whose means the L1 loss compares. Only the GAN loss sees what is "
        "within them. 1: compare pixels.",
        _whole(1),
        flag="l1-pool",
    )
    lr: float = _field(2e-4, "Learning rate of Adam.", check_float)
    beta1: float = _field(0.5, "First momentum of Adam; the second is 0.999.", check_float)
    batch_size: int = _field(1, "Pairs per step, over all processes.", _whole(1))
    n_epochs: int = _field(100, "Epochs at the full learning rate.", _whole(0))
    n_epochs_decay: int = _field(
        100,
        "Epochs that follow, with a learning rate that falls linearly towards zero.",
        _whole(0),
    )
    ema: float = _field(
        0.0,
        "Decay of the exponential moving average of the generator's weights. The average is what is "
        "validated and exported. 0: no average.",
        check_float,
    )
    bf16: bool = _field(
        False,
        "Compute convolutions in bfloat16 where the device is fast at it, norms and losses in fp32.",
        _switch,
    )
    channels_last: bool = _field(False, "Store channels innermost in memory.", _switch)
    fused: bool = _field(False, "Update all weights in one fused Adam kernel.", _switch)
    compile: bool = _field(
        False,
        "Compile both networks with torch.compile, which takes a minute or two, at each start with 10 minutes or more "
        "of training ahead.",
        _switch,
    )
    decode_once: bool = _field(
        False,
        "Decode all pairs once to a memory-mapped file; crop and flip on the device.",
        _switch,
    )
    seed: int = _field(0, "Seed of weights, order, crops, flips and dropout.", _whole(0))

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = each.metadata["check"](_label(each.name), getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        for is_met, message in _RULES:
            if not is_met(self):
                raise InputError(message(self))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of masks and images."""
        return read_sides(self.image_size, "image_size")

    @property
    def resize_to(self) -> tuple[int, int]:
        """Height and width in pixels that pictures are resized to: by default 286 for 256, 143 for 128, 572 for 512."""
        if self.load_size is not None:
            return read_sides(self.load_size, "load_size")
        height, width = self.size
        return height * 286 // 256, width * 286 // 256

    @property
    def crop_from(self) -> tuple[int, int]:
        """Height and width in pixels that pictures have before the crop, reflected margins included."""
        height, width = self.resize_to
        return height + 2 * self.mirror, width + 2 * self.mirror

    @property
    def levels(self) -> int:
        """Depth of a U-Net: how often both sides can be halved; of a square of 256 pixels, to a bottleneck of 1x1."""
        return times_halved(self.size)

    @property
    def blocks(self) -> int:
        """Residual blocks of the generator; 0: it is a U-Net."""
        return BLOCKS[self.generator]

    @property
    def epoch_count(self) -> int:
        """Epochs in all."""
        return self.n_epochs + self.n_epochs_decay

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate of `epoch`, counted from 1.

        It is full at first, then ``1 - (epoch - n_epochs) / (n_epochs_decay + 1)`` of that. So the last epoch runs at
        1 / (n_epochs_decay + 1) of it, never at zero, as in the original.
        """
        return self.lr * (1.0 - max(0, epoch - self.n_epochs) / (self.n_epochs_decay + 1))


def _nearest_size(config: TrainConfig) -> int | str:
    step = 4 if config.blocks else 1 << MIN_DEPTH
    height, width = (min(MAX_SIDE, max(MIN_SIDE, round(side / step) * step)) for side in config.size)
    return plain_sides((height, width))


_RULES: Final[tuple[tuple[Callable[[TrainConfig], bool], Callable[[TrainConfig], str]], ...]] = (
    (
        lambda c: c.n_epochs + c.n_epochs_decay >= 1,
        lambda c: "n_epochs and n_epochs_decay are both 0; there is nothing to train",
    ),
    (
        lambda c: 0 < c.lr <= 1 and 0 <= c.beta1 < 1 and 0 <= c.lambda_l1 <= 1e6,
        lambda c: (
            f"lr must be in (0, 1], beta1 in [0, 1) and lambda_l1 in [0, 1e6]; got {c.lr}, {c.beta1} and {c.lambda_l1}"
        ),
    ),
    (lambda c: 0 <= c.ema < 1, lambda c: f"ema must be in [0, 1), got {c.ema}"),
    (
        lambda c: not (c.appearance and c.norm == "none"),
        lambda c: "appearance modulates what norms give, and norm is none; choose norm instance or batch",
    ),
    (
        lambda c: not (c.blocks and (c.appearance or c.upsample != "deconv")),
        lambda c: (
            f"the generator {c.generator} takes no appearance and has transposed convolutions alone; leave appearance "
            f"and upsample resize out (--no-appearance --upsample deconv), or choose the generator unet"
        ),
    ),
    (
        lambda c: min(c.size) >= MIN_SIDE and max(c.size) <= MAX_SIDE and c.levels >= (2 if c.blocks else MIN_DEPTH),
        lambda c: (
            f"image_size must be multiples of {4 if c.blocks else 1 << MIN_DEPTH} pixels from {MIN_SIDE} to {MAX_SIDE} "
            f"with the generator {c.generator}, got {c.image_size}; the nearest is {_nearest_size(c)}"
        ),
    ),
    (
        lambda c: min(c.size) >> c.discriminators - 1 >= MIN_DISCRIMINATOR_SIDE,
        lambda c: (
            f"{_label('discriminators')} must be at most "
            f"{(min(c.size) // MIN_DISCRIMINATOR_SIDE).bit_length()} for images of {c.image_size} pixels (the last "
            f"one sees at least {MIN_DISCRIMINATOR_SIDE}), got {c.discriminators}"
        ),
    ),
    (
        lambda c: not any(side % c.l1_cell for side in c.size),
        lambda c: f"{_label('l1_cell')} must divide image_size ({c.image_size}), got {c.l1_cell}",
    ),
    (
        lambda c: c.mirror < min(c.resize_to),
        lambda c: (
            f"{_label('mirror')} must be less than the side that pictures are resized to ({min(c.resize_to)}), "
            f"got {c.mirror}"
        ),
    ),
    (
        lambda c: all(side <= before <= 4 * side for side, before in zip(c.size, c.resize_to, strict=True)),
        lambda c: f"load_size must be between image_size ({c.image_size}) and four times that, got {c.load_size}",
    ),
)
"""What must hold between settings, and the message if it does not. The first one that is not met is told."""


def differences(one: TrainConfig, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, by name (and option, where that is another one), with both values."""
    names = (f.name for f in dataclasses.fields(TrainConfig))
    return {_label(n): (getattr(one, n), getattr(other, n)) for n in names if getattr(one, n) != getattr(other, n)}


PRESETS: Final[Mapping[str, TrainConfig]] = {
    "paper": TrainConfig(),
    "fast": TrainConfig(
        turn=True,
        upsample="resize",
        dropout=False,
        appearance=True,
        lambda_l1=30.0,
        batch_size=8,
        n_epochs=60,
        n_epochs_decay=60,
        ema=0.999,
        bf16=True,
        channels_last=True,
        fused=True,
        compile=True,
        decode_once=True,
    ),
}
"""Named settings. `paper` is Mask2Lesion as published: the original's defaults with `--norm instance`. `fast` is m2l's
own: more images a second, an appearance that can be steered, no checkerboard artefacts (docs/training.md).

Example:
    >>> sorted(PRESETS)
    ['fast', 'paper']
    >>> dataclasses.replace(PRESETS["fast"], batch_size=4).batch_size
    4
"""
