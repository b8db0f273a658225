"""Make an engine of a plan: the one file that makes a TensorRT context what an executor drives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from m2l_runtime._utils.memory import is_out_of_memory
from m2l_runtime.backends.trt.build import PlanError
from m2l_runtime.backends.trt.library import log, logger, reason
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import EngineError

_TYPES: Final = {"UINT8": "uint8", "FLOAT": "float32"}


class TensorRtEngine:
    """Compute with a TensorRT plan; see :class:`m2l_runtime.backends.cuda.engine.Engine`.

    Each prepared call has an execution context of its own: a CUDA graph is not valid any more once the context that it
    was captured from is told of another shape.

    TensorRT for RTX compiles kernels on the GPU that runs them. By default it does so while calls go on, with others
    until then: a graph would keep those, and images could change from call to call. So it is told to compile first.
    """

    captures_itself = False

    def __init__(
        self,
        library: Any,
        plan: bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        name: str,
        kernels: bytes = b"",
    ) -> None:
        """Make an engine of `plan`, on the GPU that is current; one has to be there, or the process ends.

        Args:
            library: the variant's module.
            plan: trusted bytes; TensorRT does not check them, and they may do anything.
            inputs: the graph's.
            outputs: the graph's.
            name: of the plan, for messages.
            kernels: what :attr:`kernels` was for the same plan, library and GPU.

        Raises:
            PlanError: the plan is damaged, of another version, or of other inputs and outputs.
            EngineError: the GPU's memory does not hold it.
        """
        self._library = library
        self._name = name
        self._inputs = {spec.name: spec for spec in inputs}
        with log(library) as lines:
            self._runtime: Any = library.Runtime(logger(library))
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise self._failure("does not load", lines)
        self._engine: Any = engine
        self._contexts: list[Any] = []
        self._config, self._kernels = self._runtime_config(kernels)
        self._check([*inputs, *outputs])

    def _runtime_config(self, kernels: bytes) -> tuple[Any, Any]:
        """Return (how TensorRT for RTX is to run, where it keeps kernels); TensorRT has neither."""
        strategies = getattr(self._library, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return None, None
        config = self._engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        cache = config.create_runtime_cache()
        if kernels and not cache.deserialize(kernels):
            cache.reset()
        config.set_runtime_cache(cache)
        return config, cache

    @property
    def kernels(self) -> bytes:
        """Return the kernels that TensorRT for RTX compiled for this GPU, to be kept; empty for TensorRT."""
        return b"" if self._kernels is None else bytes(self._kernels.serialize())

    def prepare(self, addresses: Mapping[str, int], batch_size: int, stream: int) -> Callable[[], None]:
        """See :class:`m2l_runtime.backends.cuda.engine.Engine`."""
        if self._engine is None:
            raise EngineError("the engine is closed")
        with log(self._library) as lines:
            context = (
                self._engine.create_execution_context()
                if self._config is None
                else self._engine.create_execution_context(self._config)
            )
            if context is None:
                raise self._failure("gets no context to run in", lines)
            for spec in self._inputs.values():
                if not context.set_input_shape(spec.name, (batch_size, *spec.shape[1:])):
                    raise self._failure(f"takes no batch of {batch_size}", lines)
            for name, address in addresses.items():
                if not context.set_tensor_address(name, address):
                    raise self._failure(f"takes no memory for '{name}'", lines)
        self._contexts.append(context)

        def call() -> None:
            with log(self._library) as lines:
                if not context.execute_async_v3(stream):
                    raise self._failure("did not run", lines)

        return call

    def close(self) -> None:
        """Release contexts and engine."""
        self._contexts.clear()
        self._config = self._kernels = None
        self._engine = None
        self._runtime = None

    def _check(self, specs: Sequence[TensorSpec]) -> None:
        engine, found = self._engine, {}
        for place in range(engine.num_io_tensors):
            name = engine.get_tensor_name(place)
            kind = engine.get_tensor_dtype(name).name
            found[name] = (_TYPES.get(kind, kind), tuple(engine.get_tensor_shape(name))[1:])
        declared = {spec.name: (spec.dtype, spec.shape[1:]) for spec in specs}
        if found != declared:
            raise PlanError(f"the plan {self._name} has {found}, the manifest declares {declared}")

    def _failure(self, what: str, lines: list[str]) -> EngineError:
        told = reason(lines)
        if any(is_out_of_memory(EngineError(line)) for line in lines):
            return EngineError(
                f"the plan {self._name} {what}: the GPU has too little memory for it ({told}); choose a smaller batch "
                "size or fewer streams"
            )
        return PlanError(
            f"the plan {self._name} {what} in {self._library.__name__} {self._library.__version__}: {told}"
        )
