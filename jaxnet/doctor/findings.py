"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what was looked at: `"GPU"`.
        level: `"ok"`; `"note"`, worth knowing; `"warning"`, training works but badly or not always;
            `"problem"`, training fails or leaves hardware unused.
        what: what was found.
        advice: what to do about it; empty where there is nothing to do.
    """

    topic: str
    level: Level
    what: str
    advice: str = ""
