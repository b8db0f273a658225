"""All that a training run is told: one frozen record, and its presets."""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from m2l_runtime.errors import InputError

Direction = Literal["AtoB", "BtoA"]
GanMode = Literal["vanilla", "lsgan"]
NormChoice = Literal["instance", "batch", "none"]
UpsampleChoice = Literal["deconv", "resize"]
Side = Literal[128, 256, 512]


def _field(default: Any, doc: str) -> Any:
    """A field whose line of documentation the command line shows too."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a training run, by the original's names where it has one. The defaults are the preset `paper`.

    Raises:
        InputError: a value is out of range, or of another type; whole numbers of any kind (NumPy's too) become int,
            real ones float.
    """

    image_size: Side = _field(256, "Side in pixels of masks and images: 128, 256 or 512.")
    load_size: int | None = _field(
        None,
        "Side that pictures are resized to before a random crop of image_size.  [default: 286/256 of the image size]",
    )
    mirror: int = _field(
        0, "Pixels added on each side of the resized pictures by mirroring, so that crops move without resampling."
    )
    flip: bool = _field(True, "Flip a pair, mask and image alike, left to right, with probability one half.")
    turn: bool = _field(False, "Turn a pair by no, one, two or three quarters, each as likely.")
    direction: Direction = _field("AtoB", "Of combined A|B files: AtoB has the mask left, BtoA right.")
    ngf: int = _field(64, "Channels of the generator's first layer.")
    ndf: int = _field(64, "Channels of the discriminator's first layer.")
    discriminators: int = _field(1, "Discriminators, each of which sees the image at half the side of the one before.")
    detail: bool = _field(
        False, "Show discriminators the finest detail of an image beside it, amplified, grey apart from colour."
    )
    norm: NormChoice = _field("instance", "Norm of both networks: instance, batch or none.")
    upsample: UpsampleChoice = _field(
        "deconv", "deconv as the original; resize (repeat pixels, then convolve) draws no checkerboards."
    )
    dropout: bool = _field(True, "Dropout 0.5 in the generator's inner blocks.")
    appearance: bool = _field(
        False, "Colours of lesion and skin, and their spread, as a second input; measured of each image trained on."
    )
    gan_mode: GanMode = _field("vanilla", "vanilla: cross-entropy from logits; lsgan: squared error.")
    lambda_l1: float = _field(100.0, "Weight of the L1 loss beside the GAN's.")
    l1_cell: int = _field(
        1, "Side in pixels of the squares whose means the L1 loss compares. Within them the GAN is alone. 1: pixels."
    )
    lr: float = _field(2e-4, "Learning rate of Adam.")
    beta1: float = _field(0.5, "First momentum of Adam; the second is 0.999.")
    batch_size: int = _field(1, "Pairs per step, of all processes together.")
    n_epochs: int = _field(100, "Epochs at the full learning rate.")
    n_epochs_decay: int = _field(100, "Epochs that follow, the learning rate falling in a straight line towards zero.")
    ema: float = _field(
        0.0,
        "What a running average of the generator keeps of itself at each step; it is what is judged and exported. "
        "0: none.",
    )
    bf16: bool = _field(False, "Convolutions in bfloat16 where the device is fast at it; norms and losses in fp32.")
    channels_last: bool = _field(False, "Channels innermost in memory.")
    fused: bool = _field(False, "Adam in one pass over memory.")
    compile: bool = _field(False, "Compile both networks (torch.compile): a minute or so at each start.")
    decode_once: bool = _field(False, "Decode all pairs once, to a memory-mapped file; crop and flip on the device.")
    seed: int = _field(0, "Of weights, order, crops, flips and dropout.")

    def __post_init__(self) -> None:
        for name, low in _MINIMA.items():
            object.__setattr__(self, name, check_integer(name, getattr(self, name), low, MAX_INTEGER))
        for name in ("image_size", *(() if self.load_size is None else ("load_size",))):
            object.__setattr__(self, name, check_integer(name, getattr(self, name), -MAX_INTEGER, MAX_INTEGER))
        for name in ("lambda_l1", "lr", "beta1", "ema"):
            object.__setattr__(self, name, check_float(name, getattr(self, name)))
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be True or False, got {getattr(self, name)!r}")
        for name in ("direction", "norm", "upsample", "gan_mode"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} must be a text, got {getattr(self, name)!r}")
            object.__setattr__(self, name, str.__str__(getattr(self, name)))  # of an enumeration: its plain text
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                options = ", ".join(map(str, choices))
                raise InputError(f"{name} must be one of {options}, got {getattr(self, name)!r}")
        if self.n_epochs + self.n_epochs_decay < 1:
            raise InputError("n_epochs and n_epochs_decay are both 0; there is nothing to train")
        if not (0 < self.lr <= 1 and 0 <= self.beta1 < 1 and 0 <= self.lambda_l1 <= 1e6):
            raise InputError(
                f"lr must be in (0, 1], beta1 in [0, 1) and lambda_l1 in [0, 1e6]; "
                f"got {self.lr}, {self.beta1} and {self.lambda_l1}"
            )
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must be in [0, 1), got {self.ema}")
        if self.appearance and self.norm == "none":
            raise InputError("appearance modulates what norms give, and norm is none; choose norm instance or batch")
        if self.image_size >> self.discriminators - 1 < MIN_DISCRIMINATOR_SIDE:
            raise InputError(
                f"discriminators must be at most {(self.image_size // MIN_DISCRIMINATOR_SIDE).bit_length()} for "
                "images of "
                f"{self.image_size} pixels (the last one sees at least {MIN_DISCRIMINATOR_SIDE}), got "
                f"{self.discriminators}"
            )
        if self.image_size % self.l1_cell:
            raise InputError(f"l1_cell must divide image_size ({self.image_size}), got {self.l1_cell}")
        if not self.mirror < self.resize_to:
            raise InputError(
                f"mirror must be less than the side that pictures are resized to ({self.resize_to}), got {self.mirror}"
            )
        if not self.image_size <= self.resize_to <= 4 * self.image_size:
            raise InputError(
                f"load_size must be between image_size ({self.image_size}) and four times that, got {self.load_size}"
            )

    @property
    def resize_to(self) -> int:
        """Side in pixels that pictures are resized to: 286 for 256, 143 for 128, 572 for 512."""
        return self.image_size * 286 // 256 if self.load_size is None else self.load_size

    @property
    def crop_from(self) -> int:
        """Side in pixels that pictures have before the crop, mirrored margins and all."""
        return self.resize_to + 2 * self.mirror

    @property
    def levels(self) -> int:
        """Stride-2 convolutions of the generator, down to a bottleneck of 1x1."""
        return self.image_size.bit_length() - 1

    @property
    def epoch_count(self) -> int:
        """Epochs in all."""
        return self.n_epochs + self.n_epochs_decay

    def learning_rate(self, epoch: int) -> float:
        """Of epoch `epoch`, counted from 1: full, then ``1 - (e - n_epochs) / (n_epochs_decay + 1)`` of it.

        So the last epoch runs at 1 / (n_epochs_decay + 1) of it, never at zero, as in the original.
        """
        return self.lr * (1.0 - max(0, epoch - self.n_epochs) / (self.n_epochs_decay + 1))


