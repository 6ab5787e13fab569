"""`ldm-ray serve`: the endpoint and its page on one machine."""

import threading
from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Overrides, settings
from ldm_ray.console import say, spinning
from ldm_ray.errors import SettingsError

EPILOG = (
    "Examples: `ldm-ray serve --bundle demo/ldm`; `ldm-ray serve --bundle new=runs/a --bundle old=runs/b --port 9000`."
    " With LDM_RAY_TOKEN set, requests must carry it. For a cluster: `serve deploy serve_config.yaml`"
)


def serve(
    bundle: Annotated[list[str], typer.Option(help="Folder URL of a diffusion model, or name=URL; repeatable.")],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: all.")] = "",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 0,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Serve predictions over HTTP, with a page at /, until Ctrl-C."""
    own = [*([f"serve.host={host}"] if host else []), *([f"serve.port={port}"] if port else [])]
    resolved = settings(config, overrides, None, *own)
    named = [_named(text) for text in bundle]
    bundles = dict(named)
    if len(bundles) < len(named):
        raise SettingsError(f"models must have different names; got {', '.join(name for name, _ in named)}")
    from ldm_ray.cluster.serve.start import check_bundles, serving

    check_bundles(bundles, resolved.storage_options)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        with spinning("starting"):
            stack.enter_context(serving(bundles, resolved))
        where = f"http://{resolved.serve.host}:{resolved.serve.port}/"
        say(f"serving {', '.join(bundles)} at {where} (API: {where}docs); Ctrl-C ends")
        threading.Event().wait()


def _named(text: str) -> tuple[str, str]:
    """Split name=URL; a URL alone is called by its last part."""
    name, equals, url = text.partition("=")
    return (name, url) if equals and "/" not in name else (text.rstrip("/").rsplit("/", 1)[-1], text)
