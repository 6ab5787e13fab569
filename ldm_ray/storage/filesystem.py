"""Opens the file system of a URL: fsspec's for files, and pyarrow's own S3 client for Parquet."""

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import fsspec
import fsspec.implementations.local
import pyarrow.fs as pafs

StorageOptions = Mapping[str, Mapping[str, Any]]
"""fsspec's arguments by protocol, for example `{"s3": {"anon": True}}`."""

ATTEMPTS = 10
"""How often a request to S3 is tried, with growing pauses (about a minute in all)."""


def open_filesystem(url: str, storage_options: StorageOptions) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it."""
    protocol = fsspec.utils.get_protocol(url)
    fs, path = fsspec.core.url_to_fs(url, **storage_options.get(protocol, {}))
    return fs, path


def is_local(fs: Any) -> bool:
    """Tell whether files are on this machine's own file system."""
    return isinstance(fs, fsspec.implementations.local.LocalFileSystem)


def arrow_filesystem(fs: Any, path: str, attempts: int = ATTEMPTS) -> pafs.FileSystem:
    """Return pyarrow's file system for the one that fsspec opened.

    For S3 it is pyarrow's own client, which reads column chunks in parallel and without Python's lock.
    """
    if is_local(fs):
        return pafs.LocalFileSystem()
    if "s3" in fs.protocol and not fs.client_kwargs.keys() - {"endpoint_url", "region_name"}:
        endpoint = fs.endpoint_url or fs.client_kwargs.get("endpoint_url")
        profile = fs.kwargs.get("profile")
        region = fs.client_kwargs.get("region_name")
        bucket = path.split("/", 1)[0]
        return _native_s3(
            fs.key,
            fs.secret,
            fs.token,
            anonymous=fs.anon,
            endpoint=endpoint,
            region=region,
            profile=profile,
            bucket=bucket,
            attempts=attempts,
        )
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs))


@lru_cache(maxsize=16)
def _native_s3(
    key: str | None,
    secret: str | None,
    token: str | None,
    *,
    anonymous: bool,
    endpoint: str | None,
    region: str | None,
    profile: str | None,
    bucket: str,
    attempts: int,
) -> pafs.S3FileSystem:
    import botocore.session

    session = botocore.session.Session(profile=profile)
    # The client makes no request; it only resolves environment and profile.
    client = session.create_client("s3", endpoint_url=endpoint, region_name=region or _region(session))
    if profile and not key and (found := session.get_credentials()) is not None:
        key, secret, token = found.access_key, found.secret_key, found.token
    where: dict[str, Any] = {"region": client.meta.region_name}
    if not client.meta.endpoint_url.endswith("amazonaws.com"):
        scheme, _, host = client.meta.endpoint_url.partition("://")
        where |= {"endpoint_override": host, "scheme": scheme}
    elif region is None and _region(session) is None:
        where["region"] = pafs.resolve_s3_region(bucket)
    who = {"anonymous": True} if anonymous else {"access_key": key, "secret_key": secret, "session_token": token}
    retries = pafs.AwsStandardS3RetryStrategy(max_attempts=attempts)
    return pafs.S3FileSystem(**who, **where, retry_strategy=retries, connect_timeout=5.0)


def _region(session: Any) -> str | None:
    found: str | None = session.get_config_variable("region") or os.environ.get("AWS_REGION")
    return found or ("us-east-1" if "AWS_ENDPOINT_URL" in os.environ else None)
