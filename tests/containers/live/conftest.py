"""Images for all tests of the folder, and sites that are started from them.

`make containers-test` builds the images and runs these tests in the containers' network namespace, where the gateways' addresses
are reached."""

import pytest

from infra.containers.__main__ import FOLDER
from infra.containers.images import REPOSITORY
from infra.containers.podman import ContainersError, Podman
from tests.machine import missing


@pytest.fixture(scope="session")
def podman() -> Podman:
    podman = Podman(FOLDER)
    try:
        podman("image", "exists", f"{REPOSITORY}/control")
    except ContainersError:
        missing("the images are not built", "`make containers-test` builds them and runs these tests", None)
    return podman
