"""The process `prfaas-prefill-worker`."""

import sys

from prfaas.process.runner import run_service
from prfaas_prefill_worker.config import PrefillWorkerConfig
from prfaas_prefill_worker.service import PrefillWorkerService


def main() -> None:
    sys.exit(run_service(PrefillWorkerConfig, PrefillWorkerService))


if __name__ == "__main__":
    main()
