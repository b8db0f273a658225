"""Measure how fast a network of random weights runs on CPUs, from the engine alone to files on disk.

    make test                                       # makes .venv
    .venv/bin/python benchmarks/cpu.py all          # every part below, in this order
    .venv/bin/python benchmarks/cpu.py engines      # the engine alone: PyTorch, plain exports, m2l's ways
    .venv/bin/python benchmarks/cpu.py end-to-end   # mask files to image files, against today's loop
    .venv/bin/python benchmarks/cpu.py first-image  # from a cold process to the first image
    .venv/bin/python benchmarks/cpu.py growth       # by batch size, number of images and width
    .venv/bin/python benchmarks/cpu.py forms        # transposed convolutions against their sub-pixel form, by layer
    .venv/bin/python benchmarks/cpu.py encoders     # CPU time and size of image formats and codec libraries
    .venv/bin/python benchmarks/cpu.py profile      # by kind of operator, and the engines' measured peaks
    .venv/bin/python benchmarks/cpu.py page         # docs/benchmarks.md and its plots from the latest line of each part

Every side runs in a process of its own; sides take turns. Each part adds one line of JSON to
benchmarks/results/cpu.jsonl, with what each round gave; only ratios within a run are claims. --quick, ahead of the
part, rehearses it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from harness import draw_masks, environment, interleave, line_of, print_progress

from m2l_runtime._utils.text import plural
from m2l_runtime.backends.engines import BACKENDS
from m2l_runtime.bench.report import Statistic, summarize_ratio
from m2l_runtime.bundle.io import Bundle, open_bundle
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.output.encoding import Encoding

HERE: Final = Path(__file__)
SIDES: Final = HERE.with_name("sides.py")
CODERS: Final = HERE.with_name("coders.py")
RESULTS: Final = HERE.parent / "results" / "cpu.jsonl"
DOCS: Final = HERE.parent.parent / "docs"
RUNTIME: Final = HERE.parent.parent / "runtime"
TIMEOUT_S: Final = 900.0

ENGINE_CONFIGS: Final[tuple[tuple[str, Precision], ...]] = (
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
GROWING: Final = (ENGINE_CONFIGS[0], *ENGINE_CONFIGS[2:])
FLOATS: Final = (ENGINE_CONFIGS[0], *ENGINE_CONFIGS[2:4])
"""Ways that share one file, whose form is the question."""
DECONVOLUTION: Final = "deconvolution"
SUB_PIXEL: Final = "sub-pixel"


@dataclass(frozen=True)
class Effort:
    """Hold how much is measured."""

    repeats: int = 3
    quick_repeats: int = 2
    """Of what is only to show a trend."""
    seconds: float = 1.5
    """Of a measurement, about."""
    quick_seconds: float = 0.6
    layer_seconds: float = 0.2
    ngf: int = 64
    widths: tuple[int, ...] = (16, 32, 64)
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    counts: tuple[int, ...] = (1, 10, 100, 1000)
    count_ngf: int = 16
    masks: int = 80
    loop_masks: int = 20
    """Of today's loop, which takes longer."""
    coder_rounds: int = 5
    product_seconds: float = 0.5
    products: tuple[tuple[int, int], ...] = ((256, 64), (512, 64), (1024, 32))
    """(channels, side) of products that a peak is looked for with."""


FULL: Final = Effort()
QUICK: Final = Effort(
    repeats=1,
    quick_repeats=1,
    seconds=0.2,
    quick_seconds=0.1,
    layer_seconds=0.03,
    ngf=16,
    widths=(16,),
    batch_sizes=(1, 2),
    counts=(1, 4),
    masks=6,
    loop_masks=3,
    coder_rounds=1,
    product_seconds=0.1,
    products=((256, 16),),
)
PRODUCT_DEPTH: Final = 8


@dataclass
class Run:
    """Hold the options ahead of a part."""

    effort: Effort
    results: Path
    is_rehearsal: bool


app = typer.Typer(add_completion=False, help=(__doc__ or "").partition("\n")[0])
Ngf = Annotated[str | None, typer.Option(help="Widths of the network, with commas between.", show_default=False)]
Codecs = Annotated[
    Path | None,
    typer.Option(help="The Python of an environment with numpy, pillow, msgspec and codecs.", show_default=False),
]


