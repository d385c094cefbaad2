"""The process `prfaas-decode-worker`."""

import sys

from prfaas.process.runner import run_service
from prfaas_decode_worker.config import DecodeWorkerConfig
from prfaas_decode_worker.service import DecodeWorkerService


def main() -> None:
    sys.exit(run_service(DecodeWorkerConfig, DecodeWorkerService))


if __name__ == "__main__":
    main()
