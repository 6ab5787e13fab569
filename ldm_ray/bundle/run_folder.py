"""The folder in which a training run becomes a bundle: what may begin there, and what may resume."""

from typing import Literal, TypedDict, cast

from ldm_ray.config import Config, deciding, read_settings
from ldm_ray.errors import BundleError, SettingsError
from ldm_ray.layout import METADATA, RUN, SETTINGS, SHARE
from ldm_ray.settings import RaySettings
from ldm_ray.storage.store import Store


class Share(TypedDict):
    """How wells are dealt to workers; decided when a run begins, and kept until it ends."""

    num_workers: int
    mode: Literal["resident", "stream"]
    lanes: int


Begin = Literal["fresh", "resume", "overwrite"]


def check_out(store: Store, config: Config, begin: Begin) -> None:
    """Refuse to mix with what is already under the bundle's folder.

    Raises:
        BundleError: If something is in the way, or there is nothing to resume.
        SettingsError: If the run to be resumed has other settings.
    """
    resume, overwrite = begin == "resume", begin == "overwrite"
    if store.exists(METADATA) and not overwrite:
        raise BundleError(f"{store.url} already holds a bundle; --overwrite replaces it")
    unfinished = store.exists(RUN)
    if resume and not unfinished:
        raise BundleError(f"{store.url} holds no unfinished run to resume")
    if unfinished and not resume and not overwrite:
        raise BundleError(f"{store.url} holds an unfinished run; --resume continues it, --overwrite starts over")
    if resume and deciding(read_settings(store.read_bytes(SETTINGS))) != deciding(config):
        raise SettingsError(f"--resume wants the settings of the run, {store.path(SETTINGS)}; got others")


def check_share(store: Store, share: Share) -> None:
    """Refuse to go on midway through an epoch with wells dealt otherwise.

    Raises:
        SettingsError: Naming how the run was begun.
    """
    begun = cast(Share, {**share, **store.read_json(SHARE)})  # lanes were not always written down
    names: dict[str, Literal["num_workers", "mode", "lanes"]]
    names = {"ray.num_workers": "num_workers", "ingest.mode": "mode"}
    if begun["mode"] == share["mode"] == "resident":
        names = {"ray.lanes": "lanes"}  # whose wells any number of workers shares
    if any(begun[key] != share[key] for key in names.values()):
        wanted = " and ".join(f"{name}={begun[key]}" for name, key in names.items())
        got = ", ".join(str(share[key]) for key in names.values())
        raise SettingsError(f"{store.url} was begun with {wanted}; got {got}")


def as_begun(settings: RaySettings, store: Store) -> RaySettings:
    """Return settings with the number of workers that a streamed run was begun with, where they name none."""
    begun = store.read_json(SHARE)
    if settings.num_workers or begun["mode"] == "resident":
        return settings
    return settings.model_copy(update={"num_workers": begun["num_workers"]})
