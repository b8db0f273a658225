"""Write the log: a line of JSON for each event, to standard error. No mask, image or token is in it."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final

from m2l_runtime._utils.text import ascii_json, shown

LOGGER: Final = logging.getLogger("m2l.serve")
_MAX_CHARS: Final = 300
_MAX_TRACE_CHARS: Final = 4000


def log_event(event: str, level: int = logging.INFO, /, **fields: Any) -> None:
    """Log an event with its fields.

    Example:
        >>> log_event("ready", logging.DEBUG, bundle="m2l")
    """
    LOGGER.log(level, event, extra={"m2l_fields": fields})


def log_exception(event: str, error: BaseException, /, **fields: Any) -> None:
    """Log what went wrong and where; the words of the error come from it, so they are shortened."""
    trace = "".join(traceback.format_tb(error.__traceback__))[-_MAX_TRACE_CHARS:]
    log_event(event, logging.ERROR, error=type(error).__name__, message=str(error)[:_MAX_CHARS], trace=trace, **fields)


class JsonFormatter(logging.Formatter):
    """Format a record of the service, or of uvicorn, as one line of JSON in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        fields = getattr(record, "m2l_fields", None)
        if fields is None:
            line["event"], line["message"] = record.name, shown(record.getMessage(), _MAX_CHARS)[1:-1]
            if record.exc_info is not None and record.exc_info[0] is not None:
                line["error"] = record.exc_info[0].__name__
                line["trace"] = "".join(traceback.format_tb(record.exc_info[2]))[-_MAX_TRACE_CHARS:]
        else:
            line["event"] = record.getMessage()
            line |= {name: value for name, value in fields.items() if value is not None}
        return ascii_json(json.dumps(line, default=str))


class _Handler(logging.StreamHandler[Any]):
    """Write to standard error; what cannot be written is dropped, as on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - as logging names it
        del record


def set_up_logs(level: int = logging.INFO) -> None:
    """Send the lines of the service, and uvicorn's warnings, to standard error as JSON."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for logger, lowest in ((LOGGER, level), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(lowest)
