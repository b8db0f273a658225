"""Keep what PyTorch compiles in a folder of the user's own: it runs what it finds there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from m2l_runtime._utils import atomic
from m2l_runtime._utils.text import printable
from m2l_runtime.backends.cache_key import is_own, user_folder
from m2l_runtime.errors import OutputError

VARIABLE: Final = "TORCHINDUCTOR_CACHE_DIR"
_NAME: Final = "inductor"


def use_own_compile_cache() -> None:
    """Let PyTorch keep its compiled code where nobody else can write.

    Its default is a folder of a name that anybody knows, in the folder for temporary files: whoever makes it first
    chooses what runs. It is taken if it is the user's own, and made if it is not there; else one in the user's cache
    folder is. A folder that `TORCHINDUCTOR_CACHE_DIR` names is the user's choice, and left.

    Raises:
        OutputError: neither is there for this user alone.
    """
    if VARIABLE in os.environ:
        return
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    folder = Path(default_cache_dir())
    if not _is_own_folder(folder):
        try:
            folder = user_folder() / _NAME
        except RuntimeError as error:
            raise OutputError(f"{_cannot(folder)}: {error}") from None
        with atomic.output_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        if not _is_own_folder(folder):
            raise OutputError(_cannot(folder))
    os.environ[VARIABLE] = str(folder)


def _cannot(folder: Path) -> str:
    return (
        f"others may write to {printable(folder)}, where PyTorch keeps the code it compiles and runs; "
        f"set {VARIABLE} to a folder of your own"
    )


def _is_own_folder(folder: Path) -> bool:
    """Make a folder if it is not there, and tell whether it is one of the user alone, and no link."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError:
        return False
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and is_own(status)
