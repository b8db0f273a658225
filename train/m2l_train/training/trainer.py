"""Train a run on a data folder, in one session or in several."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from m2l_runtime._utils import atomic
from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.cpu import usable_cpus
from m2l_runtime._utils.held_folder import make_folder
from m2l_runtime._utils.sides import plain_sides, read_sides
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.errors import Diverged, InputError, OutOfMemory
from m2l_runtime.output.encoding import SYNTHETIC, encode_png
from m2l_runtime.runs.lock import locked
from m2l_train.config import MAX_THREADS, PRESETS, TrainConfig, differences
from m2l_train.data import decoded_cache
from m2l_train.data.batches import Batch, epoch_batches
from m2l_train.data.data_folder import DataFolder, open_data
from m2l_train.data.data_record import DataRecord, data_changes, record_data
from m2l_train.data.photograph import PairError
from m2l_train.device import open_device, torch_threads
from m2l_train.models.losses import Losses
from m2l_train.models.pix2pix import Pix2Pix
from m2l_train.training import compiling
from m2l_train.training.checkpoint import (
    Position,
    appearance_rows_in,
    check_data,
    check_state,
    collect_state,
    pairs_fingerprint,
    restore_state,
    version_changes,
)
from m2l_train.training.compile_cache import use_own_compile_cache
from m2l_train.training.distributed import ProcessGroup, local_device, local_world_size, process_group
from m2l_train.training.memory import MemoryAdvice, memory_errors
from m2l_train.training.metrics_log import MetricsLog
from m2l_train.training.options import STOP_REASONS, StepResult, StopConditions, TrainOptions, TrainReport
from m2l_train.training.run_folder import DATA, SAMPLES, TAG, Progress, RunFolder, versions
from m2l_train.training.validation import Validation

VALIDATION_PAIRS: Final = 150
"""Pairs that are looked at after each epoch, at most."""


@check_types()
def train(
    data: str | os.PathLike[str],
    run: str | os.PathLike[str],
    config: TrainConfig | None = None,
    options: TrainOptions | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda _, __: None,
    on_step: Callable[[StepResult], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    **fields: Any,
) -> TrainReport:
    """Train the two networks of pix2pix on pairs of masks and photographs.

    Everything lies in the run folder (:mod:`m2l_train.training.run_folder`). The state is saved after each epoch, every
    `save_minutes`, and whenever this function ends for a reason it knows of. A run that was killed resumes from its
    last state. On the CPU of one machine, with one torch version and number of threads, a run that was stopped and
    resumed has the same bits as one that was not.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from PIL import Image
        >>> from m2l_train import TrainConfig
        >>> tiny = TrainConfig(image_size=128, ngf=2, ndf=2, n_epochs=1, n_epochs_decay=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mask = np.zeros((143, 143, 3), np.uint8)
        ...     mask[40:100, 40:100] = 255
        ...     photograph = np.linspace(90, 210, mask.size).reshape(mask.shape).astype(np.uint8)
        ...     (Path(folder) / "pairs").mkdir()
        ...     for name in ("a", "b"):
        ...         Image.fromarray(np.hstack([mask, photograph])).save(Path(folder) / "pairs" / f"{name}.png")
        ...     report = train(Path(folder) / "pairs", Path(folder) / "run", tiny, max_steps=1, tensorboard=False)
        >>> report.step, report.is_complete
        (1, False)

    Args:
        data: folder of pairs (:mod:`m2l_train.data.data_folder`).
        run: folder of the run, created if it does not exist.
        config: what to train; None: the run's own when it is resumed, else the preset `paper`.
        options: device, threads, limits; None: the defaults.
        resume: continue the run in the folder.
        overwrite: replace the run in the folder.
        on_start: called once with (images that all steps will have seen, images seen so far).
        on_step: called after each step.
        on_note: called with a line of text now and then.
        should_stop: asked after each step, and on another thread while networks are compiled; once it is true, the
            state is saved and the call ends.
        fields: any field of `TrainOptions` by its name, in place of that of `options`.

    Raises:
        InputError: a wrong argument, pairs or pictures that are not those of the run to resume (unless
            `accept_changes`), a damaged state or one that is gone; before any step. Or no pair of an epoch can be read;
            the state has been saved.
        PairError: a pair cannot be read and `skip_bad` is off; the state has been saved. Of a pair to validate on,
            before any step.
        Diverged: a loss is not finite; names the step, the losses and the files. The last state is as it was.
        OutOfMemory: the networks, a step or the validation do not fit; says what was tried. The last state is as it
            was.
        OutputError: the run folder cannot be written; what was saved before is still there.
        DeviceUnavailable: there is no such device.
    """
    began = time.monotonic()
    options = dataclasses.replace(options or TrainOptions(), **fields)
    folder = RunFolder(Path(run))
    where = open_device(local_device(options.device))
    with process_group(where) as processes, contextlib.ExitStack() as stack:
        if not processes.is_main_process:
            on_start, on_step, on_note = (lambda _, __: None), (lambda _: None), (lambda _: None)
        settings, data_folder = _open_run(
            stack, folder, data, config, processes, on_note, resume=resume, overwrite=overwrite
        )
        pool = _start_threads(stack, options)
        session = _Trainer(folder, settings, data_folder, where, pool, resume, options, processes, on_note)
        warnings = (*data_folder.warnings, *_size_warnings(data_folder, settings), *session.warnings)
        session.begin(warnings, resume=resume, on_note=on_note)
        stop_conditions = StopConditions(
            options.max_steps, options.max_minutes, options.save_minutes, should_stop, began
        )
        metrics = session.open_metrics(stack, tensorboard=options.tensorboard)
        return session.run(metrics, stop_conditions, warnings, on_start, on_step, on_note)


def _open_run(
    stack: contextlib.ExitStack,
    folder: RunFolder,
    data: str | os.PathLike[str],
    config: TrainConfig | None,
    processes: ProcessGroup,
    on_note: Callable[[str], None],
    *,
    resume: bool,
    overwrite: bool,
) -> tuple[TrainConfig, DataFolder]:
    """Check the run and its data, and lock the run folder until `stack` closes."""
    if processes.is_main_process:
        folder.check(resume=resume, overwrite=overwrite)
    settings = _settings(folder, config, resume)
    _check_shared(settings, processes)
    data_folder = open_data(data)
    _require_apart(Path(data), folder.path)
    atomic.make_folder(folder.path)
    if processes.is_main_process:
        stack.enter_context(locked(folder.path, (1, 1), on_note))
        # Again: another one may have begun a run here, and even ended it, between the first look and the lock.
        folder.check(resume=resume, overwrite=overwrite)
        settings = _settings(folder, config, resume)
        atomic.remove_leftovers(folder.path, TAG)
    return settings, data_folder


def _start_threads(stack: contextlib.ExitStack, options: TrainOptions) -> ThreadPoolExecutor:
    """Set the threads of PyTorch, and start those that read pictures, until `stack` closes."""
    most = max(1, min(MAX_THREADS, usable_cpus()) // local_world_size())
    stack.enter_context(torch_threads(most if options.threads is None else options.threads))
    return stack.enter_context(ThreadPoolExecutor(options.workers or min(usable_cpus(), 8), "m2l-reader"))


def _check_shared(config: TrainConfig, processes: ProcessGroup) -> None:
    """Make sure that several processes can share the batches.

    Raises:
        InputError
    """
    if processes.world_size == 1:
        return
    if not config.decode_once:
        raise InputError(f"{processes.world_size} processes share what is decoded once; give --decode-once")
    if config.batch_size % processes.world_size:
        raise InputError(
            f"a batch of {config.batch_size} cannot be dealt out evenly to {processes.world_size} processes; give "
            f"--batch-size as a multiple of {processes.world_size}"
        )


def _require_apart(data: Path, run: Path) -> None:
    """Refuse folders that lie in one another: the samples of a run would be pictures to train on."""
    one, other = Path(os.path.realpath(data)), Path(os.path.realpath(run))
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise InputError(
            f"the run {printable(run)} and the data {printable(data)} lie one in the other, or are the same folder; "
            "choose a folder for the run that is outside the data"
        )


def _settings(folder: RunFolder, config: TrainConfig | None, resume: bool) -> TrainConfig:
    if not resume:
        return PRESETS["paper"] if config is None else config
    before = folder.read_config()
    if config is not None and config != before:
        changed = ", ".join(f"{n} {old!r} (now {new!r})" for n, (old, new) in differences(before, config).items())
        raise InputError(
            f"{printable(folder.path)} was begun with {changed}; leave that out to go on with it, or begin a new run"
        )
    return before


def _size_warnings(data: DataFolder, config: TrainConfig) -> tuple[str, ...]:
    if data.stored_size is None or data.stored_size == plain_sides(config.resize_to):
        return ()
    (height, width), (high, wide) = read_sides(data.stored_size, "the size"), config.resize_to
    how = "enlarged" if height < high or width < wide else "shrunk"
    return (
        f"the pictures are {height}x{width} pixels and are wanted at {high}x{wide} before the crop, so they are "
        f"{how}: a second resampling that the original does not do; m2l prepare --size {plain_sides(config.resize_to)} "
        "goes straight there",
    )


class _Trainer:
    """Train one run in this process: hold its networks and its position, and write its files."""

    def __init__(
        self,
        folder: RunFolder,
        config: TrainConfig,
        data: DataFolder,
        device: torch.device,
        pool: ThreadPoolExecutor,
        resume: bool,
        options: TrainOptions,
        processes: ProcessGroup,
        on_note: Callable[[str], None],
    ) -> None:
        self._processes = processes
        self._folder, self._config, self._data, self._device, self._pool = folder, config, data, device, pool
        self._save_epochs = options.save_epochs
        self._fingerprint = pairs_fingerprint(data)
        self._advice = MemoryAdvice(config, device)
        self._skipped: list[str] | None = [] if options.skip_bad else None
        self._bad: set[int] = set()
        self._record: DataRecord | None = None
        self.warnings: list[str] = []
        """What a person should know of the state that is resumed."""
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        torch.manual_seed(config.seed)
        self._epoch, self._position, self._step, self._seconds = 1, -1, 0, 0.0
        self._val_l1: float | None = None
        with memory_errors(self._advice.networks):
            state = folder.load(device) if resume else None
            if state is not None:
                self._check_state(state, options.accept_changes)
            elif processes.is_main_process:
                self._record = record_data(data, pool, None)
            self._pixels: decoded_cache.Pixels | None = None
            if config.decode_once:
                self._decode(on_note)
            table = None
            if config.appearance and state is None and processes.is_main_process:
                table = self._appearances(on_note)
            rows = processes.broadcast_object(appearance_rows_in(state) if table is None else len(table))
            average = None if processes.world_size == 1 else processes.average
            self._networks = Pix2Pix(config, device, appearance_rows=rows, average=average)
            if table is not None:
                self._networks.set_appearance_table(table)
            if state is not None:
                self._restore(state)
            processes.broadcast(self._networks.tensors())
        self._has_state = state is not None
        self._session_began, self._seconds_before = time.monotonic(), self._seconds
        self._last_save, self._images_trained = self._session_began, 0
        with memory_errors(self._advice.validation):
            self._validation = Validation(data.val or data.train, config, pool, VALIDATION_PAIRS)
        if self._validation.problems and not self._is_complete:
            if self._skipped is None:
                raise PairError(f"{self._validation.problems[0]} (a pair to validate on); --skip-bad leaves such out")
            self._skipped += [f"{problem} (a pair to validate on)" for problem in self._validation.problems]

    def _check_state(self, state: dict[str, Any], accept_changes: bool) -> None:
        """Make sure that the state to resume is whole, and of this config and data. All processes hear of it.

        Raises:
            InputError: it is not.
        """
        pair_count = len(self._data.train)
        if state.get("data") != self._fingerprint and accept_changes:
            state |= {"position": -1}  # of an epoch in another order
        problem: InputError | None = None
        if self._processes.is_main_process:
            try:
                check_state(state, self._folder.path, self._config, pair_count)
                self._check_data(state, accept_changes)
            except InputError as error:
                problem = error
        message = self._processes.broadcast_object(None if problem is None else str(problem))
        if message is not None:
            raise problem or InputError(message)

    def _check_data(self, state: dict[str, Any], accept_changes: bool) -> None:
        before = self._folder.read_data()
        self._record = record_data(self._data, self._pool, before)
        changes = [] if before is None else data_changes(before, self._record)
        self.warnings += version_changes(state)
        self.warnings += check_data(state, self._folder.path, self._fingerprint, changes, accept_changes=accept_changes)
        if before is None:
            self.warnings.append(
                f"{printable(self._folder.path)} has no record of the pictures that it was trained on ({DATA}), so it "
                "cannot be told whether they are still the same; from here on it has"
            )

    def _write_record(self) -> None:
        """Write what the run is trained on, if that is not what its record says."""
        if self._record is not None and self._record != self._folder.read_data():
            self._folder.write_data(self._record)

    @property
    def precision(self) -> str:
        """Number type of the convolutions, for people."""
        if self._networks.is_bf16:
            return "bfloat16"
        return "fp32, as bfloat16 is not fast here" if self._config.bf16 else "fp32"

    def begin(self, warnings: tuple[str, ...], *, resume: bool, on_note: Callable[[str], None]) -> None:
        """Make the run folder ready to be trained in, and say what will be done."""
        if self._processes.is_main_process:
            if resume:
                self.repair_networks()
            else:
                self.require_first_batch()
                self._folder.begin(self._config)
            self._write_record()
        pairs = f"{plural(len(self._data.train), 'pair')} to train on, {len(self._data.val)} to validate on"
        on_note(f"{pairs} ({self._data.layout}); {self._device}, {self.precision}")
        for warning in warnings:
            on_note(f"warning: {warning}")

    def open_metrics(self, stack: contextlib.ExitStack, *, tensorboard: bool) -> MetricsLog | None:
        """Open the log of metrics until `stack` closes; None in a process that does not write."""
        if not self._processes.is_main_process:
            return None
        return stack.enter_context(MetricsLog(self._folder.path, self._step, self._epoch, tensorboard=tensorboard))

    def require_first_batch(self) -> None:
        """Make sure that the pairs of the first step can be read, before anything is written or a run replaced.

        Raises:
            PairError: a pair of it cannot be read, and such are not left out.
            InputError: no pair at all can be read.
        """
        if self._pixels is not None:
            if len(self._bad) == len(self._data.train):
                raise InputError(self._nothing_read_message(self._skipped or []))
            return
        skipped: list[str] | None = None if self._skipped is None else []
        batches = epoch_batches(self._data.train, self._config, 1, self._pool, skipped=skipped, ahead=1)
        with contextlib.closing(batches):
            if next(batches, None) is None:
                raise InputError(self._nothing_read_message(skipped or []))

    def _decode(self, on_note: Callable[[str], None]) -> None:
        """Decode all pairs to a file that loses its name once all processes have mapped it."""
        pairs, processes, began = self._data.train, self._processes, time.monotonic()
        file = self._folder.path / f"{atomic.PREFIX}{TAG}decoded-{os.getpid()}{atomic.SUFFIX}"
        try:
            if processes.is_main_process:
                self._bad = decoded_cache.decode_pairs(pairs, self._config, file, self._pool, self._skipped)
            name, bad = processes.broadcast_object((file.name, sorted(self._bad)))
            self._bad = set(bad)
            self._pixels = decoded_cache.map_pixels(file.with_name(name), len(pairs), self._config.crop_from)
            processes.wait()
        finally:
            with contextlib.suppress(OSError):  # a mapped file cannot be removed everywhere; the next session does it
                file.unlink()
        seconds = time.monotonic() - began
        on_note(f"decoded {plural(len(pairs), 'pair')}, {self._pixels.nbytes / 2**20:.0f} MiB, in {seconds:.0f} s")

    def _appearances(self, on_note: Callable[[str], None]) -> torch.Tensor:
        """Measure the appearance of the images to train on, (count, 12)."""
        if self._pixels is not None:
            table = decoded_cache.appearances(self._pixels, self._bad, self._device)
        else:
            on_note("measuring the appearance of all images")
            table = decoded_cache.appearances_of(self._data.train, self._config, self._pool, self._device)
        if not len(table):
            raise InputError(self._nothing_read_message(self._skipped or []))
        return table

    def _batches(self) -> Generator[Batch, None, None]:
        """Yield what is left of the epoch."""
        config, pairs = self._config, self._data.train
        if self._pixels is None:
            return epoch_batches(pairs, config, self._epoch, self._pool, after=self._position, skipped=self._skipped)
        return decoded_cache.decoded_batches(
            pairs,
            self._pixels,
            self._bad,
            config,
            self._epoch,
            self._pool,
            self._device,
            after=self._position,
            share=(self._processes.rank, self._processes.world_size),
        )

    def repair_networks(self) -> None:
        """Write what a kill right after the state has kept from being written."""
        if self._has_state and not self._folder.matches(self._progress()):
            self._folder.save_networks(self._state(), self._progress())

    def run(
        self,
        metrics: MetricsLog | None,
        stop_conditions: StopConditions,
        warnings: tuple[str, ...],
        on_start: Callable[[int, int], None],
        on_step: Callable[[StepResult], None],
        on_note: Callable[[str], None],
    ) -> TrainReport:
        self._metrics, config, pair_count = metrics, self._config, len(self._data.train)
        total = config.epoch_count * pair_count
        if stop_conditions.max_steps is not None:
            total = min(total, stop_conditions.max_steps * config.batch_size)
        seen = min(total, (self._epoch - 1) * pair_count + self._position + 1)
        was_complete, is_epoch_over = self._is_complete, False
        reason: str | None = None
        for problem in self._validation.problems:
            on_note(f"left out of validation: {problem}")
        self._compile(stop_conditions, on_note)
        on_start(total, seen)
        began = self._last_save = time.monotonic()
        self._session_began, self._seconds_before = began, self._seconds
        try:
            while not self._is_complete and reason is None:
                reason = self._agree_on_stop(stop_conditions.reason(self._step))
                if reason is not None:
                    break
                reason, is_epoch_over = self._train_epoch(stop_conditions, on_step, on_note)
            if not was_complete and reason is not None and not (is_epoch_over and self._position < 0):
                self._save()
        except (Diverged, OutOfMemory):
            if self._metrics is not None:
                self._metrics.flush()
            raise
        except InputError as error:  # a pair that cannot be read: all that was trained so far is sound
            self._forget_unread([str(error)])
            self._save()
            raise
        self._forget_unread(self._skipped or [])
        seconds = time.monotonic() - began
        return TrainReport(
            run=self._folder.path,
            config=config,
            step=self._step,
            epoch=min(self._epoch, config.epoch_count),
            is_complete=self._is_complete,
            was_complete=was_complete,
            was_stopped=reason == "stopped" and not self._is_complete,
            images_per_s=self._images_trained / seconds if seconds else 0.0,
            val_l1_levels=self._val_l1,
            warnings=warnings,
            skipped=self._skipped or [],
            process=self._processes.rank,
        )

    def _forget_unread(self, problems: list[str]) -> None:
        """Take pairs that could not be read out of the record, so that they may be mended."""
        if self._record is not None and problems:
            self._record = self._record.without(problems)
            self._write_record()

    def _compile(self, stop_conditions: StopConditions, on_note: Callable[[str], None]) -> None:
        """Compile the networks, unless what is left is too short for it. A stop or a limit ends it, and is found next.

        It comes ahead of the first step, so that speed and time left are told of steps alone.
        """
        config, pair_count = self._config, len(self._data.train)
        count = min(config.batch_size, pair_count - len(self._bad)) // self._processes.world_size
        if not config.compile or self._is_complete or not count:
            return
        step_count = -(-((config.epoch_count - self._epoch + 1) * pair_count - self._position - 1) // config.batch_size)
        if stop_conditions.max_steps is not None:
            step_count = min(step_count, stop_conditions.max_steps - self._step)

        def is_over() -> bool:
            return stop_conditions.reason(self._step) is not None

        if self._agree_on_stop(stop_conditions.reason(self._step)) is not None:
            return
        with memory_errors(lambda: self._advice.step(count)):
            why = compiling.why_not(self._networks, count, step_count, stop_conditions.seconds_left())
            why = self._processes.broadcast_object(why)
            if why is not None:
                on_note(why)
            else:
                use_own_compile_cache()
                compiling.compile_networks(self._networks, count, is_over, on_note)

    def _train_epoch(
        self,
        stop_conditions: StopConditions,
        on_step: Callable[[StepResult], None],
        on_note: Callable[[str], None],
    ) -> tuple[str | None, bool]:
        """Train on what is left of the epoch.

        Returns:
            Why to end now, None to go on; and whether the epoch is over.
        """
        reason: str | None = None
        self._networks.set_learning_rate(self._config.learning_rate(self._epoch))
        batches = self._batches()
        with contextlib.closing(batches):
            last, is_new, is_over = time.perf_counter(), self._position < 0, False
            bad_before = len(self._skipped or ())
            for batch in batches:
                losses = self._train_batch(batch)
                now = time.perf_counter()
                self._log_step(batch, losses, now - last)
                last = now
                on_step(StepResult(self._step, self._epoch, len(batch.names), losses))
                reason = self._agree_on_stop(stop_conditions.reason(self._step))
                if reason is not None:
                    is_over = self._was_last(batch, batches)
                    break
                if time.monotonic() - self._last_save >= 60 * stop_conditions.save_minutes:
                    self._save()
                    self._last_save = time.monotonic()
            else:
                if is_new and self._position < 0:
                    raise InputError(self._nothing_read_message((self._skipped or [])[bad_before:]))
                is_over = True
            if is_over:
                on_note(self._end_epoch())
                self._last_save = time.monotonic()
        return reason, is_over

    def _log_step(self, batch: Batch, losses: Losses, seconds: float) -> None:
        """Count the images of a step, and write its line of the log."""
        image_count = self._processes.world_size * len(batch.names)
        self._images_trained += image_count
        if self._metrics is not None:
            learning_rate = self._config.learning_rate(self._epoch)
            rates = {"lr": learning_rate, "images_per_s": round(image_count / seconds, 3)}
            self._metrics.step(self._step, self._epoch, {**asdict(losses), **rates})

    def _agree_on_stop(self, reason: str | None) -> str | None:
        """Return why to end now, the same in all processes: what any of them has found."""
        return STOP_REASONS[self._processes.all_reduce_max(STOP_REASONS.index(reason))]

    @property
    def _is_complete(self) -> bool:
        return self._epoch > self._config.epoch_count

    def _was_last(self, batch: Batch, batches: Iterator[Batch]) -> bool:
        """Tell whether the epoch is over after `batch`; those after it may all be bad."""
        if batch.last_position == len(self._data.train) - 1:
            return True
        return self._skipped is not None and next(batches, None) is None

    def _nothing_read_message(self, problems: list[str]) -> str:
        first = problems[0] if problems else "unknown"
        return (
            f"none of the {plural(len(self._data.train), 'pair')} can be read in epoch {self._epoch}, so there is "
            f"nothing to train on; the first: {first}. Bring the data back, then --resume"
        )

    def _train_batch(self, batch: Batch) -> Losses:
        """Take one step on a batch."""
        names = printable(", ".join(batch.names))
        try:
            with memory_errors(lambda: self._advice.step(len(batch.names))):
                losses = self._networks.step(batch.masks, batch.images)
        except Diverged as error:
            raise Diverged(
                f"step {self._step + 1} (epoch {self._epoch}) gave {error} on {names}; the state of the last save is "
                f"kept. Look at those files, or begin anew with a lower --lr (now {self._config.lr:g})"
            ) from None
        self._step += 1
        self._position = batch.last_position
        return losses

    def _end_epoch(self) -> str:
        """Validate, write the samples, save; return a line for people."""
        if self._metrics is None:
            self._epoch, self._position = self._epoch + 1, -1
            return ""
        with memory_errors(self._advice.validation):
            losses_and_rates, picture = self._validation.evaluate(self._networks)
        self._val_l1 = round(losses_and_rates.l1_levels, 4)
        epoch = self._epoch
        self._metrics.epoch(
            self._step,
            epoch,
            {
                "val_l1_levels": self._val_l1,
                "val_psnr_db": round(losses_and_rates.psnr_db, 4),
                "hours": round(self._hours(), 5),
            },
        )
        self._metrics.picture(self._step, picture)
        path = self._folder.path / SAMPLES / f"epoch_{epoch:04}.png"
        with atomic.output_errors(path):  # not its parents: a run folder that is gone is an error
            make_folder(path.parent)
        content = encode_png(picture, {"Description": f"mask | synthesized | real. {SYNTHETIC}"})
        atomic.write_file(path, content, tag=TAG)
        self._epoch, self._position = epoch + 1, -1
        self._save(epoch if self._save_epochs and epoch % self._save_epochs == 0 else None)
        return (
            f"epoch {epoch} of {self._config.epoch_count}: {losses_and_rates.l1_levels:.2f} levels from the real "
            "images, "
            f"PSNR {losses_and_rates.psnr_db:.2f} dB on {plural(len(self._validation.masks), 'pair')} ({path.name})"
        )

    def _hours(self) -> float:
        return (self._seconds_before + time.monotonic() - self._session_began) / 3600

    def _save(self, keep_epoch: int | None = None) -> None:
        """Write the state, unless a weight is not finite any more: the state before is the last good one then."""
        if self._metrics is None:
            return
        self._metrics.flush()
        if not self._networks.is_finite():
            raise Diverged(
                f"weights are not finite after step {self._step} (epoch {self._epoch}); the state of the last save is "
                f"kept. Begin anew with a lower --lr (now {self._config.lr:g})"
            )
        self._seconds = self._hours() * 3600
        self._folder.save(self._state(), self._progress(), keep_epoch=keep_epoch)

    def _state(self) -> dict[str, Any]:
        where = Position(self._epoch, self._position, self._step, self._seconds, self._val_l1)
        return collect_state(self._networks, self._config, self._fingerprint, where)

    def _progress(self) -> Progress:
        return Progress(
            epoch=min(self._epoch, self._config.epoch_count),
            epoch_count=self._config.epoch_count,
            step=self._step,
            is_complete=self._is_complete,
            hours=round(self._seconds / 3600, 4),
            pair_count=len(self._data.train),
            val_l1_levels=self._val_l1,
            device=str(self._device),
            versions=versions(),
            net_G_sha256="",
        )

    def _restore(self, state: dict[str, Any]) -> None:
        """Take over a state that :func:`check_state` has seen."""
        restore_state(state, self._networks, printable(self._folder.path))
        self._epoch, self._position, self._step = state["epoch"], state["position"], state["step"]
        self._seconds, self._val_l1 = state["seconds"], state["val_l1"]
