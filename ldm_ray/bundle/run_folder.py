"""The folder in which a training run becomes a bundle: which runs may start or resume there."""

from typing import Any, Literal, TypedDict, cast

from ldm_ray.config import Config, deciding, read_settings
from ldm_ray.errors import BundleError, SettingsError
from ldm_ray.layout import METADATA, RUN, SETTINGS, SHARE
from ldm_ray.settings import RaySettings
from ldm_ray.storage.store import Store


class Share(TypedDict):
    """How wells are dealt to workers; decided when a run starts, and kept until it ends."""

    num_workers: int
    mode: Literal["resident", "stream"]
    lanes: int


Begin = Literal["fresh", "resume", "overwrite"]


def check_out(store: Store, config: Config, begin: Begin) -> None:
    """Refuse to mix results with those in the bundle's folder.

    Raises:
        BundleError: If the folder is in use, or there is nothing to resume.
        SettingsError: If the run to resume has other settings.
    """
    resume, overwrite = begin == "resume", begin == "overwrite"
    if store.exists(METADATA) and not overwrite:
        raise BundleError(f"{store.url} already holds a bundle; --overwrite replaces it")
    unfinished = store.exists(RUN)
    if resume and not unfinished:
        raise BundleError(f"{store.url} holds no unfinished run to resume")
    if unfinished and not resume and not overwrite:
        raise BundleError(f"{store.url} holds an unfinished run; --resume continues it, --overwrite starts over")
    if resume and _of_training(read_settings(store.read_bytes(SETTINGS))) != _of_training(config):
        raise SettingsError(f"--resume needs the settings of the run, {store.path(SETTINGS)}; got others")


def _of_training(config: Config) -> dict[str, Any]:
    """Return the settings that must not change when a run is resumed: those of sampling are first used after it."""
    values = deciding(config)
    return values | {"predict": {"guidance": values["predict"]["guidance"]}}


def check_share(store: Store, share: Share) -> None:
    """Refuse to resume in the middle of an epoch with wells dealt differently.

    Raises:
        SettingsError: If they are; names the settings that the run was started with.
    """
    begun = cast(Share, {**share, **store.read_json(SHARE)})  # older runs did not record lanes
    names: dict[str, Literal["num_workers", "mode", "lanes"]]
    names = {"ray.num_workers": "num_workers", "ingest.mode": "mode"}
    if begun["mode"] == share["mode"] == "resident":
        names = {"ray.lanes": "lanes"}  # any number of workers can share the lanes
    if any(begun[key] != share[key] for key in names.values()):
        wanted = " and ".join(f"{name}={begun[key]}" for name, key in names.items())
        got = ", ".join(str(share[key]) for key in names.values())
        raise SettingsError(f"{store.url} was started with {wanted}; got {got}")


def as_begun(settings: RaySettings, store: Store) -> RaySettings:
    """Return the settings; for a streamed run without `num_workers`, with the number that it was started with."""
    begun = store.read_json(SHARE)
    if settings.num_workers or begun["mode"] == "resident":
        return settings
    return settings.model_copy(update={"num_workers": begun["num_workers"]})
