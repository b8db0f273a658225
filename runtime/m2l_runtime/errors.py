"""What can go wrong, as one tree, each error also the builtin one that callers already catch.

::

    M2LError
    ├── InputError          (ValueError)       something handed in is not what was expected
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

A message says what was got, what was expected and what to do. File names in messages pass through
:func:`m2l_runtime._utils.text.printable`, so that a hostile name cannot steer a terminal.
"""


class M2LError(Exception):
    """Root of everything that m2l raises on purpose."""


class InputError(M2LError, ValueError):
    """Something handed in is not what was expected."""


class ArrayError(InputError, TypeError):
    """An array has the wrong shape, type or range."""


class PictureFileError(InputError):
    """A file is not a usable picture."""


class MaskFileError(PictureFileError):
    """A file is not a usable mask."""


class CheckpointError(InputError):
    """A checkpoint is not what can be exported."""


class BundleError(M2LError, ValueError):
    """A bundle cannot be used as it is."""


class BundleNotFound(BundleError, FileNotFoundError):
    """There is no bundle at the path given."""


class BundleTooNew(BundleError):
    """A bundle needs a newer m2l: another schema, or inputs with a role unknown here."""


class BundleDamaged(BundleError):
    """A file of a bundle is missing, altered, of absurd size, or outside the folder."""


class EngineError(M2LError, RuntimeError):
    """An inference engine failed."""


class EngineNotInstalled(EngineError, ImportError):
    """An inference engine is not installed; the message is the command that installs it."""


class DeviceUnavailable(EngineError):
    """An engine is installed but cannot use the device asked for."""


class TrainingError(M2LError, RuntimeError):
    """A training cannot go on; its last state is kept."""


class Diverged(TrainingError, ArithmeticError):
    """A loss is not a finite number."""


class OutOfMemory(TrainingError, MemoryError):
    """The device has too little memory for a step of training."""


class ParityError(M2LError, ArithmeticError):
    """Two computations that should agree do not."""


class OutputError(M2LError, OSError):
    """Results cannot be written, or would overwrite something."""
