"""Write configurations of Triton's models, in the text format of protocol buffers.

The format: https://protobuf.dev/reference/protobuf/textformat-spec/; the fields: model_config.proto of
https://github.com/triton-inference-server/common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias


class Word(str):
    """Mark a text as the name of a value of an enumeration, which is written without quotes."""

    __slots__ = ()


Value: TypeAlias = "str | int | bool | Mapping[str, Value] | Sequence[Value]"


def config_text(fields: Mapping[str, Value], indent: str = "") -> str:
    """Write a message, a field a line.

    Example:
        >>> print(config_text({"name": "a", "input": [{"name": "mask", "dims": [2, 3]}], "kind": Word("KIND_CPU")}))
        name: "a"
        input {
          name: "mask"
          dims: [2, 3]
        }
        kind: KIND_CPU
        <BLANKLINE>

    Args:
        fields: by name; of a list of messages each is written as a field, other lists in brackets.
        indent: what lines begin with.
    """
    return "".join(_field(name, value, indent) for name, value in fields.items())


def _field(name: str, value: Value, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{config_text(value, indent + '  ')}{indent}}}\n"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(one, Mapping) for one in value):
            return "".join(_field(name, one, indent) for one in value)
        return f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n"
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: Value) -> str:
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else _quoted(str(value))


def _quoted(text: str) -> str:
    r"""Quote a text; bytes that are not printable ASCII become octal escapes.

    >>> print(_quoted('a"b\n\u00e9'))
    "a\"b\012\303\251"
    """
    return '"' + "".join(_byte(byte) for byte in text.encode("utf-8", "backslashreplace")) + '"'


def _byte(byte: int) -> str:
    character = chr(byte)
    if character in '"\\':
        return f"\\{character}"
    return character if 32 <= byte < 127 else f"\\{byte:03o}"


def string_parameters(parameters: Mapping[str, object]) -> list[Mapping[str, Value]]:
    """Return the field `parameters` of a configuration, whose values are texts."""
    return [{"key": key, "value": {"string_value": str(value)}} for key, value in parameters.items()]
