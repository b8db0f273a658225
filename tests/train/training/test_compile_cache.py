"""Where PyTorch's compiled code is kept: never in a folder that somebody else made or may write to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from m2l_runtime.errors import OutputError
from m2l_train.training.compile_cache import VARIABLE, use_own_compile_cache

pytestmark = pytest.mark.skipif(os.name != "posix", reason="owners and permissions of POSIX")


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PyTorch's own folder, in a folder for temporary files that all may write to."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, "")  # so that it is as before in the end
    monkeypatch.delenv(VARIABLE)
    folder = Path(default_cache_dir())
    assert folder.parent == tmp_path / "tmp"
    return folder


def test_use_own_compile_cache__makes_the_folder_or_takes_the_users_own(default: Path) -> None:
    use_own_compile_cache()
    assert os.environ.pop(VARIABLE) == str(default)
    assert default.stat().st_mode & 0o777 == 0o700
    default.chmod(0o755)  # as PyTorch makes it
    use_own_compile_cache()
    assert os.environ[VARIABLE] == str(default)


@pytest.mark.parametrize("how", ["all may write", "of another user", "a link", "a file"])
def test_use_own_compile_cache__what_others_made_is_not_taken(default: Path, tmp_path: Path, how: str) -> None:
    if how == "a link":
        (tmp_path / "theirs").mkdir()
        default.symlink_to(tmp_path / "theirs")
    elif how == "a file":
        default.write_bytes(b"")
    else:
        default.mkdir()
        if how == "all may write":
            default.chmod(0o777)
        elif os.geteuid() != 0:
            pytest.skip("takes root")
        else:
            os.chown(default, 12345, -1)
    use_own_compile_cache()
    own = tmp_path / "cache" / "m2l" / "inductor"
    assert os.environ.pop(VARIABLE) == str(own)
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)
    with pytest.raises(OutputError, match="others may write to .*inductor.* set TORCHINDUCTOR_CACHE_DIR"):
        use_own_compile_cache()


def test_use_own_compile_cache__a_folder_that_was_chosen_is_left(
    default: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "chosen"))
    use_own_compile_cache()
    assert os.environ[VARIABLE] == str(tmp_path / "chosen")
    assert not default.exists()
