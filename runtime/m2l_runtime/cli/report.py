"""Describe bundles, engines and runs in text for a person."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from m2l_runtime._utils.cpu import peak_memory_megabytes
from m2l_runtime._utils.sides import shown_sides
from m2l_runtime._utils.text import plural, printable, rate, table
from m2l_runtime.backends.base import BackendSettings
from m2l_runtime.backends.trt.library import TITLES
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.bundle.roles import ROLES
from m2l_runtime.bundle.schema import AppearanceTable, Network, Parity, TensorSpec, Training
from m2l_runtime.conditioning.conditions import MIN_CONTRAST, ExtraInputs
from m2l_runtime.conditioning.numbers import NUMBERS
from m2l_runtime.conditioning.orientation import orientation_words
from m2l_runtime.runs.folder import Summary
from m2l_runtime.verify import TOLERANCE, Replay

if TYPE_CHECKING:  # these look for GPUs, which a run on a CPU need not wait for
    from m2l_runtime.backends.trt.plans import PlanCompatibility
    from m2l_runtime.doctor import EngineReport


def _describe_network(network: Network) -> str:
    parameters = plural(network.parameter_count, "parameter")
    if network.architecture == "modulated":
        return f"modulated, {network.levels} levels, {network.ngf} channels at half the side, {parameters}"
    if network.architecture == "resnet":
        return (
            f"resnet, {plural(network.blocks, 'block')}, ngf {network.ngf}, norm {network.norm} (statistics: "
            f"{network.norm_statistics}), {parameters}"
        )
    return (
        f"{network.architecture}, {network.levels} levels, ngf {network.ngf}, norm {network.norm} "
        f"(statistics: {network.norm_statistics}), {parameters}"
    )


def _describe_training(training: Training | None) -> list[tuple[str, str]]:
    """Tell how far the run went that made the weights; nothing where no run is known."""
    if training is None:
        return []
    known = [
        None if training.step is None else plural(training.step, "step"),
        None if training.epoch is None else f"epoch {training.epoch:,}",
        plural(training.pair_count, "pair"),
        None if training.hours is None else f"{training.hours:.3g} hours",
        None if training.val_l1_levels is None else f"L1 {training.val_l1_levels:.1f} levels on the validation split",
    ]
    return [("trained for", ", ".join(words for words in known if words is not None))]


def describe_bundle(bundle: Bundle) -> str:
    """Describe a bundle, file by file."""
    manifest, network = bundle.manifest, bundle.manifest.network
    size = shown_sides(manifest.image_size)
    rows = [
        ("name", printable(manifest.name)),
        ("path", printable(bundle.path)),
        ("sha256", bundle.sha256),
        (
            "images",
            f"{size} RGB from masks of that size ({manifest.resampling.fit}, {manifest.resampling.filter})",
        ),
        (
            "network",
            _describe_network(network),
        ),
        (
            "made from",
            f"{printable(manifest.provenance.checkpoint)} (sha256 {manifest.provenance.checkpoint_sha256[:12]}...)",
        ),
        *_describe_training(manifest.provenance.training),
        ("made with", ", ".join(f"{printable(k)} {printable(v)}" for k, v in manifest.provenance.versions.items())),
    ]
    rows += [("input", _describe_input(spec)) for spec in manifest.inputs]
    for model in manifest.models:
        rows.append(
            (
                "model",
                f"{model.file.path}: {model.format}, {model.precision}, "
                f"weights {model.weights}, {model.form}, "
                f"{model.file.size_bytes:,} bytes, for {', '.join(map(printable, model.engines))}",
            )
        )
        rows.append(("parity", describe_parity(model.parity)))
    for plan in manifest.plans:
        least, likely, most = plan.batch_sizes
        types = ", ".join(f"{count} in {kind}" for kind, count in plan.convolutions.items())
        rows += [
            (
                "plan",
                f"{plan.file.path}: {TITLES[plan.flavour]} {printable(plan.version)}, {plan.precision}, compute "
                f"capability {plan.compute_capability}{'' if plan.card is None else f' ({printable(plan.card)})'}, "
                f"{least} to {most} masks a call, best at {likely}, {plan.file.size_bytes:,} bytes",
            ),
            ("convolutions", f"{types}, as read in the {_READ_FROM[plan.types_read_from]}"),
            ("parity", plan.parity if isinstance(plan.parity, str) else describe_parity(plan.parity)),
        ]
    rows.append(
        (
            "golden",
            f"{manifest.golden.file.path}: {plural(manifest.golden.count, 'pair')} "
            f"made by {printable(manifest.golden.engine)}",
        )
    )
    counts = appearance_counts(bundle)
    if counts is not None and manifest.appearance is not None:
        rows.append(
            ("appearances", f"{_describe_table(manifest.appearance)}, least to greatest, mean ± standard deviation:")
        )
        rows += [("", _describe_number(name, one)) for name, one in counts.items()]
    if manifest.random_orientation:
        how = orientation_words(manifest.image_size)
        rows.append(("orientation", f"masks are {how} at random before the network runs, images back (--seed)"))
    rows.append(("files", f"all {len(manifest.files)} are as they were written"))
    rows += [("warning", printable(warning)) for warning in manifest.warnings]
    return table(rows)


def appearance_counts(bundle: Bundle) -> dict[str, dict[str, float]] | None:
    """Compute what the training images cover, for each number of an appearance; None without appearances.

    Returns:
        By name: the least and the greatest value, the mean, and the standard deviation.
    """
    extra = ExtraInputs(bundle)
    if extra.table is None:
        return None
    numbers = extra.table.astype(float)
    return {
        name: {
            "least": round(float(column.min()), 3),
            "greatest": round(float(column.max()), 3),
            "mean": round(float(column.mean()), 3),
            "deviation": round(float(column.std()), 3),
        }
        for name, column in zip(extra.names, numbers.T, strict=True)
    }


def _describe_table(table: AppearanceTable) -> str:
    """Say how many training images there are, and how many are sampled from."""
    text = f"of {plural(table.count, 'training image')}"
    if table.sampled_count is None:
        return text
    return (
        f"{text}, sampled from the {table.sampled_count:,} of a contrast of {table.min_contrast:g} or more "
        f"(others: --appearance {MIN_CONTRAST}=0)"
    )


def _describe_number(name: str, one: Mapping[str, float]) -> str:
    number = NUMBERS[name]
    digits = 1 if number.high - number.low > 50 else 2
    least, greatest, mean, deviation = (
        f"{one[what]:.{digits}f}" for what in ("least", "greatest", "mean", "deviation")
    )
    return f"{name} {least} to {greatest}, {mean} ± {deviation} ({number.meaning}; {number.unit})"


def _describe_input(spec: TensorSpec) -> str:
    shape = " x ".join(map(str, spec.shape[1:]))
    return f"{printable(spec.name)}: {spec.dtype}, {shape} ({ROLES[spec.role].meaning})"


_READ_FROM: Final = {"network": "network that was built, as no GPU was there", "engine": "finished engine"}


def describe_parity(parity: Parity) -> str:
    """Describe parity in one line."""
    if parity.mean_psnr_db is not None and parity.worst_psnr_db is not None:
        psnr = f"PSNR {parity.mean_psnr_db:.1f} dB on average, {parity.worst_psnr_db:.1f} in the worst image"
    else:
        psnr = "every byte equal" if parity.psnr_db is None else f"PSNR {parity.psnr_db:.1f} dB"
    if parity.colour_shift_levels is not None:
        psnr += f", mean shift {', '.join(f'{shift:+.2f}' for shift in parity.colour_shift_levels)}"
    if parity.kind == "emulated":
        psnr += f"; emulated: {printable(parity.engine)}"
    sizes = ("size " if len(parity.batch_sizes) == 1 else "sizes ") + ", ".join(map(str, parity.batch_sizes))
    return (
        f"at most {plural(parity.max_level_difference, 'level')} from {printable(parity.reference.partition(',')[0])} "
        f"(mean {parity.mean_level_difference:.5f}, {psnr}) over {plural(parity.mask_count, 'mask')} at batch {sizes}"
    )


def describe_plan_compatibility(check_plans: Sequence[PlanCompatibility]) -> str:
    """Write a row per plan."""
    return table((printable(v.path), "loads" if v.loads else "no", printable(v.detail)) for v in check_plans)


def describe_engines(reports: Sequence[EngineReport]) -> str:
    """Write a row per backend, device and precision."""
    return table(
        (r.backend, r.device, "-" if r.is_fake else r.precision, "loads" if r.loads else "no", printable(r.detail))
        for r in reports
    )


def describe_replays(bundle: Bundle, replays: Sequence[Replay]) -> str:
    """Write a row per backend, device and precision, and what counts as agreement."""
    rows = []
    for replay in replays:
        config = (replay.backend, replay.device, replay.precision)
        if replay.max_level_difference is None or replay.mean_level_difference is None:
            rows.append((*config, "not run", printable(replay.detail)))
            continue
        metrics = (
            f"{plural(replay.max_level_difference, 'level')} at most, {replay.mean_level_difference:.5f} on average"
        )
        if replay.least_psnr_db is not None:
            worst = "every byte equal" if replay.worst_psnr_db is None else f"{replay.worst_psnr_db:.1f} dB"
            metrics = f"worst PSNR {worst}, at least {replay.least_psnr_db:.1f} accepted; {metrics}"
        rows.append((*config, "agrees" if replay.agrees else "DIFFERS", f"{replay.detail}: {metrics}"))
    head = (
        f"{plural(bundle.manifest.golden.count, 'golden pair')} of {printable(bundle.manifest.name)} "
        f"(sha256 {bundle.sha256[:12]}...), at most {plural(TOLERANCE, 'level')} accepted in fp32"
    )
    return head + "\n" + table(rows)


def describe_summary(summary: Summary, settings: BackendSettings, out: str) -> str:
    """Describe what a run did in a few lines."""
    rates = f"{rate(summary.images_per_s)} images/s, {rate(summary.engine_images_per_s)} while the engine ran; "
    lines = [
        f"{plural(summary.image_count, 'image')} in {out} ({rates if summary.image_count else ''}"
        f"{settings.engine}, {settings.device}, {settings.precision}, "
        f"batch {settings.batch_size}, {plural(settings.streams, 'stream')} of "
        f"{plural(settings.threads, 'thread')})"
    ]
    if summary.image_seed is not None:
        drawn = f"drawn with seed {summary.image_seed}, {plural(summary.samples, 'sample')} of each mask"
        lines.append(drawn + ("" if summary.appearance is None else f", appearance: {summary.appearance}"))
    if summary.unfinished_count:
        lines.append(f"{summary.unfinished_count:,} of these were of a file that is not finished, and are made again")
    if summary.kept_count:
        lines.append(f"{plural(summary.kept_count, 'image')} of an earlier run kept")
    for count, kind in (
        (summary.empty_count, "empty (all black)"),
        (summary.full_count, "full (all white)"),
        (summary.inverted_count, "white all along the frame; inverted?"),
    ):
        if count:
            lines.append(f"note: {plural(count, 'mask')} {'was' if count == 1 else 'were'} {kind}")
    return "\n".join(lines)


def describe_run(summary: Summary, settings: BackendSettings, out: str) -> dict[str, Any]:
    """Describe what a run did as a record for programs."""
    return {
        "out": out,
        "images": summary.image_count,
        "kept": summary.kept_count,
        "bad_masks": summary.bad_count,
        "empty_masks": summary.empty_count,
        "full_masks": summary.full_count,
        "inverted_looking_masks": summary.inverted_count,
        "was_stopped": summary.was_stopped,
        "seconds": round(summary.seconds, 3),
        "images_per_s": round(summary.images_per_s, 2),
        "engine_images_per_s": round(summary.engine_images_per_s, 2),
        "peak_memory_megabytes": peak_memory_megabytes(),
        "samples": summary.samples,
        "seed": summary.image_seed,
        "appearance": summary.appearance,
        "settings": dataclasses.asdict(settings),
    }
