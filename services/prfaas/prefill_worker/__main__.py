"""The process `prfaas-prefill-worker`."""

import sys

from prfaas.prefill_worker.config import PrefillWorkerConfig
from prfaas.prefill_worker.service import PrefillWorkerService
from prfaas.service.runner import run_service


def main() -> None:
    sys.exit(run_service(PrefillWorkerConfig, PrefillWorkerService))


if __name__ == "__main__":
    main()