MIN_DISCRIMINATOR_SIDE: Final = 32
"""Side in pixels below which a discriminator's last layers have nothing left to norm."""

MAX_INTEGER: Final = 1 << 31
"""No setting that is a whole number is larger."""

_MINIMA: Final[Mapping[str, int]] = {
    **dict.fromkeys(("ngf", "ndf", "discriminators", "l1_cell", "batch_size"), 1),
    **dict.fromkeys(("n_epochs", "n_epochs_decay", "seed", "mirror"), 0),
}

_SWITCHES: Final = (
    *("flip", "turn", "dropout", "appearance", "detail"),
    *("bf16", "channels_last", "fused", "compile", "decode_once"),
)

_CHOICES: Final[Mapping[str, tuple[Any, ...]]] = {
    "image_size": (128, 256, 512),
    "direction": ("AtoB", "BtoA"),
    "norm": ("instance", "batch", "none"),
    "upsample": ("deconv", "resize"),
    "gan_mode": ("vanilla", "lsgan"),
}


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int.

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
    """`value` as a float.

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


def differences(one: TrainConfig, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Fields that differ, with both values."""
    names = (f.name for f in dataclasses.fields(TrainConfig))
    return {n: (getattr(one, n), getattr(other, n)) for n in names if getattr(one, n) != getattr(other, n)}


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
own: more images a second, an appearance that can be steered, no checkerboards (docs/training.md)."""


FORMAT: Final = 1
