"""How the log is written: lines for people, or a JSON object a line. Both processes use it.

What a record tells besides its message is in its ``fields``; ``REQUEST_ID`` is added while a request
is served. Newlines and other control characters in fields are escaped, so that no client can write
lines of its own.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
TRANSPORTS: Final = ("httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub")
"""Of downloads: that each of their requests went well is nobody's news."""
PLAIN: Final = re.compile(r"[\w.:/+@%*-]+", re.ASCII)


def set_up(format: str, level: str) -> None:
    """``format``: text or json; ``level``: as in ``--log-level``. To standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    least = logging.NOTSET if level == "debug" else max(logging.root.level, logging.WARNING)
    for name in TRANSPORTS:
        logging.getLogger(name).setLevel(least)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", ()))
    if request_id := REQUEST_ID.get():
        fields = {"request_id": request_id, **fields}
    return fields


class TextLines(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = [f"{name}={_quoted(value)}" for name, value in fields_of(record).items()]
        return " ".join([super().formatMessage(record), *fields])


def _quoted(value: Any) -> str:
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(value, default=str)


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(line, default=str, ensure_ascii=False)
