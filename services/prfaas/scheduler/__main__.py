"""The process `prfaas-scheduler`."""

import sys

from prfaas.scheduler.config import SchedulerConfig
from prfaas.scheduler.service import SchedulerService
from prfaas.service.runner import run_service


def main() -> None:
    sys.exit(run_service(SchedulerConfig, SchedulerService))


if __name__ == "__main__":
    main()
