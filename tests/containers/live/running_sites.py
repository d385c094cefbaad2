"""Sites of a description in real containers, and a client of their gateways."""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from infra.containers.podman import ContainersError, Podman
from infra.containers.running import Containers, wait_for
from load.emulated_stack import right_answer
from prfaas.cli.__main__ import main as prfaas
from prfaas.site.sites import Description, Role, load_description

PROMPT_TOKENS, OUTPUT_TOKENS = 700, 4
READY_DEADLINE_S = 180.0
CONTAINER_USER_ID = 10001
_PAGE = """\
import os, urllib.request
host = os.environ["PRFAAS_HTTP_HOST"]
print(urllib.request.urlopen(f"http://{host}:8000/metrics").read().decode())
"""


class Answer(NamedTuple):
    site: str
    status: int
    outcome: str
    prefill_site: str
    reason: str


class Sites:
    """The running sites, as a client of a gateway and as an operator."""

    def __init__(self, containers: Containers, description: Description) -> None:
        self.containers = containers
        self.description = description
        self.pd_sites = [each.site for each in description.services if each.role is Role.GATEWAY]
        self._random = random.Random(1)

    def gateway_url(self, site: str = "") -> str:
        """Returns the address of a site's gateway, by default of the first site that has one."""
        site = site or self.pd_sites[0]
        return f"http://{self.containers.addresses(f'{site}-gateway')[site]}:8000"

    def prompt(self) -> list[int]:
        """Returns a prompt that no cache holds."""
        return [self._random.randrange(1, 250) for _ in range(PROMPT_TOKENS)]

    def right_answer(self, prompt: Sequence[int], output_tokens: int = OUTPUT_TOKENS) -> str:
        return right_answer(self.description, prompt, output_tokens)

    def body(self, prompt: Sequence[int], output_tokens: int = OUTPUT_TOKENS) -> dict[str, Any]:
        return {"model": self.description.model, "prompt": list(prompt), "max_tokens": output_tokens, "temperature": 0}

    def ask(self, site: str = "") -> Answer:
        """Asks a new prompt; a 200 with a wrong answer fails the test at once."""
        return self.ask_at(self.gateway_url(site), site)

    def ask_at(self, url: str, site: str = "") -> Answer:
        """Asks as `ask` does, at an address that is known."""
        prompt = self.prompt()
        headers = {"x-prfaas-ttft-deadline-s": "60"}
        with httpx.Client(timeout=120.0) as client:
            response = client.post(f"{url}/v1/completions", json=self.body(prompt), headers=headers)
        if response.status_code != 200:
            return Answer(site, response.status_code, "", "", response.text)
        assert response.json()["choices"][0]["text"] == self.right_answer(prompt), "a wrong answer with status 200"
        names = ("x-prfaas-outcome", "x-prfaas-prefill-site", "x-prfaas-reason")
        return Answer(site, 200, *(response.headers[name] for name in names))

    def ask_until(self, *outcomes: str, timeout_s: float, site: str = "", always_answered: bool = True) -> list[Answer]:
        """Asks until an answer has one of these outcomes, and returns all. With `always_answered` each must have status 200."""
        answers: list[Answer] = []

        def reached() -> bool:
            answers.append(self.ask(site))
            assert answers[-1].status == 200 or not always_answered, answers[-1]
            return answers[-1].outcome in outcomes

        took_s = wait_for(f"an answer with outcome {' or '.join(outcomes)}", reached, timeout_s, lambda: answers[-3:])
        print(f"{answers[-1].outcome} after {took_s:.1f} s: {[answer.outcome for answer in answers]}")
        return answers

    def wait_offloading(self, site: str) -> None:
        """Returns when the site's gateway is ready and a prompt of it was prefilled in another site."""
        name = f"{site}-gateway"
        wait_for(f"{name} is ready", partial(self.containers.check_health, name), READY_DEADLINE_S)
        self.ask_until("offloaded", site=site, timeout_s=READY_DEADLINE_S, always_answered=False)

    def metric(self, service: str, name: str) -> float | None:
        """Returns the first sample of a metric of a service; None when there is none."""
        page = self.containers.execute(service, "python", "-c", _PAGE)
        found = [line.rpartition(" ")[2] for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return float(found[0]) if found else None


@contextmanager
def running_sites(podman: Podman, example: Path, folder: Path) -> Iterator[Sites]:
    """Renders a description into a folder, starts all of its sites, and removes them afterwards."""
    assert prfaas(["site", "compose", "--sites", str(example), "--directory", str(folder)]) == 0
    for path in folder.rglob("*"):
        os.chown(path, CONTAINER_USER_ID, CONTAINER_USER_ID)
    containers = Containers(podman, folder)
    try:
        containers.up()
        sites = Sites(containers, load_description(example))
        try:
            for site in sites.pd_sites:
                sites.wait_offloading(site)
        except ContainersError:
            for name in containers.names():
                print(f"== {name}\n{containers.log_end(name)}")
            raise
        yield sites
    finally:
        containers.down()
