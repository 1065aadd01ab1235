"""Numbers as people read them."""

SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
SPANS = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"))


def size(number: float) -> str:
    """Bytes in powers of ten: 4434804736 is "4.4 GB"."""
    for unit, name in SIZES:
        if number >= unit:
            value = number / unit
            return f"{value:.1f} {name}" if value < 99.95 else f"{value:.0f} {name}"
    return f"{number:.0f} B"


def span(seconds: float) -> str:
    """Seconds as "40 s", "4.2 min", "2.3 h" or "3.1 days"."""
    for unit, name in SPANS:
        if seconds >= 1.5 * unit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 9.95 else f"{value:,.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 1 else "< 1 s"
