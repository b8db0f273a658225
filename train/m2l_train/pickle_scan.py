"""Check the pickle of a checkpoint before it is loaded: what it names, and that loading it takes bounded time.

PyTorch's ``weights_only`` lets no code run, but it lets a few hundred bytes ask for what never ends: a key of tuples
nested in one another is hashed 2^n times, `bytearray` is called with any length. So the operations of the pickle are
read first, without doing any. A checkpoint of weights needs few: tensors by name, numbers, strings, lists and dicts.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from typing import IO, Any, Final

MAX_TUPLE_WEIGHT: Final = 1000
"""Entries of a tuple, with those of tuples in it as often as they are in it: what it takes to hash or compare it."""

MAX_NUMBER_BYTES: Final = 64

_CALLABLE: Final = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.Size",
        "torch.device",
        "torch.serialization._get_layout",
    }
)
"""What a checkpoint may call; torch's own types of numbers and storages it may name."""

_EMPTY: Final = {"EMPTY_DICT": 0, "EMPTY_LIST": 0, "EMPTY_TUPLE": 1, "EMPTY_SET": 0}
_PLAIN: Final = frozenset(
    {
        "NONE",
        "NEWTRUE",
        "NEWFALSE",
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
    }
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE"}
    | {"SHORT_BINUNICODE", "BINUNICODE8"}
)
_MARKED: Final = {"SETITEMS", "APPENDS", "ADDITEMS"}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleProblem(ValueError):
    """Signal a pickle that is not loaded."""


class ForeignNames(PickleProblem):
    """Signal a pickle that names what no checkpoint of weights needs."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names: Final = tuple(sorted(set(names)))
        super().__init__(f"it names {', '.join(self.names[:3])}, which weights do not need")


def check_pickle(content: bytes | IO[bytes]) -> None:
    """Check one pickle; of an open file, the one that begins there, and leave it behind it.

    Example:
        >>> import pickle
        >>> check_pickle(pickle.dumps({"a": [1, 2.5, "b"]}, protocol=2))
        >>> check_pickle(pickle.dumps(print, protocol=2))
        Traceback (most recent call last):
        m2l_train.pickle_scan.ForeignNames: it names __builtin__.print, which weights do not need

    Raises:
        ForeignNames: it names what is no part of a checkpoint of weights.
        PickleProblem: it has keys, numbers or operations that no checkpoint has.
        ValueError: it is no pickle, or ends too early. Whatever else pickletools raises means the same.
    """
    scan = _Scan()
    for opcode, argument, _ in pickletools.genops(content):
        scan.step(opcode.name, argument)
    if scan.foreign:
        raise ForeignNames(scan.foreign)


class _Scan:
    """Follow a pickle's stack, with a weight in place of each value: of a tuple its entries, of all else 1."""

    def __init__(self) -> None:
        self.foreign: list[str] = []
        self._stack: list[int] = []
        self._marks: list[int] = []
        self._memo: dict[int, int] = {}

    def step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("PROTO", "STOP", "FRAME"):
            return
        if name == "MARK":
            self._marks.append(len(stack))
        elif name == "GLOBAL":
            self._name(str(argument).replace(" ", ".", 1))
            stack.append(1)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        elif name in _EMPTY:
            stack.append(_EMPTY[name])
        elif name in _TUPLES or name == "TUPLE":
            entries = self._pop(_TUPLES[name]) if name in _TUPLES else self._pop_mark()
            self._push_tuple(entries)
        elif name in ("SETITEM", "SETITEMS", "APPEND", "APPENDS", "BUILD", "ADDITEMS"):
            self._pop_mark() if name in ("SETITEMS", "APPENDS", "ADDITEMS") else self._pop(
                2 if name == "SETITEM" else 1
            )
            self._require(len(stack) > 0)
        elif name in ("REDUCE", "NEWOBJ"):
            self._pop(2)
            stack.append(1)
        elif name in ("LIST", "DICT"):
            self._pop_mark()
            stack.append(1)
        elif name == "BINPERSID":
            self._pop(1)
            stack.append(1)
        elif name == "POP":
            self._pop(1)
        elif name == "POP_MARK":
            self._pop_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            self._push_plain(name, argument)

    def _push_plain(self, name: str, argument: Any) -> None:
        """Push a number, a string or a constant."""
        if name not in _PLAIN:
            raise PickleProblem(f"it has an operation that no checkpoint has ({name})")
        if isinstance(argument, int) and argument.bit_length() > 8 * MAX_NUMBER_BYTES:
            raise PickleProblem(f"it has a number of {argument.bit_length() // 8:,} bytes")
        self._stack.append(1)

    def _push_tuple(self, entries: list[int]) -> None:
        weight = 1 + sum(entries)
        if weight > MAX_TUPLE_WEIGHT and (len(entries) < weight - 1 or weight > 1 << 20):
            raise PickleProblem(f"it has tuples in tuples, of more than {MAX_TUPLE_WEIGHT:,} entries in all")
        self._stack.append(weight)

    def _name(self, name: str) -> None:
        is_plain_name = name.startswith("torch.") and name.count(".") <= 2 and "._" not in name
        is_storage = name.endswith("Storage") and name.startswith(("torch.", "torch.storage."))
        is_dtype = is_plain_name and name.count(".") == 1 and name.split(".")[1].islower()
        if not (name in _CALLABLE or is_storage or is_dtype):
            self.foreign.append(name)

    def _pop(self, count: int) -> list[int]:
        self._require(len(self._stack) - (self._marks[-1] if self._marks else 0) >= count)
        entries = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return entries

    def _pop_mark(self) -> list[int]:
        self._require(bool(self._marks))
        entries = self._stack[self._marks[-1] :]
        del self._stack[self._marks.pop() :]
        return entries

    def _require(self, is_sound: bool) -> None:
        if not is_sound:
            raise PickleProblem("its operations are out of order")
