"""Finds a pretrained encoder's files: a local folder, or the hub at a pinned revision."""

from pathlib import Path

from ldm_ray.config import EncoderSettings
from ldm_ray.errors import SettingsError

PATTERNS = ["*.json", "*.txt", "*.safetensors"]


def checkpoint_folder(settings: EncoderSettings) -> Path:
    """Return the folder of a checkpoint, fetching it from the hub if it is not local and not cached.

    Raises:
        SettingsError: If it cannot be had, in one line.
    """
    local = Path(settings.checkpoint)
    if local.is_dir():
        return local
    if settings.checkpoint.startswith((".", "/", "~")):
        raise SettingsError(
            f"encoder.checkpoint must be a folder or a name on the hub; {settings.checkpoint!r} is neither"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(settings.checkpoint, revision=settings.revision, allow_patterns=PATTERNS))
    except Exception as error:  # the hub's client has errors of its own, and so has its network
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"encoder.checkpoint {settings.checkpoint!r} (revision {settings.revision}) cannot be fetched from the"
            f" hub; a local folder works too: {reason}"
        ) from None