@app.callback()
def options(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="A rehearsal: a small network, few calls.")] = False,
    repeats: Annotated[int | None, typer.Option(help="Rounds.  [default: 3; 2 of trends]", show_default=False)] = None,
    results: Annotated[Path, typer.Option(help="File of JSON lines.", show_default=False)] = RESULTS,
) -> None:
    effort = QUICK if quick else FULL
    if repeats is not None:
        effort = dataclasses.replace(effort, repeats=repeats, quick_repeats=repeats)
    context.obj = Run(effort, results, quick)


@app.command()
def engines(context: typer.Context, ngf: Ngf = None) -> None:
    """Measure the engine alone: masks in memory to images in memory."""
    run: Run = context.obj
    for width in _numbers(ngf) or (run.effort.ngf,):
        _engines(run, width)


def _engines(run: Run, ngf: int) -> None:
    from models import cached_bundle, plain_export, random_network
    from torch_backend import unet_256

    print_progress(f"engines, ngf {ngf}: making its bundle, unless it is kept from before")
    checkpoint, bundle = cached_bundle(ngf)
    seconds = ("--seconds", run.effort.seconds)
    with tempfile.TemporaryDirectory() as folder, environment("TORCHINDUCTOR_CACHE_DIR", str(Path(folder, "inductor"))):
        plain = plain_export(random_network(unet_256(ngf)), Path(folder, "plain.onnx"))
        torch_side = ("pytorch", checkpoint, ngf)
        sides: dict[str, Sequence[object]] = {
            "PyTorch eager, batch 1": (*torch_side, "eager", *seconds),
            "PyTorch eager, channels last, batch 8": (*torch_side, "channels_last", "--batch-size", 8, *seconds),
            "PyTorch compiled, channels last, batch 8": (*torch_side, "compiled", "--batch-size", 8, *seconds),
            "PyTorch bf16, channels last, batch 8": (*torch_side, "bf16", "--batch-size", 8, *seconds),
            "onnxruntime fp32, plain export, batch 1": ("plain", plain, "onnxruntime", *seconds),
            "OpenVINO fp32, plain export, batch 1": ("plain", plain, "openvino", *seconds),
        }
        for backend, precision in ENGINE_CONFIGS:
            for size in (1, 8):
                sides[f"m2l, {label(backend, precision)}, batch {size}"] = (
                    *("bundle", bundle, backend, precision, "--batch-size", size),
                    *seconds,
                )
        rounds, reasons, load = _rounds("engines", run, sides, run.effort.repeats)
    _record(
        run,
        "engines",
        load,
        ngf=ngf,
        image_side=256,
        repeats=run.effort.repeats,
        seconds=run.effort.seconds,
        psnr_db=_psnr_db(open_bundle(bundle)),
        sides=_columns(rounds),
        reasons=reasons,
        over_the_first=_over_the_first(rounds, "images_per_s"),
    )


def _psnr_db(bundle: Bundle) -> dict[str, float]:
    """Of each way below fp32, against fp32, as its gate found it."""
    return {
        label(model.engines[0], model.precision): model.parity.mean_psnr_db
        for model in bundle.manifest.models
        if model.precision != "fp32" and model.parity.mean_psnr_db is not None
    }


