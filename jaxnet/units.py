"""Figures for people to read."""

from __future__ import annotations


def amount(size: float) -> str:
    """Bytes, in thousands as makers of disks and devices count them.

    Example:
        >>> amount(0), amount(1536), amount(80e9)
        ('0 B', '1.54 KB', '80 GB')
    """
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.5:  # from there on three digits are 1000
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def duration(seconds: float) -> str:
    """A time.

    Example:
        >>> duration(0.00123), duration(12.3)
        ('1.23 ms', '12.3 s')
    """
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"
