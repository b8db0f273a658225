"""Define the errors of m2l, as one tree. Each is also the builtin error that callers already catch.

::

    M2LError
    ├── InputError          (ValueError)       an argument is not what was expected
    │   ├── ArgumentError                      a value out of range, or arguments that do not go together
    │   │   └── ArgumentTypeError (TypeError too)  an argument of the wrong type, or of a name that there is not
    │   ├── ArrayError      (TypeError too)    an array of the wrong shape, type or range
    │   ├── PictureFileError                   a file that is not a usable picture
    │   │   └── MaskFileError                  a file that is not a usable mask
    │   └── CheckpointError                    a checkpoint that is not a U-Net generator (export)
    ├── BundleError         (ValueError)       a bundle that cannot be used as it is
    │   ├── BundleNotFound  (FileNotFoundError)
    │   ├── BundleTooNew                       written by a newer m2l, or with inputs this one cannot supply
    │   └── BundleDamaged                      a file missing, altered, or leaving the folder
    ├── EngineError         (RuntimeError)     an engine failed
    │   ├── EngineNotInstalled (ImportError)   the message is the command that installs it
    │   └── DeviceUnavailable                  the engine is there, the device is not
    ├── TrainingError       (RuntimeError)     a training that cannot go on; its last state is kept
    │   ├── Diverged        (ArithmeticError too)  a loss is not a finite number
    │   └── OutOfMemory     (MemoryError too)  the device has too little memory for a step
    ├── ParityError         (ArithmeticError)  two computations that should agree do not
    └── OutputError         (OSError)          results cannot be written, or would overwrite something

A message says what was given, what was expected and what to do. File names in messages pass through
:func:`m2l_runtime._utils.text.printable`, so that a hostile name cannot control a terminal.
"""

import re
from typing import Final

MAX_MESSAGE_CHARS: Final = 2000
_LONG_NUMBER: Final = re.compile(r"\d[\d,]{39,}")


class M2LError(Exception):
    """Signal any error that m2l raises on purpose: the root of the tree.

    Example:
        >>> from m2l_runtime import open_bundle
        >>> try:
        ...     open_bundle("no-such-folder")
        ... except M2LError as error:
        ...     print(error)
        no-such-folder does not exist; a bundle is the folder that `m2l export CHECKPOINT BUNDLE` writes
    """

    def __str__(self) -> str:
        """Return the message, shortened where a file or a caller gave numbers or names without end.

        Example:
            >>> str(M2LError(f"got {10**100}"))
            'got 1000000000... (101 digits)'
        """
        text = _LONG_NUMBER.sub(_shortened, super().__str__())
        half = MAX_MESSAGE_CHARS // 2
        return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[:half]} ... {text[-half:]}"


def _shortened(number: re.Match[str]) -> str:
    digits = number[0].replace(",", "")
    return f"{digits[:10]}... ({len(digits)} digits)"


_KINDS: Final = {
    "NoneType": "None",
    "bytes": "bytes",
    "dict": "a mapping",
    "float": "a number",
    "int": "a whole number",
    "ndarray": "an array",
    "str": "a text",
}
_VOWELS: Final = tuple("AEIOUaeio")


def kind_named(name: str) -> str:
    """Say in words, with its article, what kind of value a Python type holds.

    >>> kind_named("int"), kind_named("ndarray"), kind_named("Tensor"), kind_named("OrderedDict")
    ('a whole number', 'an array', 'a Tensor', 'an OrderedDict')
    """
    return _KINDS.get(name) or f"{'an' if name.startswith(_VOWELS) else 'a'} {name}"


def kind_of(value: object) -> str:
    """Say what kind of value something is, in few words whatever it is.

    >>> kind_of(3), kind_of(None), kind_of([1, 2])
    ('a whole number', 'None', 'a list')
    """
    return kind_named(type(value).__name__[:80])


class InputError(M2LError, ValueError):
    """Signal that an argument is not what was expected."""


class ArgumentError(InputError):
    """Signal that a value is out of range or none of the choices, or that arguments do not go together.

    That can be told from the call alone, before anything is read. At the command line the exit status is 2.
    """


class ArgumentTypeError(ArgumentError, TypeError):
    """Signal that an argument has the wrong type, or a name that there is not."""


class ArrayError(InputError, TypeError):
    """Signal that an array has the wrong shape, type or range."""


class PictureFileError(InputError):
    """Signal that a file is not a usable picture."""


class MaskFileError(PictureFileError):
    """Signal that a file is not a usable mask."""


class CheckpointError(InputError):
    """Signal that a checkpoint cannot be exported."""


class BundleError(M2LError, ValueError):
    """Signal that a bundle cannot be used as it is."""


class BundleNotFound(BundleError, FileNotFoundError):
    """Signal that there is no bundle at the path given."""


class BundleTooNew(BundleError):
    """Signal that a bundle needs a newer m2l: another schema, or inputs with a role unknown here."""


class BundleDamaged(BundleError):
    """Signal that a file of a bundle is missing, altered, of absurd size, or outside the folder."""


class EngineError(M2LError, RuntimeError):
    """Signal that an inference engine failed."""


class EngineNotInstalled(EngineError, ImportError):
    """Signal that an inference engine is not installed; the message is the command that installs it."""


class DeviceUnavailable(EngineError):
    """Signal that an engine is installed but cannot use the device asked for."""


class TrainingError(M2LError, RuntimeError):
    """Signal that a training cannot go on; its last state is saved."""


class Diverged(TrainingError, ArithmeticError):
    """Signal that a loss is not a finite number."""


class OutOfMemory(TrainingError, MemoryError):
    """Signal that the device has too little memory for a step of training."""


class ParityError(M2LError, ArithmeticError):
    """Signal that two computations that should agree do not."""


class OutputError(M2LError, OSError):
    """Signal that results cannot be written, or would overwrite something."""
