"""The process `prfaas-scheduler`."""

import sys

from prfaas.process.runner import run_service
from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.service import SchedulerService


def main() -> None:
    sys.exit(run_service(SchedulerConfig, SchedulerService))


if __name__ == "__main__":
    main()
