"""Write the model card of a bundle."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from m2l_export.quantize.sensitivity import Sensitivity
from m2l_runtime._utils.text import plural
from m2l_runtime.backends.trt.library import TITLES
from m2l_runtime.bundle.schema import ModelFile, Network, Parity, PlanFile, Provenance, Training
from m2l_runtime.conditioning.conditions import MIN_CONTRAST
from m2l_runtime.conditioning.orientation import orientation_words
from m2l_runtime.types import NAMES, list_names

T = TypeVar("T")

_CARD = """\
# {name}: model card

Made by m2l {version}. The file `manifest.json` beside this one holds the same facts for programs.

## What it is
{kind} generator that paints a dermoscopic picture of a skin lesion into the shape of a binary mask
({method}). Masks of {width}x{height} pixels (wide x high) go in, RGB images of
the same size come out.{beside}

## What it is for, and what never
- For research, and for enlarging training sets of lesion segmentation.
- **Never for diagnosis.** Every image is synthetic. None shows a patient; none says anything about one.
- A network trained on these images inherits what its training data lacked: skin tones, cameras, kinds of
  lesion. Evaluate it on real images only.

## Network
{network}{weights}

## Where the weights come from
`{checkpoint}`, SHA-256 `{checkpoint_sha256}`.
{origin}

