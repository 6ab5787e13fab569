"""Finds a pretrained encoder's files: a local folder, or the hub at a pinned revision."""

import hashlib
from pathlib import Path

from ldm_ray.errors import SettingsError
from ldm_ray.settings import MOLFORMER, MOLFORMER_REVISION, EncoderSettings

PATTERNS = ["*.json", "*.txt", "*.safetensors"]
OLDER = ["*.bin"]
"""Weights of checkpoints without safetensors."""


def revision_of(settings: EncoderSettings) -> str:
    """Identify a checkpoint's weights: the hub's pinned revision, or a checksum of a local folder's weights.

    Raises:
        SettingsError: If a checkpoint of the hub other than MoLFormer has no revision of its own.
    """
    local = Path(settings.checkpoint)
    if local.is_dir():
        digest = hashlib.sha256()
        for file in sorted(path for path in local.iterdir() if path.suffix in (".safetensors", ".bin")):
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return f"sha256:{digest.hexdigest()[:32]}"
    if settings.checkpoint != MOLFORMER and settings.revision == MOLFORMER_REVISION:
        raise SettingsError(f"encoder.revision must be a commit of {settings.checkpoint!r}; got MoLFormer's")
    return settings.revision


def checkpoint_folder(settings: EncoderSettings) -> Path:
    """Return the folder of a checkpoint, fetching it from the hub unless it is local or cached.

    Raises:
        SettingsError: If it cannot be fetched.
    """
    local = Path(settings.checkpoint)
    if local.is_dir():
        return local
    if settings.checkpoint.startswith((".", "/", "~")):
        raise SettingsError(
            f"encoder.checkpoint must be a folder or a name on the hub; {settings.checkpoint!r} is neither"
        )
    from huggingface_hub import snapshot_download

    revision = revision_of(settings)
    try:
        folder = Path(snapshot_download(settings.checkpoint, revision=revision, allow_patterns=PATTERNS))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(settings.checkpoint, revision=revision, allow_patterns=OLDER)
        return folder
    except Exception as error:  # the hub's client and its network have errors of their own
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"encoder.checkpoint {settings.checkpoint!r} (revision {settings.revision}) cannot be fetched from the"
            f" hub; a local folder works too: {reason}"
        ) from None
