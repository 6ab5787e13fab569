"""How a client reaches a server: directly, or through a proxy that the environment names."""

from dataclasses import dataclass
from urllib.request import getproxies, proxy_bypass

import httpx

from ldm_ray.loopback import is_loopback


@dataclass(frozen=True)
class Way:
    """The way to a server.

    Attributes:
        proxy: URL of the proxy; empty: none.
        words: Part of an error's text that names the proxy; empty if there is none.
    """

    proxy: str
    words: str

    def transport(self) -> httpx.HTTPTransport:
        """Build what carries requests; it looks for no proxy of its own.

        Raises:
            ValueError: If httpx cannot use the proxy.
        """
        try:
            return httpx.HTTPTransport(proxy=self.proxy or None)
        except (ImportError, httpx.InvalidURL) as error:  # SOCKS needs a package more
            raise ValueError(str(error)) from None


def way_to(host: str, scheme: str) -> Way:
    """Find the way to a host: directly to this machine and to those in `NO_PROXY`, else as the environment says."""
    proxies = {} if is_loopback(host) or proxy_bypass(host) else getproxies()
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    if not proxy:
        return Way("", "")
    scheme, _, rest = proxy.rpartition("://")
    proxy, named = f"{scheme or 'http'}://{rest}", f"{scheme or 'http'}://{rest.rpartition('@')[2]}"  # no password
    return Way(proxy, f" through the proxy {named} (NO_PROXY={host} avoids it)")