@app.command()
def end_to_end(context: typer.Context) -> None:
    """Measure mask files of 512x512 to lossless image files of 256x256, and the engine alone on the same masks."""
    from models import cached_bundle

    run: Run = context.obj
    effort = run.effort
    checkpoint, bundle = cached_bundle(effort.ngf)
    with tempfile.TemporaryDirectory() as folder:
        masks, few = Path(folder, "masks"), Path(folder, "few")
        draw_masks(masks, effort.masks)
        draw_masks(few, effort.loop_masks)
        sides: dict[str, Sequence[object]] = {
            "today's loop: PyTorch eager, Pillow's default PNG": ("todays-loop", checkpoint, effort.ngf, few)
        }

        def synth(backend: str, precision: str, encoding: Mapping[str, Any]) -> Sequence[object]:
            words = ("--backend", backend, "--precision", precision, "--engine-too")
            return ("synth", bundle, masks, *words, "--encoding", json.dumps(encoding))

        for backend, precision in ENGINE_CONFIGS:
            sides[f"m2l synth, {label(backend, precision)}"] = synth(backend, precision, {})
        sides["m2l synth, OpenVINO int8, Pillow's default PNG"] = synth("openvino", "int8", {"png_level": 6})
        webp = _lossless_webp()
        reasons = {}
        if webp is None:
            reasons["m2l synth, OpenVINO int8, lossless WebP"] = "m2l does not write lossless WebP"
        else:
            sides["m2l synth, OpenVINO int8, lossless WebP"] = synth("openvino", "int8", webp)
        rounds, more, load = _rounds("end-to-end", run, sides, effort.repeats)
    _record(
        run,
        "end-to-end",
        load,
        ngf=effort.ngf,
        masks=effort.masks,
        masks_of_todays_loop=effort.loop_masks,
        mask_side=512,
        repeats=effort.repeats,
        encoding=Encoding().label,
        sides=_columns(rounds),
        reasons=reasons | more,
        over_the_first=_over_the_first(rounds, "images_per_s"),
    )


def _lossless_webp() -> dict[str, Any] | None:
    """Fields of an Encoding that asks for it; None if there is none."""
    fields = {field.name for field in dataclasses.fields(Encoding)}
    return {"format": "webp", "lossless": True} if "lossless" in fields else None


