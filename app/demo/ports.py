"""Ports on loopback."""

from __future__ import annotations

import socket


def available(host: str, port: int) -> int:
    """``port`` if it can be listened on, else a free one."""
    return port if _is_free(host, port) else _any(host)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _any(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
