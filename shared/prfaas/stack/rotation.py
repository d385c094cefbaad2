"""Keys and certificates of running sites replaced, while their services go on.

Nothing is cut before its successor is in use. A certificate is taken by reload; open connections stay. A user's key has a time in
which its server takes both: processes see the new seed and connect again, and only when no connection uses the old key is it
taken out. A sealing key is known to its readers before anything is sealed with it, and forgotten when nothing sealed with it is
left.

`prfaas up` rotates everything when it gets SIGUSR1.
"""

import asyncio
import time
from collections.abc import Callable

from prfaas.sealing.keys import PrivateKey
from prfaas.site.key_rotation import RotationStep, next_step, take_step
from prfaas.site.site_keys import ensure_key, old_file
from prfaas.stack.running_sites import RunningSites

CONNECTIONS_DEADLINE_S = 120.0
"""Time for all processes to have connected with their new keys."""
SEALED_JOBS_S = 60.0
"""Time for jobs that were sealed with an old key to be taken; one that is taken later is refused, and tried again elsewhere."""
_POLL_S = 0.5


class RotationError(Exception):
    """Raised when old keys are still in use at the deadline. They stay valid; the message names their users' sites."""


class Rotation:
    def __init__(self, sites: RunningSites, progress: Callable[[str], None] = lambda line: None) -> None:
        self._sites = sites
        self._progress = progress

    async def everything(self) -> None:
        """Rotates certificates, users' keys and sealing keys. Raises NatsServerError, RotationError."""
        await self.certificates()
        await self.user_keys()
        await self.sealing_keys()

    async def certificates(self) -> None:
        """Signs new certificates and has all servers take them. Raises NatsServerError."""
        for name in self._sites.keys:
            self._sites.keys[name].renew_certificate()
        await self._reload()
        self._progress("certificates are renewed")

    async def user_keys(self, deadline_s: float = CONNECTIONS_DEADLINE_S) -> None:
        """Replaces the keys of all users: operators, services, leaf connections. Ends a rotation that could not end before.

        Raises NatsServerError, RotationError."""
        files = [file for keys in self._sites.keys.values() for file in keys.seed_files()]
        while (step := next_step(files)) is not RotationStep.DROP:
            take_step(step, files)
            await self._reload()
        old = [old_file(file) for file in files if old_file(file).exists()]
        await self._until_unused({ensure_key(file).public for file in old}, deadline_s)
        take_step(RotationStep.DROP, files)
        await self._reload()
        self._progress(f"{len(old)} users have new keys")

    async def sealing_keys(self, sealed_jobs_s: float = SEALED_JOBS_S) -> None:
        """Replaces the key of each site that seals, or is sealed for."""
        peers = {name: self._sites.description.sealing_peers(name) for name in self._sites.keys}
        sealing = {name: self._sites.sealing_keys[name] for name, own in peers.items() if own}
        old = {name: keys.ensure()[:1] for name, keys in sealing.items()}
        new = {name: [PrivateKey.generate()] for name in sealing}
        for name, keys in sealing.items():
            # Readers learn both first: the private one to open with, the public one to know the author by.
            keys.write(old[name] + new[name])
            for peer in peers[name]:
                keys.write_peer(peer, old[peer] + new[peer])
        for name, keys in sealing.items():
            for peer in peers[name]:
                keys.write_peer(peer, new[peer] + old[peer])
            keys.write(new[name] + old[name])
        await asyncio.sleep(sealed_jobs_s)
        for name, keys in sealing.items():
            keys.write(new[name])
            for peer in peers[name]:
                keys.write_peer(peer, new[peer])
        if sealing:
            self._progress(f"{len(sealing)} sites have new sealing keys")

    async def _reload(self) -> None:
        """Raises NatsServerError."""
        for server in self._sites.servers.values():
            await server.reload()
        await self._sites.wait_joined()

    async def _until_unused(self, keys: set[str], deadline_s: float) -> None:
        """Returns when no connection was made with one of the keys. Raises RotationError."""
        until_at = time.monotonic() + deadline_s
        while users := await self._users_of(keys):
            if time.monotonic() > until_at:
                raise RotationError(f"after {deadline_s:g} s the old keys are still used by {', '.join(sorted(users))}")
            await asyncio.sleep(_POLL_S)

    async def _users_of(self, keys: set[str]) -> set[str]:
        """Returns site and name of each client that is connected with one of the keys."""
        found = set()
        for name, server in self._sites.servers.items():
            page = await server.monitor("connz?auth=1&limit=4096")
            found |= {
                f"{name}/{connection.get('name', connection['cid'])}"
                for connection in page["connections"] or []
                if {connection.get("authorized_user"), connection.get("nkey")} & keys
            }
        return found