@app.command()
def first_image(
    context: typer.Context,
    bundle: Annotated[
        Path | None, typer.Option(help="Another bundle than the one inside the package.", show_default=False)
    ] = None,
) -> None:
    """Measure the time from the start of a process to the bytes of a first PNG, with the model inside the package."""
    from models import random_network, save_checkpoint

    from m2l_runtime.bundle import embedded
    from m2l_train.models.networks import UnetSpec

    run: Run = context.obj
    path = bundle or embedded.BUNDLE
    opened = open_bundle(path)
    manifest = opened.manifest
    network = manifest.network
    spec = UnetSpec(
        levels=network.levels,
        ngf=network.ngf,
        input_nc=network.input_nc,
        output_nc=network.output_nc,
        norm=network.norm,
        upsample=network.upsample,
        appearance_rows=manifest.appearance.count if manifest.appearance is not None else 0,
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = save_checkpoint(random_network(spec), Path(folder, "latest_net_G.pth"))
        sides: dict[str, Sequence[object]] = {
            "PyTorch": ("first-image-pytorch", checkpoint, json.dumps(dataclasses.asdict(spec))),
            "m2l, onnxruntime": ("first-image", path, "onnxruntime"),
            "m2l, OpenVINO": ("first-image", path, "openvino"),
            "m2l, OpenVINO, compiled model kept": ("first-image", path, "openvino", "--cache", Path(folder, "kept")),
        }
        _rounds("first-image, to have files in memory", run, sides, 1)
        rounds, reasons, load = _rounds("first-image", run, sides, run.effort.repeats + 2)
    _record(
        run,
        "first-image",
        load,
        bundle=manifest.name,
        bundle_sha256=opened.sha256,
        ngf=network.ngf,
        repeats=run.effort.repeats + 2,
        sides=_columns(rounds),
        reasons=reasons,
        over_the_first=_over_the_first(rounds, "seconds"),
    )


@app.command()
def growth(context: typer.Context) -> None:
    """Measure images/s by batch size and by width, and seconds by number of images."""
    from models import cached_bundle

    run: Run = context.obj
    effort = run.effort
    for ngf in {effort.ngf, effort.count_ngf, *effort.widths}:
        print_progress(f"growth: the bundle of ngf {ngf}, unless it is kept from before")
        cached_bundle(ngf)
    seconds = ("--seconds", effort.quick_seconds)
    _, bundle = cached_bundle(effort.ngf)
    by_batch: dict[tuple[str, int], Sequence[object]] = {
        (label(*candidate), size): ("bundle", bundle, *candidate, "--batch-size", size, *seconds)
        for candidate in GROWING
        for size in effort.batch_sizes
    }
    batch, reasons, load = _series("growth by batch", run, by_batch, "images_per_s")
    by_width: dict[tuple[str, int], Sequence[object]] = {}
    for ngf in effort.widths:
        checkpoint, bundle = cached_bundle(ngf)
        by_width["PyTorch eager, batch 1", ngf] = ("pytorch", checkpoint, ngf, "eager", *seconds)
        by_width |= {(label(*candidate), ngf): ("bundle", bundle, *candidate, *seconds) for candidate in GROWING}
    width, more, _ = _series("growth by width", run, by_width, "images_per_s")
    _, bundle = cached_bundle(effort.count_ngf)
    by_count: dict[tuple[str, int], Sequence[object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in effort.counts:
            draw_masks(Path(folder, str(count)), count)
            for backend, precision in GROWING:
                words = ("--backend", backend, "--precision", precision, "--no-warm")
                by_count[label(backend, precision), count] = ("synth", bundle, Path(folder, str(count)), *words)
        counted, most, _ = _series("growth by count", run, by_count, "since_asked_s")
    _record(
        run,
        "growth",
        load,
        ngf=effort.ngf,
        ngf_of_counts=effort.count_ngf,
        repeats=effort.quick_repeats,
        images_per_s_by_batch_size=batch,
        images_per_s_by_ngf=width,
        seconds_by_image_count=counted,
        reasons=reasons | more | most,
    )


def _series(
    part: str, run: Run, sides: Mapping[tuple[str, int], Sequence[object]], figure: str
) -> tuple[dict[str, dict[str, list[float]]], dict[str, str], float]:
    """({way: {number: what each round gave}}, reasons, load)."""
    named = {f"{candidate}: {number}": arguments for (candidate, number), arguments in sides.items()}
    rounds, reasons, load = _rounds(part, run, named, run.effort.quick_repeats)
    found: dict[str, dict[str, list[float]]] = {}
    for candidate, number in sides:
        given = rounds.get(f"{candidate}: {number}")
        if given is not None:
            found.setdefault(candidate, {})[str(number)] = [_short(one[figure]) for one in given]
    return found, {f"{part}, {name}": reason for name, reason in reasons.items()}, load


@app.command()
def forms(context: typer.Context) -> None:
    """Compare transposed convolutions with their sub-pixel form: each upsampling layer alone, and whole networks."""
    from layers import upsampling_file, upsampling_layers
    from models import mixed_export, random_network
    from torch_backend import unet_256

    run: Run = context.obj
    effort = run.effort
    spec = unet_256(effort.ngf)
    upsampling = upsampling_layers(spec)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        for form in (DECONVOLUTION, SUB_PIXEL):
            index = {}
            (root / form).mkdir()
            for layer in upsampling:
                upsampling_file(layer, form, root / form / f"side{layer.side}.onnx")
                sides_of = (layer.inputs, layer.side, layer.side), (layer.outputs, 2 * layer.side, 2 * layer.side)
                index[f"side{layer.side}.onnx"] = sides_of
            (root / form / "index.json").write_text(json.dumps(index))
        of_layers: dict[tuple[str, str], Sequence[object]] = {
            (label(*candidate), form): ("layers", root / form, *candidate, "--seconds", effort.layer_seconds)
            for candidate in FLOATS
            for form in (DECONVOLUTION, SUB_PIXEL)
        }
        named = {f"{candidate}: {form}": arguments for (candidate, form), arguments in of_layers.items()}
        rounds, reasons, load = _rounds("forms, by layer", run, named, effort.repeats)
        print_progress("forms: exporting whole networks")
        network = random_network(spec)
        variants = _variants([(layer.level, layer.side) for layer in upsampling])
        files = {
            name: mixed_export(network, levels, root / f"{number}.onnx")
            for number, (name, levels) in enumerate(variants.items())
        }
        of_networks: dict[str, Sequence[object]] = {
            f"{label(*candidate)}: {name}": ("file", path, *candidate, "--seconds", effort.seconds)
            for candidate in FLOATS
            for name, path in files.items()
        }
        whole, more, _ = _rounds("forms, whole networks", run, of_networks, effort.repeats)
    _record(
        run,
        "forms",
        load,
        ngf=effort.ngf,
        repeats=effort.repeats,
        layers=[
            {
                "side": layer.side,
                "layer": layer.label,
                "ms": {
                    label(*candidate): {
                        form: [_short(one[f"side{layer.side}.onnx"]) for one in rounds[f"{label(*candidate)}: {form}"]]
                        for form in (DECONVOLUTION, SUB_PIXEL)
                        if f"{label(*candidate)}: {form}" in rounds
                    }
                    for candidate in FLOATS
                },
            }
            for layer in upsampling
        ],
        networks={
            label(*candidate): {
                name: [_short(one["images_per_s"]) for one in whole[f"{label(*candidate)}: {name}"]]
                for name in files
                if f"{label(*candidate)}: {name}" in whole
            }
            for candidate in FLOATS
        },
        reasons=reasons | more,
    )


def _variants(layers: Sequence[tuple[int, int]]) -> dict[str, list[int]]:
    """Levels written as transposed convolutions, by name, of layers (level, side)."""
    variants_by_name = {
        f"{SUB_PIXEL} everywhere": list[int](),
        f"{DECONVOLUTION} everywhere": [level for level, _ in layers],
    }
    for most in (2, 4):
        variants_by_name[f"{DECONVOLUTION} up to side {most}"] = [level for level, side in layers if side <= most]
    outermost = max(side for _, side in layers)
    variants_by_name[f"{DECONVOLUTION} at side {outermost}"] = [level for level, side in layers if side == outermost]
    return variants_by_name


@app.command()
def encoders(context: typer.Context, codecs: Codecs = None) -> None:
    """Measure CPU time and bytes an image, of the model inside the package and its example masks; one thread."""
    from m2l_runtime import Synthesizer
    from m2l_runtime.bench.process import run_for_json
    from m2l_runtime.bench.timing import example_masks
    from m2l_runtime.bundle import embedded

    run: Run = context.obj
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        with Synthesizer.open(embedded.BUNDLE, device="cpu") as synthesizer:
            pictures = synthesizer(example_masks(synthesizer.image_size))
        np.save(Path(folder, "pictures.npy"), pictures)
        print_progress(f"encoders: {plural(run.effort.coder_rounds, 'round')}")
        command = [codecs or sys.executable, CODERS, Path(folder, "pictures.npy"), "--rounds"]
        with environment("PYTHONPATH", str(RUNTIME)):  # m2l's own way, in an environment without m2l
            ending = run_for_json([*map(str, command), str(run.effort.coder_rounds)], timeout_s=TIMEOUT_S)
    if ending.reason is not None:
        sys.exit(f"{CODERS.name}: {ending.reason}")
    document = ending.document
    _record(
        run,
        "encoders",
        load,
        images=len(pictures),
        image_side=pictures.shape[1],
        repeats=run.effort.coder_rounds,
        versions=document["versions"],
        ways={
            name: candidate
            | {"cpu_ms": [_short(ms) for ms in candidate["cpu_ms"]], "over_the_first": _faster(document, name)}
            for name, candidate in document["ways"].items()
        },
        reasons=document["reasons"],
    )


def _faster(found: Mapping[str, Any], name: str) -> list[float]:
    first = next(iter(found["ways"].values()))
    return _triple(summarize_ratio(first["cpu_ms"], found["ways"][name]["cpu_ms"]))


@app.command()
def profile(context: typer.Context) -> None:
    """Measure time by kind of operator, and how near convolutions are to the engine's best, one image at a time."""
    from layers import multiplications, products_file
    from models import cached_bundle

    run: Run = context.obj
    effort = run.effort
    _, bundle = cached_bundle(effort.ngf)
    opened = open_bundle(bundle)
    fp32 = next(m for m in opened.manifest.models if m.precision == "fp32")
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        for precision in ("fp32", "int8"):
            index = {}
            (root / precision).mkdir()
            for channels, side in effort.products:
                name = f"{channels}x{side}.onnx"
                products_file(channels, side, PRODUCT_DEPTH, precision, root / precision / name)
                index[name] = (channels, side, PRODUCT_DEPTH * channels**2 * side**2)
            (root / precision / "index.json").write_text(json.dumps(index))
        sides: dict[str, Sequence[object]] = {}
        for backend, precision in ENGINE_CONFIGS:
            files = root / ("int8" if precision == "int8" else "fp32")
            sides[f"profile, {label(backend, precision)}"] = ("profile", bundle, backend, precision)
            words = ("--seconds", effort.product_seconds)
            sides[f"peak, {label(backend, precision)}"] = ("products", files, backend, precision, *words)
        rounds, reasons, load = _rounds("profile", run, sides, effort.quick_repeats)
    candidates: dict[str, Any] = {}
    for candidate in ENGINE_CONFIGS:
        shown, peak = (rounds.get(f"{what}, {label(*candidate)}") for what in ("profile", "peak"))
        if shown is None or peak is None:
            continue
        candidates[label(*candidate)] = {
            "latency_p50_ms": [_short(one["latency_p50_ms"]) for one in shown],
            "ms_by_kind": {
                kind: [_short(one["ms_by_kind"].get(kind, 0.0)) for one in shown] for kind in shown[0]["ms_by_kind"]
            },
            "peak_giga_multiplications_per_s": [_short(max(one.values())) for one in peak],
            "threads": shown[0]["threads"],
        }
    _record(
        run,
        "profile",
        load,
        ngf=effort.ngf,
        repeats=effort.quick_repeats,
        giga_multiplications=round(sum(multiplications(opened.read_model(fp32)).values()) / 1e9, 4),
        ways=candidates,
        reasons=reasons,
    )


@app.command(name="all")
def everything(context: typer.Context, codecs: Codecs = None) -> None:
    """Measure every part, one after the other."""
    engines(context)
    end_to_end(context)
    first_image(context)
    growth(context)
    forms(context)
    encoders(context, codecs)
    profile(context)


@app.command()
def page(
    context: typer.Context,
    docs: Annotated[Path, typer.Option(help="Folder to write into.", show_default=False)] = DOCS,
) -> None:
    """Write docs/benchmarks.md and its plots, from the latest line of each part."""
    from page import write_page

    run: Run = context.obj
    for path in write_page(run.results, docs):
        print(path)


def label(backend: str, precision: str) -> str:
    """Return the name of a backend and precision on the page."""
    return f"{BACKENDS[backend].title} {precision}"


def _numbers(words: str | None) -> tuple[int, ...]:
    return tuple(int(word) for word in words.split(",")) if words else ()


def _rounds(
    part: str, run: Run, sides: Mapping[str, Sequence[object]], repeats: int
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str], float]:
    """(what each side's rounds gave, why sides have nothing, the load average before)."""
    load, reasons = os.getloadavg()[0], dict[str, str]()

    def tell(number: int, name: str) -> None:
        print_progress(f"{part}, round {number + 1} of {repeats}: {name}")

    rounds = interleave(sides, SIDES, repeats, reasons, TIMEOUT_S, tell)
    for name, reason in reasons.items():
        print_progress(f"{part}: {name}: {reason}")
    return rounds, reasons, load


def _columns(rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Of each side, a list of what rounds gave by figure; words and settings once."""
    found: dict[str, dict[str, Any]] = {}
    for name, runs in rounds.items():
        found[name] = {
            key: [_short(one[key]) for one in runs] if isinstance(value, float) else value
            for key, value in runs[0].items()
        }
    return found


def _over_the_first(rounds: Mapping[str, Sequence[Mapping[str, float]]], figure: str) -> dict[str, list[float]]:
    """How many times as fast as the first side each is: [median, lowest, highest] of the ratios within rounds."""
    if not rounds:
        return {}
    first = [one[figure] for one in next(iter(rounds.values()))]
    found = {}
    for name, runs in rounds.items():
        ours = [one[figure] for one in runs]
        found[name] = _triple(summarize_ratio(first, ours) if figure == "seconds" else summarize_ratio(ours, first))
    return found


def _triple(figure: Statistic) -> list[float]:
    return [round(value, 3) for value in (figure.median, figure.lowest, figure.highest)]


def _short(value: float) -> float:
    """Round to five digits."""
    return float(f"{value:.5g}")


def _record(run: Run, part: str, load: float, **facts: Any) -> None:
    rehearsal = {"is_rehearsal": True} if run.is_rehearsal else {}
    line = line_of(f"cpu {part}", **rehearsal, load_average_before=round(load, 2), **facts)
    run.results.parent.mkdir(parents=True, exist_ok=True)
    with run.results.open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    app()
