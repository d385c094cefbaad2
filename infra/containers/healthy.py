#!/opt/prfaas/bin/python
"""Health check of a service's container: exit code 0 while the service says that it is ready."""

import os
import sys
import urllib.error
import urllib.request

_TIMEOUT_S = 4.0
_ANYWHERE = "0.0.0.0"


def main() -> int:
    host = os.environ.get("PRFAAS_HTTP_HOST", _ANYWHERE)
    url = f"http://{'127.0.0.1' if host == _ANYWHERE else host}:{os.environ['PRFAAS_HTTP_PORT']}/ready"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
            print(response.read().decode(errors="replace"))
        return 0
    except urllib.error.HTTPError as error:
        print(error.read().decode(errors="replace"))
    except OSError as error:
        print(f"{url} does not answer: {error}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
