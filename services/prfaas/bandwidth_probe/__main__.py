"""The process `prfaas-bandwidth-probe`."""

import sys

from prfaas.bandwidth_probe.config import BandwidthProbeConfig
from prfaas.bandwidth_probe.service import BandwidthProbeService
from prfaas.service.runner import run_service


def main() -> None:
    sys.exit(run_service(BandwidthProbeConfig, BandwidthProbeService))


if __name__ == "__main__":
    main()
