"""Whether a bundle exists, without loading it: whatever reads weights imports torch, which takes seconds."""

from ldm_ray.errors import BundleError
from ldm_ray.layout import METADATA
from ldm_ray.storage.filesystem import StorageOptions
from ldm_ray.storage.store import Store


def bundle_exists(url: str, storage_options: StorageOptions | None = None) -> bool:
    """Tell whether a complete bundle is at the URL."""
    return Store(url, storage_options or {}).exists(METADATA)


def require_bundle(url: str, storage_options: StorageOptions | None = None) -> None:
    """Refuse a URL without a complete bundle.

    Raises:
        BundleError: If there is none.
    """
    if not bundle_exists(url, storage_options):
        raise BundleError(f"{url} is not a model bundle (no {METADATA})")
