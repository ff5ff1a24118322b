"""Ray on this machine alone.

- :func:`start_ray`: joins the cluster that is named, or starts one that nobody else can reach.
"""

from __future__ import annotations

import os
import secrets
from typing import Any

import ray
from ray._private import ray_constants

__all__ = ["start_ray"]

_AUTHENTICATION = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}


def start_ray(**options: Any) -> None:
    """Joins the cluster that the environment variable ``RAY_ADDRESS`` names, else starts one for this process.

    Whoever can reach Ray's ports can run code. By itself ``ray.init()`` listens on every interface. The cluster that is
    started here listens on 127.0.0.1, and its processes know each other by a token that is drawn anew each time and
    kept in their environment alone (the file that Ray would write can be read by every user of the machine). Ray's own
    variables, ``RAY_AUTH_MODE`` and ``RAY_AUTH_TOKEN`` or ``RAY_AUTH_TOKEN_PATH``, say otherwise where they are set.

    Not so: the store by which several learners meet (torch's ``TCPStore``) listens on every interface.

    Args:
        options: Those of ``ray.init``.
    """
    options = {"include_dashboard": False, **options}
    if "RAY_ADDRESS" not in os.environ:
        options["address"] = "local"  # not one that happens to run on this machine
        # RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, which Ray reads when it is imported: the node's address is 127.0.0.1.
        ray_constants.ENABLE_RAY_CLUSTER = False
        for backend in ("GLOO", "NCCL"):  # learners among each other
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")
        if not _AUTHENTICATION & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # Ray switches its use on
    ray.init(**options)
