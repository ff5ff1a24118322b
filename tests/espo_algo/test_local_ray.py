"""A cluster of one's own: who can reach it. In processes of their own, because the tests have a Ray already."""

from __future__ import annotations

import os
import subprocess
import sys

LISTENERS = '''
import os, psutil, ray, subprocess, sys
from espo_algo.local_ray import start_ray

start_ray(num_cpus=1, logging_level="ERROR", log_to_driver=False)
remote = ray.remote(lambda: 7)
print(ray.get(remote.remote()))
me = psutil.Process()
sockets = [c for p in [me, *me.children(recursive=True)] for c in p.net_connections("inet")]
found = [c.laddr.ip for c in sockets if c.status == "LISTEN"]
print(len(found), {ip.removeprefix("::ffff:") for ip in found})
code = f"""
from ray._raylet import GcsClient
client = GcsClient(address={ray.get_runtime_context().gcs_address!r})
print(len(client.internal_kv_keys(b"", timeout=10)))
"""
for token in (os.environ["RAY_AUTH_TOKEN"], "0" * 64):
    asks = {**os.environ, "RAY_AUTH_TOKEN": token}
    out = subprocess.run([sys.executable, "-c", code], env=asks, capture_output=True, text=True)
    print(out.stdout.strip() or out.stderr.splitlines()[-1])
'''


def test_it_listens_on_loopback_alone_and_knows_its_own_by_a_token(tmp_path):
    """It listened on every interface, without a token where the Makefile had started it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["HOME"] = str(tmp_path)
    out = subprocess.run([sys.executable, "-c", LISTENERS], env=environment, capture_output=True, text=True, check=True)
    answer, listeners, known, stranger = out.stdout.splitlines()
    number, addresses = listeners.split(" ", 1)
    assert answer == "7"
    assert int(number) >= 4  # the server, the node, workers
    assert addresses == "{'127.0.0.1'}"
    assert int(known) > 0
    assert "uthenticat" in stranger
    assert not list(tmp_path.rglob("auth_token"))  # Ray's file can be read by everybody
