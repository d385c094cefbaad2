"""The demo's requests as a result and a report, such as `prfaas replay` writes."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from prfaas.replay.report_html import write_report
from prfaas.replay.results import ClientCost, Run, Setup, save_run
from prfaas.replay.rows import RequestRow, Slo
from prfaas.replay.run import machine, versions
from prfaas.replay.summary import summarize

RESULT_FILE, REPORT_FILE = "report.json", "report.html"


def write_demo_report(
    rows: Sequence[RequestRow], *, model: str, url: str, started_at: datetime.datetime, directory: Path
) -> Path:
    """Returns the report's path. Raises ResultError."""
    end_s = max((row.last_s or row.due_s for row in rows), default=0.0) + 1e-6
    slo = Slo()
    run = Run(
        setup=Setup(
            title=f"Demo: {model} on two sites of this machine",
            target=url,
            model=model,
            endpoint="completions",
            workload=None,
            survey=None,
            prompts="The demo's prompts, one after the other.",
            slo=slo,
            warm_up_s=0.0,
            started_at=started_at.isoformat(timespec="microseconds"),
            command=f"make demo MODEL={model}",
            versions=versions(),
            machine=machine(),
            notes=["A handful of requests: for figures about load there is `prfaas replay`."],
        ),
        end_s=end_s,
        interrupted=False,
        client=ClientCost(processes=1, cpu_cores=0.0, peak_rss_bytes=0),
        metrics=[],
        summary=summarize(rows, slo, 0.0, end_s),
        requests=list(rows),
    )
    save_run(run, directory / RESULT_FILE)
    write_report([run], directory / REPORT_FILE)
    return directory / REPORT_FILE
