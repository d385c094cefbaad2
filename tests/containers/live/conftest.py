"""Two sites in real containers, from the example's description, for all tests of the folder.

`make containers-test` builds the images and runs these tests in the containers' network namespace, where the gateway's address is
reached."""

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from infra.containers.__main__ import FOLDER
from infra.containers.images import REPOSITORY
from infra.containers.podman import ContainersError, Podman
from infra.containers.running import Containers, wait_for
from load.emulated_stack import right_answer
from prfaas.cli.__main__ import main as prfaas
from prfaas.site.sites import Description, load_description

EXAMPLE = Path(__file__).parents[3] / "examples/containers.toml"
PROMPT_TOKENS, OUTPUT_TOKENS = 700, 4
READY_DEADLINE_S = 180.0
RESUME_DEADLINE_S = 60.0
"""Bound of the wait for offloading to resume. It takes up to about 15 s until a half-open leaf connection is noticed; with
nats-server's own settings it would take minutes."""
CONTAINER_USER_ID = 10001
_PAGE = """\
import os, urllib.request
host = os.environ["PRFAAS_HTTP_HOST"]
print(urllib.request.urlopen(f"http://{host}:8000/metrics").read().decode())
"""


class Answer(NamedTuple):
    status: int
    outcome: str
    prefill_site: str
    reason: str
    text: str


class Sites:
    """The running sites, as a client of the gateway and as an operator."""

    def __init__(self, containers: Containers, description: Description) -> None:
        self.containers = containers
        self.description = description
        self._random = random.Random(1)

    @property
    def url(self) -> str:
        return f"http://{self.containers.addresses('home-gateway')['home']}:8000"

    def prompt(self) -> list[int]:
        """Returns a prompt that no cache holds."""
        return [self._random.randrange(1, 250) for _ in range(PROMPT_TOKENS)]

    def right_answer(self, prompt: Sequence[int], output_tokens: int = OUTPUT_TOKENS) -> str:
        return right_answer(self.description, prompt, output_tokens)

    def body(self, prompt: Sequence[int], output_tokens: int = OUTPUT_TOKENS) -> dict[str, Any]:
        return {"model": self.description.model, "prompt": list(prompt), "max_tokens": output_tokens, "temperature": 0}

    def ask(self) -> Answer:
        """Asks a new prompt; a 200 with a wrong answer fails the test at once."""
        prompt = self.prompt()
        headers = {"x-prfaas-ttft-deadline-s": "60"}
        with httpx.Client(timeout=120.0) as client:
            response = client.post(f"{self.url}/v1/completions", json=self.body(prompt), headers=headers)
        if response.status_code != 200:
            return Answer(response.status_code, "", "", response.text, "")
        text = response.json()["choices"][0]["text"]
        assert text == self.right_answer(prompt), "a wrong answer with status 200"
        names = ("x-prfaas-outcome", "x-prfaas-prefill-site", "x-prfaas-reason")
        outcome, site, reason = (response.headers[name] for name in names)
        return Answer(200, outcome, site, reason, text)

    def ask_until(self, *outcomes: str, timeout_s: float = RESUME_DEADLINE_S, always_answered: bool = True) -> list[Answer]:
        """Asks until an answer has one of these outcomes, and returns all. With `always_answered` each must have status 200."""
        answers: list[Answer] = []

        def reached() -> bool:
            answers.append(self.ask())
            assert answers[-1].status == 200 or not always_answered, answers[-1]
            return answers[-1].outcome in outcomes

        took_s = wait_for(f"an answer with outcome {' or '.join(outcomes)}", reached, timeout_s, lambda: answers[-3:])
        print(f"{answers[-1].outcome} after {took_s:.1f} s: {[answer.outcome for answer in answers]}")
        return answers

    def metric(self, service: str, name: str) -> float | None:
        """Returns the first sample of a metric of a service; None when there is none."""
        page = self.containers.execute(service, "python", "-c", _PAGE)
        found = [line.rpartition(" ")[2] for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return float(found[0]) if found else None


@pytest.fixture(scope="session")
def podman() -> Podman:
    podman = Podman(FOLDER)
    try:
        podman("image", "exists", f"{REPOSITORY}/control")
    except ContainersError as error:
        told = "the images are not built; `make containers-test` builds them and runs these tests"
        if os.environ.get("CI") == "true":
            raise ContainersError(told) from error
        pytest.skip(told)
    return podman


@pytest.fixture(scope="session")
def sites(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    folder = tmp_path_factory.mktemp("sites")
    assert prfaas(["site", "compose", "--sites", str(EXAMPLE), "--directory", str(folder)]) == 0
    for path in folder.rglob("*"):
        os.chown(path, CONTAINER_USER_ID, CONTAINER_USER_ID)
    containers = Containers(podman, folder)
    try:
        containers.up()
        sites = Sites(containers, load_description(EXAMPLE))
        try:
            wait_for("the gateway is ready", lambda: containers.check_health("home-gateway"), READY_DEADLINE_S)
            sites.ask_until("offloaded", timeout_s=READY_DEADLINE_S, always_answered=False)
        except ContainersError:
            for name in containers.names():
                print(f"== {name}\n{containers.log_end(name)}")
            raise
        yield sites
    finally:
        containers.down()
