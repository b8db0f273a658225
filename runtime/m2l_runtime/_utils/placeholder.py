"""Recognize what downloads leave in place of a file."""

from __future__ import annotations

from typing import Final

_LFS: Final = b"version https://git-lfs.github.com/spec/"


def describe_placeholder(content: bytes) -> str | None:
    r"""Say what stands in place of a file's content, and what to do; None if it is nothing of the kind.

    Example:
        >>> describe_placeholder(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")
        'a Git LFS pointer, not the file itself: fetch that with git lfs pull'
    """
    start = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = start.lower()
    if start.startswith(_LFS):
        return "a Git LFS pointer, not the file itself: fetch that with git lfs pull"
    if start.startswith((b"/annex/objects/", b"../.git/annex/", b".git/annex/objects/")) and b"\n" not in start[:-1]:
        return "a git-annex pointer, not the file itself: fetch that with git annex get"
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")) or (
        lower.startswith(b"<?xml") and b"<html" in lower
    ):
        return "a web page (HTML), not the file itself: download it again, from the link to the raw file"
    if lower.startswith(b"<?xml") and b"<error>" in lower:
        return "a storage service's error message (XML), not the file itself: download it again"
    return None
