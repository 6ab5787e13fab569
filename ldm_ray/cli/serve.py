"""`ldm-ray serve`: the endpoint and its page on one machine."""

import threading
from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from ldm_ray.cli.options import ConfigFile, Overrides, settings
from ldm_ray.console import say, spinning
from ldm_ray.errors import SettingsError

EPILOG = (
    "Examples:\n\n\n\n- `ldm-ray serve --bundle demo/ldm`\n\n"
    "- `ldm-ray serve --bundle new=runs/a --bundle old=runs/b --port 9000`\n\n"
    "- on a cluster: `serve deploy serve_config.yaml`\n\n\n\n"
    "If LDM_RAY_TOKEN is set, requests must carry it as a bearer token."
)


def serve(
    bundle: Annotated[
        list[str], typer.Option(help="Bundle of a diffusion model: path or URL, or name=URL; repeatable.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; default: 127.0.0.1; 0.0.0.0: all.")] = "",
    port: Annotated[int, typer.Option(help="Port to listen on; default: 8000.", show_default=False)] = 0,
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
    from ldm_ray.bundle.presence import require_bundle

    for url in bundles.values():
        require_bundle(url, resolved.storage_options)
    from ldm_ray.cluster.serve.start import check_bundles, serving

    check_bundles(bundles, resolved.storage_options)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        with spinning("starting"):
            stack.enter_context(serving(bundles, resolved))
        where = f"http://{resolved.serve.host}:{resolved.serve.port}/"
        say(f"serving {', '.join(bundles)} at {where} (API: {where}docs); Ctrl-C stops")
        threading.Event().wait()


def _named(text: str) -> tuple[str, str]:
    """Split name=URL; a URL alone takes its last part as its name."""
    name, equals, url = text.partition("=")
    return (name, url) if equals and "/" not in name else (text.rstrip("/").rsplit("/", 1)[-1], text)
