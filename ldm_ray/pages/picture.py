"""Colours of pictures, and their export as PNG."""

import io

from matplotlib.figure import Figure

INK = "#1f3a5f"
ACCENT = "#c8553d"


def png_of(drawing: Figure) -> bytes:
    """Return a drawing's PNG file."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, dpi=130, format="png")
    return buffer.getvalue()
