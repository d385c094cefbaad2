"""nats-server asked whether it takes a rendered configuration."""

import subprocess
from pathlib import Path

from prfaas.stack.nats_server import server_binary


def assert_server_takes(config: Path) -> None:
    checked = subprocess.run([server_binary(), "-t", "-c", config], capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stderr
