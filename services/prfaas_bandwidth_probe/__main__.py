"""The process `prfaas-bandwidth-probe`."""

import sys

from prfaas.process.runner import run_service
from prfaas_bandwidth_probe.config import BandwidthProbeConfig
from prfaas_bandwidth_probe.service import BandwidthProbeService


def main() -> None:
    sys.exit(run_service(BandwidthProbeConfig, BandwidthProbeService))


if __name__ == "__main__":
    main()
