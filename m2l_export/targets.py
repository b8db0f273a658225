"""Choose the engines that each precision is made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast, get_args

from m2l_export.quantize.quantizer import Target
from m2l_runtime._utils.text import printable
from m2l_runtime.backends.engines import BACKENDS, REFERENCE, engines_for
from m2l_runtime.backends.registry import backend_module
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import EngineNotInstalled, InputError

REFERENCE_ENGINE: Final = REFERENCE
OPENVINO: Final = "openvino"
TENSORRT: Final = "tensorrt"

ENGINES: Final[Mapping[Precision, tuple[Target, ...]]] = {
    precision: cast(tuple[Target, ...], engines_for(precision)) for precision in get_args(Precision)
}
"""Engines that compute a precision: on GPUs in fp16 and for TensorRT, else on CPUs."""


def choose_targets(
    lower: Sequence[Precision],
    engines: Sequence[str] | None,
    has_plans: bool,
    on_step: Callable[[str], None],
    *,
    require: bool = False,
    has_others: bool = False,
) -> Mapping[Precision, tuple[Target, ...]]:
    """Choose the engines that files in lower precisions are made for.

    What cannot be validated on this machine is left out with a note: an engine that is not installed. A precision that
    an engine does not compute in on this CPU is emulated.

    Args:
        lower: precisions below fp32.
        engines: engines asked for. None: all that are installed and can compute a precision.
        has_plans: whether TensorRT plans are to be built; TensorRT is among the engines by default only then. Its
            files can be made without TensorRT.
        on_step: called with a note for each engine that is left out.
        require: whether to refuse rather than leave out a precision.
        has_others: whether fp32 is asked for, too, so that something is left if all of `lower` is left out.

    Returns:
        For each of `lower` that can be validated, at least one engine.

    Raises:
        EngineNotInstalled: an engine asked for is not installed; or none is that computes a precision, which is
            required, or all that is asked for.
        InputError: there is no such precision, or an engine computes none of them.
    """
    for precision in lower:
        if precision not in ENGINES:
            raise InputError(f"a precision is one of {', '.join(ENGINES)}, got {precision!r}")
    for engine in engines or ():
        if not any(engine in ENGINES[precision] for precision in lower):
            can = "; ".join(f"{precision} is for {' and '.join(ENGINES[precision])}" for precision in lower)
            raise InputError(f"--engines names {printable(engine)[:40]!r}, for which nothing is to be made ({can})")
    targets: dict[Precision, tuple[Target, ...]] = {}
    refusals: list[EngineNotInstalled] = []
    for precision in lower:
        needed = tuple(
            name
            for name in ENGINES[precision]
            if (engines is None and (name != TENSORRT or has_plans)) or name in (engines or ())
        )
        installed = tuple(name for name in needed if is_installed(name))
        if not needed:
            raise InputError(
                f"--precision {precision} is for {' and '.join(ENGINES[precision])}, and --engines names none of them"
            )
        missing = [name for name in needed if name not in installed]
        installs = "; ".join(BACKENDS[name].install for name in missing)
        if missing and (engines is not None or not installed):
            refusal = EngineNotInstalled(
                f"--precision {precision} needs {' or '.join(missing)}, which is not installed: {installs}"
            )
            if engines is not None:
                raise refusal
            refusals.append(refusal)
        elif missing:
            on_step(f"note: no {precision} for {' and '.join(missing)}, which is not installed: {installs}")
        if installed:
            targets[precision] = installed
    if refusals and (require or not (targets or has_others)):
        raise refusals[0]
    for refusal in refusals:
        on_step(f"note: left out: {refusal}")
    return targets


def computes(engine: str, precision: Precision) -> bool:
    """Tell whether an engine that is installed, or its proxy engine, computes in a precision on this machine."""
    tell = getattr(backend_module(proxy_engine(engine)), "computes", None)
    return tell is None or bool(tell(precision))


def require_plan_targets(precisions: Sequence[Precision], targets: Mapping[Precision, tuple[Target, ...]]) -> None:
    """Check that some precision asked for has a file for TensorRT.

    Raises:
        InputError: none has.
    """
    if "fp32" not in precisions and not any(TENSORRT in names for names in targets.values()):
        raise InputError(
            f"--tensorrt: of --precision {','.join(precisions)} nothing is made for tensorrt here; add fp32, "
            "fp16 or int8, and name tensorrt among --engines where engines are named"
        )


def proxy_engine(engine: str) -> str:
    """Find the engine that runs an engine's files in validation: itself, or onnxruntime on the CPU for TensorRT."""
    return BACKENDS[engine].proxy or engine


def fp32_engines() -> tuple[str, ...]:
    """Return the engines beside the reference that are installed and run the fp32 file itself.

    Those with a proxy are left out: TensorRT gets the file together with its plans.
    """
    return tuple(
        name
        for name in engines_for("fp32")
        if name != REFERENCE_ENGINE and BACKENDS[name].proxy is None and is_installed(name)
    )


def is_installed(engine: str) -> bool:
    """Check whether an engine, or its proxy engine, loads here."""
    engine = proxy_engine(engine)
    try:
        backend_module(engine)
    except EngineNotInstalled:
        return False
    return True
