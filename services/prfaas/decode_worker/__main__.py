"""The process `prfaas-decode-worker`."""

import sys

from prfaas.decode_worker.config import DecodeWorkerConfig
from prfaas.decode_worker.service import DecodeWorkerService
from prfaas.service.runner import run_service


def main() -> None:
    sys.exit(run_service(DecodeWorkerConfig, DecodeWorkerService))


if __name__ == "__main__":
    main()
