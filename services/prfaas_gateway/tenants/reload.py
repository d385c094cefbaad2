"""The tenants file, read again whenever it changes."""

import asyncio
from pathlib import Path
from typing import Final

from prfaas.secrets.tenants_file import TenantsError, load_tenants
from prfaas.telemetry.logs import get_logger
from prfaas_gateway.tenants.directory import Directory
from prfaas_gateway.tenants.metrics import TenantMetrics

LOOK_EVERY_S: Final = 1.0

log = get_logger(__name__)

Signature = tuple[int, int, int, int]
"""Inode, size, mode and time of change of a file: another one after every way to change it."""


def signature_of(path: Path) -> Signature | None:
    """Returns None for a file that is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mode, status.st_ctime_ns


async def keep_reading(path: Path, read: Signature | None, directory: Directory, metrics: TenantMetrics) -> None:
    """Takes each new content of the file; `read` is the signature of the present one. One that cannot be used changes nothing."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        if (found := await asyncio.to_thread(signature_of, path)) == read:
            continue
        read = found
        try:
            tenants = await asyncio.to_thread(load_tenants, path)
        except TenantsError as error:
            metrics.reloaded("refused")
            log.error("tenants_file_refused", error=str(error), reason="the tenants that were read before stay")
            continue
        directory.take(tenants, asyncio.get_running_loop().time())
        metrics.reloaded("taken")
        log.info("tenants_file_taken", tenants=len(tenants.tenants), keys=len(tenants.keys) - len(tenants.revoked))