{parity}{plans}{sensitivity}{warnings}"""


def model_card(
    name: str,
    image_size: tuple[int, int],
    network: Network,
    provenance: Provenance,
    models: tuple[ModelFile, ...],
    warnings: tuple[str, ...],
    origin: str,
    appearance_count: int = 0,
    min_contrast: float = 0.0,
    sensitivities: Mapping[str, Sensitivity] | None = None,
    plans: Sequence[PlanFile] = (),
    names: Sequence[str] = NAMES,
    random_orientation: bool = False,
) -> str:
    """Write the text of MODEL_CARD.md.

    Args:
        name: name of the bundle.
        image_size: (height, width) of masks and images.
        network: the manifest's entry of the network.
        provenance: the manifest's entry of where the weights come from.
        models: the ONNX files.
        warnings: warnings of the export.
        origin: a paragraph by the user: data, licence, training.
        appearance_count: rows of the bundle's table of appearances that are sampled.
        min_contrast: least contrast of these rows, in Delta E*ab; 0: all are sampled.
        sensitivities: what int8 costs layer by layer, by the engine that the file is for.
        plans: the TensorRT plans.
        names: names of an appearance's numbers.
        random_orientation: whether masks are rotated and flipped at random, and images back.
    """
    return _CARD.format(
        name=name,
        version=provenance.versions["m2l"],
        height=image_size[0],
        width=image_size[1],
        kind="A modulated" if network.architecture == "modulated" else "A pix2pix",
        method=_METHODS[network.architecture],
        network=_describe_network(network),
        beside=_input_lines(network, appearance_count, names, min_contrast)
        + (_ORIENTED.format(how=orientation_words(image_size)) if random_orientation else ""),
        weights=next(
            (_WEIGHTS.format(file=m.file.path) for m in models if m.weights == "fp16" and m.precision == "fp32"), ""
        ),
        checkpoint=provenance.checkpoint,
        checkpoint_sha256=provenance.checkpoint_sha256,
        origin="\n".join(filter(None, (_training(provenance.training), origin)))
        or "Nothing more is known to this card: data, licence and length of training are for you to add.",
        parity=_parity(models),
        plans=_plans(plans) if plans else "",
        sensitivity=sensitivity_table(sensitivities) if sensitivities else "",
        warnings="\n## Warnings of the export\n" + "\n".join(f"- {w}" for w in warnings) + "\n" if warnings else "",
    )


_ORIENTED: Final = (
    "\n\nEach mask is {how} at random before the network runs, and its image back, so that what "
    "the network leaves\nat fixed places lies at others from image to image. The seed says how."
)

_METHODS: Final = {
    "resnet": "the Mask2Lesion method, arXiv:1906.05845, with the original's ResNet generator",
    "unet": "the Mask2Lesion method, arXiv:1906.05845",
    "modulated": "the task of Mask2Lesion, arXiv:1906.05845, with another network",
}

_MODULATED: Final = """\
Modulated generator: an encoder of the mask halves its side {levels} times, and a decoder doubles it again, by
repeated pixels and 3x3 convolutions, {ngf} channels wide at half the side; {parameter_count:,} parameters. There are
no norms and no dropout: the appearance scales the inputs of each convolution, and the outputs are divided by what
that gives for inputs of variance 1 (as in StyleGAN2, arXiv:1912.04958). Noise comes into each convolution. Luma is
drawn at the full side and chroma at half of it, as in the JPEG files of photographs; the graph makes RGB of them."""

_UNET: Final = """\
U-Net generator, {levels} levels, ngf {ngf}, {input_nc} input and {output_nc} output channels, norm
{norm} (statistics: {norm_statistics}), {parameter_count:,} parameters. {dropout}{upsample}"""


_RESNET: Final = """\
ResNet generator, {blocks}, ngf {ngf}, {input_nc} input and {output_nc} output channels, norm {norm}
(statistics: {norm_statistics}), {parameter_count:,} parameters. {dropout}{upsample}"""


def _describe_network(network: Network) -> str:
    if network.architecture == "modulated":
        return _MODULATED.format(levels=network.levels, ngf=network.ngf, parameter_count=network.parameter_count)
    return (_RESNET if network.architecture == "resnet" else _UNET).format(
        blocks=plural(network.blocks, "block"),
        levels=network.levels,
        ngf=network.ngf,
        input_nc=network.input_nc,
        output_nc=network.output_nc,
        norm=network.norm,
        norm_statistics=network.norm_statistics,
        parameter_count=network.parameter_count,
        dropout=_DROPOUT[network.dropout],
        upsample=" Upsampling is by repeated pixels and a 3x3 convolution." if network.upsample == "resize" else "",
    )


_DROPOUT: Final = {
    "off": "Dropout is off; the original leaves it on\nwhen it tests.",
    "input": "Dropout is on, as when the\noriginal tests; what it keeps comes in as bits.",
}
_WEIGHTS: Final = "\nIn {file} weights are stored in half precision (fp16); they are fp32 once it is loaded."


def _psnr(parity: Parity) -> str:
    if parity.worst_psnr_db is not None:
        return f"{parity.mean_psnr_db:.1f} dB, worst {parity.worst_psnr_db:.1f}"
    return "identical" if parity.psnr_db is None else f"{parity.psnr_db:.1f} dB"


_PARITY_COLUMNS: Final[Mapping[str, Callable[[ModelFile], object]]] = {
    "file": lambda m: m.file.path,
    "computes in": lambda m: m.precision,
    "engine": lambda m: m.parity.engine + (" (emulated)" if m.parity.kind == "emulated" else ""),
    "masks": lambda m: m.parity.mask_count,
    "batch sizes": lambda m: ", ".join(map(str, m.parity.batch_sizes)),
    "largest difference": lambda m: m.parity.max_level_difference,
    "mean difference": lambda m: f"{m.parity.mean_level_difference:.6f}",
    "PSNR": lambda m: _psnr(m.parity),
}
"""Columns of the table of ONNX files, by title."""

_PLAN_COLUMNS: Final[Mapping[str, Callable[[PlanFile], object]]] = {
    "file": lambda plan: plan.file.path,
    "TensorRT": lambda plan: f"{TITLES[plan.flavour]} {plan.version}",
    "compute capability": lambda plan: plan.compute_capability + ("" if plan.card is None else f", {plan.card}"),
    "masks a call": lambda plan: " to ".join(map(str, (plan.batch_sizes[0], plan.batch_sizes[2]))),
    "convolutions": lambda plan: ", ".join(f"{count} in {kind}" for kind, count in plan.convolutions.items()),
    "parity": lambda plan: (
        plan.parity if isinstance(plan.parity, str) else f"at most {plan.parity.max_level_difference} levels off"
    ),
}
"""Columns of the table of TensorRT plans, by title."""


def _table(columns: Mapping[str, Callable[[T], object]], rows: Sequence[T]) -> list[str]:
    """Format a table in Markdown, a line each."""
    lines = [_row(*(cell(row) for cell in columns.values())) for row in rows]
    return [_row(*columns), "|---" * len(columns) + "|", *lines]


def _parity(models: tuple[ModelFile, ...]) -> str:
    """Format the table of ONNX files, and what each is compared with."""
    references = list(dict.fromkeys(m.parity.reference for m in models))
    columns = dict(_PARITY_COLUMNS)
    against = f"against: {references[0]}."
    if len(references) > 1:
        letters = dict(zip(references, "ABCDEFGH", strict=False))
        cells = list(columns.items())
        place = list(columns).index("engine") + 1
        columns = dict([*cells[:place], ("against", lambda m: letters.get(m.parity.reference, "-")), *cells[place:]])
        against = "against:\n" + "\n".join(f"- {letter}: {reference}" for reference, letter in letters.items())
    if any(m.parity.kind == "emulated" for m in models):
        against += "\n\nEmulated: not by what the file is for, which takes a GPU, but by others, from the same graph."
    if any(m.parity.worst_psnr_db is not None for m in models):
        against += "\n\nA PSNR with a worst one beside it is the mean over the images, else that of all bytes together."
    lines = ["## Parity", *_table(columns, models), "", f"Differences are in levels of 0..255, {against}\n"]
    return "\n".join(lines)


def _plans(plans: Sequence[PlanFile]) -> str:
    lines = [
        "\n## Plans",
        "Each runs in one version of the library, on GPUs of one compute capability. They are code: m2l loads",
        "them only where it is told to trust them, and builds its own of the files above otherwise.",
        "",
        *_table(_PLAN_COLUMNS, plans),
        "",
    ]
    return "\n".join(lines)


def sensitivity_table(by_engine: Mapping[str, Sensitivity]) -> str:
    """Format the table of what each layer costs in int8, and of those that stay in float."""
    rows = [
        _row(
            first.layer,
            f"{first.multiplications_share * 100:.1f} %",
            *(
                f"{layer.alone_psnr_db:.1f}, {layer.alone_worst_psnr_db:.1f}{', in float' if layer.is_float else ''}"
                for layer in (first, *others)
            ),
        )
        for first, *others in zip(*(one.layers for one in by_engine.values()), strict=True)
    ]
    head = _row("layer", "multiplications", *(f"alone on {engine}" for engine in by_engine))
    chosen = "; ".join(
        f"on {engine} "
        + (f"{one.float_share * 100:.0f} % of the multiplications are" if one.float_layers else "no convolution is")
        + " left in float"
        for engine, one in by_engine.items()
    )
    return "\n".join(
        (
            "\n## What int8 costs",
            "PSNR in dB, mean and worst of a few images, with one convolution in int8 and all others in float;",
            f"{chosen}.",
            "",
            head,
            "|---" * (2 + len(by_engine)) + "|",
            *rows,
            "",
        )
    )


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _input_lines(network: Network, appearance_count: int, names: Sequence[str], min_contrast: float) -> str:
    """Describe the inputs beside the mask."""
    text = ""
    if network.appearance:
        numbers = "the colors of lesion and skin and their spread, as 12 numbers (CIE L*a*b*)."
        if tuple(names) != NAMES:
            described = f"{plural(len(names), 'number')} that say what the image looks like ({list_names(names)})."
            numbers = textwrap.fill(described, 112, initial_indent=" " * 37)[37:]
        text += (
            f"\n\nBeside each mask goes an appearance: {numbers}\nThe network was trained with those measured on its "
            f"own images; `m2l synth` draws from {appearance_count:,} of them in\n`appearances.npz`. They are "
            "statistics of real photographs, not pictures."
        )
        if min_contrast:
            text += (
                " Those whose mean colors of lesion and skin are less\nthan "
                f"{min_contrast:.3g} Delta E*ab apart, where nobody sees where the mask is, are drawn where "
                f"`--appearance {MIN_CONTRAST}=0` asks for them."
            )
    if network.dropout == "input":
        text += (
            "\n\nBeside each mask go dropout bits, drawn with a seed: the same seed gives the same image, another seed "
            "another\none. How much another depends on the network, and it is often little."
        )
    if network.architecture == "modulated":
        text += (
            "\n\nBeside each mask goes noise, bytes drawn with a seed: the same seed gives the same image, another "
            "seed\nanother one, which differs in texture; what it looks like as a whole is the appearance's."
        )
    return text


def _training(training: Training | None) -> str:
    if training is None:
        return ""
    config = training.config
    epochs = int(config["n_epochs"] or 0) + int(config["n_epochs_decay"] or 0)
    far = (
        "for an unknown number of steps"
        if training.epoch is None
        else f"up to the end of epoch {training.epoch} of {epochs}"
    )
    if training.step is not None and training.epoch is not None:
        far = f"for {training.step:,} steps (epoch {training.epoch} of {epochs})"
    validated = ""
    if training.val_l1_levels is not None:
        validated = (
            f" After the last whole epoch: {training.val_l1_levels:.2f} levels from the real images, on average over "
            "the validation split, or over pairs trained on where there was none."
        )
    hours = "" if training.hours is None else f", {training.hours:.2f} hours on {training.device}"
    made = ", ".join(f"{name} {version}" for name, version in training.versions.items())
    settings = ", ".join(f"{name} {value}" for name, value in config.items())
    return (
        f"Trained by `m2l train` on {training.pair_count:,} pairs {far}{hours}, with {made}.{validated}\n\n"
        f"Settings: {settings}.\n"
    )
