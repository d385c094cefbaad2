"""Scrape targets of a running stack, in the form of Prometheus' file_sd_configs."""

import json
from pathlib import Path

from prfaas.stack.stack import Stack


def targets(stack: Stack) -> list[dict[str, object]]:
    """Returns one entry per service, with the labels `site`, `role` and `name`."""
    return [
        {
            "targets": [f"127.0.0.1:{process.http_port}"],
            "labels": {"site": site, "role": process.role, "name": name},
        }
        for (site, name), process in stack.services.items()
    ]


def write_targets(stack: Stack, path: Path) -> None:
    """Replaces the file in one step: Prometheus reads it at any moment."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(targets(stack), indent=2))
    fresh.replace(path)
