"""Addresses of this machine, which no proxy of the environment can reach."""

import ipaddress
import os

NAMES = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine: localhost, 127.0.0.0/8, ::1, or 0.0.0.0 and ::, which servers listen on."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def keep_from_proxies(*hosts: str) -> None:
    """Add this machine, and other hosts, to `no_proxy`, for libraries that follow the environment's proxies.

    Args:
        hosts: Further hosts that are to be reached directly.
    """
    spellings = ("no_proxy", "NO_PROXY")
    if not any(name.lower().endswith("_proxy") for name in os.environ if name not in spellings):
        return
    # Libraries read one spelling or the other; both get what either says.
    given = [host.strip() for name in spellings for host in os.environ.get(name, "").split(",")]
    if "*" not in given:  # else nothing goes to a proxy, and some libraries know * only if it stands alone
        kept = ",".join(dict.fromkeys(host for host in (*given, *NAMES, *hosts) if host))
        os.environ.update(dict.fromkeys(spellings, kept))
