"""A WAN link as a process, and the command that changes one.

python -m prfaas.wan --listen 127.0.0.1:7500 --connect 127.0.0.1:7422 --rate-mbit 200 --rtt-ms 20 --control 127.0.0.1:7501
python -m prfaas.wan --change 127.0.0.1:7501 --rate-mbit 50        (also --state cut | half-open | up, --stall-s 3)

As a link it prints one line of JSON with the ports it listens on (port 0 picks one), and runs until SIGTERM or Ctrl-C.
"""

import argparse
import asyncio
import json
import signal
import sys

import msgspec
import uvloop

from prfaas.site.link_shape import LinkShape
from prfaas.wan.control import LinkChange, LinkControlError, change_link, serve_control
from prfaas.wan.proxy import WanProxy


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no address, expected host:port")
    return host, int(port)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m prfaas.wan", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--connect", type=_address, metavar="HOST:PORT", help="the server at the link's other end")
    parser.add_argument("--control", type=_address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--change", type=_address, metavar="HOST:PORT", help="the control port of a running link to change")
    for name in ("--rate-mbit", "--rtt-ms", "--jitter-ms", "--loss", "--queue-ms", "--stall-s"):
        parser.add_argument(name, type=float)
    parser.add_argument("--state", choices=["up", "cut", "half-open"])
    arguments = parser.parse_args()
    if (arguments.connect is None) == (arguments.change is None):
        parser.error("give --connect to run a link, or --change to change one")
    return arguments


async def _run_link(arguments: argparse.Namespace, shape: LinkShape) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with WanProxy(arguments.connect, shape, arguments.listen) as proxy:
        control = await serve_control(proxy, *arguments.control)
        ports = {"port": proxy.port, "control-port": control.sockets[0].getsockname()[1]}
        print(json.dumps(ports), flush=True)
        await stop.wait()
        control.close()


def main() -> None:
    arguments = _arguments()
    given = {name.replace("_", "-"): value for name, value in vars(arguments).items() if value is not None}
    fields = ("rate-mbit", "rtt-ms", "jitter-ms", "loss", "queue-ms", "state", "stall-s")
    given = {name: value for name, value in given.items() if name in fields}
    try:
        if arguments.change:
            host, port = arguments.change
            status = uvloop.run(change_link(host, port, msgspec.convert(given, LinkChange)))
            print(msgspec.json.format(msgspec.json.encode(status)).decode())
        else:
            uvloop.run(_run_link(arguments, msgspec.convert(given, LinkShape)))
    except (ValueError, LinkControlError) as error:
        sys.exit(f"python -m prfaas.wan: {error}")


if __name__ == "__main__":
    main()
