"""Options of the engine that runs a bundle, and a bundle opened by them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from m2l_runtime.cli._options import ALL_CPUS, BACKEND_HELP, option_field

if TYPE_CHECKING:
    from m2l_runtime.synthesizer import Synthesizer


@dataclass(frozen=True, kw_only=True)
class EngineFlags:
    """Hold the options of the engine."""

    PANEL: ClassVar = "Engine"

    backend: str = option_field("auto", BACKEND_HELP)
    device: str = option_field("auto", "auto, cpu, cuda or cuda:N.")
    precision: Literal["fp32", "fp16", "bf16", "int8"] = option_field(
        "fp32", "Precision of the convolutions. m2l inspect lists what a bundle has for which backend."
    )
    batch_size: int | None = option_field(None, "Masks per engine call.", default="1 on CPU, 16 on CUDA")
    threads: int | None = option_field(None, "CPU threads of the engine in all.", default=ALL_CPUS)
    streams: int | None = option_field(
        None,
        "Engine calls at once; the threads are divided among them. With 1, a single image is done soonest.",
        default="as many as threads, at most 16, on CPU; 2 on CUDA",
    )
    cache_dir: Path | None = option_field(
        None,
        "Folder where openvino and tensorrt keep compiled models for the next time.",
        default="none for openvino; the user's cache for tensorrt",
    )
    trust_plans: bool = option_field(
        False, "Load the bundle's TensorRT plans. Plans are code: load only those of a maker you trust."
    )

    def open(self, bundle: Path | None) -> Synthesizer:
        """Open a bundle; None is the model inside the package. What takes long is told on standard error."""
        from m2l_runtime._utils.text import print_stderr
        from m2l_runtime.synthesizer import Synthesizer

        return Synthesizer.open(
            bundle,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
            threads=self.threads,
            streams=self.streams,
            cache_dir=self.cache_dir,
            trust_plans=self.trust_plans,
            on_step=print_stderr,
        )
