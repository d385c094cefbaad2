"""`prfaas-gateway`, and `python -m prfaas_gateway`."""

import sys

from prfaas.process.runner import run_service
from prfaas_gateway.config import GatewayConfig
from prfaas_gateway.service import GatewayService


def main() -> None:
    sys.exit(run_service(GatewayConfig, GatewayService))


if __name__ == "__main__":
    main()
