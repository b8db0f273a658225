"""Runs on file systems that lack a part of what others have."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from poor_disk import limit_names, refuse
from support import disc, save, slow

from m2l_runtime import Synthesizer
from m2l_runtime.errors import InputError, OutputError
from m2l_runtime.masks.sources.mask_source import DrawnMasks
from m2l_runtime.masks.sources.writing import write_masks
from m2l_runtime.output.encoding import Encoding
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.runs.folder import RunCallbacks, synthesize_folder
from m2l_runtime.runs.lock import locked

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def fake() -> Synthesizer:
    return Synthesizer.open(backend="fake")


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        save(folder / name, disc(side=64, radius=20, y=30, x=30))
    return folder


def shown(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and "m2l-" not in p.name)


@pytest.mark.parametrize("number", [errno.ENOLCK, *map(slow, (errno.EOPNOTSUPP, 524, errno.EBADF, errno.EIO))])
def test_runs__go_on_without_locks_with_a_warning(
    masks: Path, tmp_path: Path, fake: Synthesizer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse(monkeypatch, number, "flock")
    notes: list[str] = []

    def meanwhile(_: int) -> None:
        for shard in ((1, 1), (1, 2)):
            with pytest.raises(OutputError, match=r"another m2l run .* rm .*m2l-lock.held"), locked(out, shard):
                pass

    out, callbacks = tmp_path / "out", RunCallbacks(on_note=notes.append, on_start=meanwhile)
    summary = synthesize_folder(masks, out, fake, OutputOptions(pairs=True), callbacks=callbacks)
    assert (summary.image_count, shown(out)[-1]) == (2, "pairs.csv")
    assert [note for note in notes if "has no locks" in note] == notes
    assert len(notes) == 1
    summary = synthesize_folder(masks, out, fake, OutputOptions(pairs=True), resume=True)
    assert summary.kept_count == 2
    assert not list(out.glob("*.held"))


@pytest.mark.slow
def test_runs__shards_work_side_by_side_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.ENOLCK, "flock")
    with locked(tmp_path, (1, 2)), locked(tmp_path, (2, 2)):
        for shard in ((1, 1), (2, 2)):
            with pytest.raises(OutputError, match="another m2l run"), locked(tmp_path, shard):
                pass
    with locked(tmp_path, (1, 1)):
        pass


def test_runs__go_on_without_permissions_or_fsync(
    masks: Path, tmp_path: Path, fake: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, errno.EPERM, "chmod", "fchmod", "utime", "chown")
    refuse(monkeypatch, errno.EINVAL, "fsync")
    for format_ in ("png", "webdataset"):
        assert synthesize_folder(masks, tmp_path / format_, fake, OutputOptions(format=format_)).image_count == 2


@pytest.mark.parametrize("is_pairs", [False, True])
@pytest.mark.parametrize("tells_ahead", [False, True])
def test_runs__a_name_that_the_disk_does_not_take_is_skipped_and_named(
    masks: Path, tmp_path: Path, fake: Synthesizer, monkeypatch: pytest.MonkeyPatch, tells_ahead: bool, is_pairs: bool
) -> None:
    long = "n" * 138 + ".png"  # 142 bytes, which are taken; its image is a .webp
    save(masks / long, disc(side=64, radius=20, y=30, x=30))
    (masks / ("d" * 150)).mkdir()
    save(masks / ("d" * 150) / "c.png", disc(side=64, radius=20, y=30, x=30))
    options, out = OutputOptions(image_encoding=Encoding("webp"), pairs=is_pairs), tmp_path / "out"
    limit_names(monkeypatch, out, 142, tells_ahead=tells_ahead)
    for resume in (False, True):
        summary = synthesize_folder(masks, out, fake, options, resume=resume)
        assert (summary.image_count, summary.kept_count, summary.bad_count) == ((0, 2, 2) if resume else (2, 0, 2))
        assert len([p for p in summary.bad_masks if "the disk takes no file called" in p]) == 2
        assert any(p.startswith(f"{masks / long}: ") and "File name too long" in p for p in summary.bad_masks)
        stems = {Path(name).stem for name in shown(out)} - {"pairs", "metadata"}
        assert stems == {"a", "b"}
    synthesize_folder(masks, out, fake, options, overwrite=True)


def test_runs__the_longest_name_that_is_a_mask_need_not_be_an_image(tmp_path: Path, fake: Synthesizer) -> None:
    """On this disk as it is."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("a.png", "n" * 251 + ".png"):
        save(masks / name, disc(side=64, radius=20, y=30, x=30))
    for resume in (False, True):
        summary = synthesize_folder(
            masks, tmp_path / "out", fake, OutputOptions(image_encoding=Encoding("webp")), resume=resume
        )
        assert (summary.image_count + summary.kept_count, summary.bad_count) == (1, 1)
    assert synthesize_folder(masks, tmp_path / "tars", fake, OutputOptions(format="webdataset")).image_count == 2
    with pytest.raises(OutputError, match="too long"):
        synthesize_folder(masks / "a.png", tmp_path / ("o" * 252 + ".png"), fake)
    sheet = OutputOptions(contact_sheet=tmp_path / ("s" * 252 + ".png"))
    with pytest.raises(OutputError, match="too long"):
        synthesize_folder(masks, tmp_path / "sheet", fake, sheet)
    assert not (tmp_path / "sheet").exists()


class _LongNames:
    """Draw nothing: the names are refused before."""

    seed = None

    def label(self, number: int) -> str:
        return "n" * (250 if number == 2 else 3)

    def draw(self, number: int) -> None:
        raise InputError("the work began")


def test_write_masks__refuses_names_ahead_of_the_work(tmp_path: Path) -> None:
    masks = DrawnMasks(_LongNames(), 3)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match="too long"):
        write_masks(masks, tmp_path / "out", {})
    assert list(tmp_path.iterdir()) == []
