"""`prfaas-gateway`, and `python -m prfaas.gateway`."""

import sys

from prfaas.gateway.config import GatewayConfig
from prfaas.gateway.service import GatewayService
from prfaas.service.runner import run_service


def main() -> None:
    sys.exit(run_service(GatewayConfig, GatewayService))


if __name__ == "__main__":
    main()
