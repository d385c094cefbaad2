"""Keys of one process's site and of the sites that it shares sealed messages with, as their files have them."""

from pathlib import Path

from prfaas.sealing.config import SealingConfig
from prfaas.sealing.keys import KeyFile, PrivateKey, PublicKey


class SiteKeys:
    def __init__(self, config: SealingConfig) -> None:
        """Raises KeyFileError."""
        self.own = KeyFile(Path(config.private_key_file), PrivateKey.parse) if config.private_key_file else None
        """None: nothing is sealed by or for this site."""
        self.peers = {site: KeyFile(Path(path), PublicKey.parse) for site, path in config.peers.items()}
