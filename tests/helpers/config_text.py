"""Read the text format of protocol buffers into lists by field name: what Triton's configurations are made of."""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([A-Za-z0-9_-]+)|([{}:\[\],]))')


def read_config(text: str) -> dict[str, list[Any]]:
    """Every field as the list of its values; quoted texts as bytes, numbers as int, words as str."""
    tokens = _tokens(text)
    fields, rest = _message(tokens, 0)
    assert rest == len(tokens)
    return fields


def _tokens(text: str) -> list[str]:
    tokens, place = [], 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        assert match is not None, text[place : place + 40]
        tokens.append(match[1] or match[2] or match[3])
        place = match.end()
    return tokens


def _message(tokens: list[str], place: int) -> tuple[dict[str, list[Any]], int]:
    fields: dict[str, list[Any]] = {}
    while place < len(tokens) and tokens[place] != "}":
        values = fields.setdefault(tokens[place], [])
        place += 1
        if tokens[place] == "{":
            value, place = _message(tokens, place + 1)
            assert tokens[place] == "}"
            values.append(value)
            place += 1
            continue
        assert tokens[place] == ":"
        place += 1
        if tokens[place] != "[":
            values.append(_scalar(tokens[place]))
            place += 1
            continue
        place += 1
        while tokens[place] != "]":
            if tokens[place] != ",":
                values.append(_scalar(tokens[place]))
            place += 1
        place += 1
    return fields, place


def _scalar(token: str) -> object:
    if token.startswith('"'):
        return re.sub(rb"\\([0-7]{3}|.)", _unescaped, token[1:-1].encode())
    return int(token) if re.fullmatch(r"-?[0-9]+", token) else token


def _unescaped(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1], 8)]) if len(match[1]) == 3 else match[1]
