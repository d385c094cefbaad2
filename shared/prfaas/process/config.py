"""Typed configuration: a TOML file, then the environment, then flags; a later source wins key by key.

Keys are kebab-case and nested by dots: `control.url` is `[control] url = ...` in the file, `PRFAAS_CONTROL__URL` in the
environment and `--control.url` on the command line. A key may begin with a role, as in `decode-worker.slots` or the table
`[decode-worker]`: then only processes of that role read it, and to them it counts more than the plain one of the same source. So
several roles can share a file.
"""

import secrets
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import msgspec

from prfaas.bus.endpoint import UNSET_SITE, NatsEndpoint
from prfaas.contracts.fields import SubjectToken
from prfaas.process.config_schema import ConfigError, Schema, take_string
from prfaas.process.http import IDLE_TIMEOUT_S
from prfaas.process.platform_variables import is_platforms
from prfaas.secrets.secret_files import SecretFileError, read_secret

__all__ = ["ConfigError", "ServiceConfig", "SubjectToken", "load_config"]

PLAIN_VARIABLES = frozenset({"CACHE_DIR", "TEST_FAULT_POINTS"})
"""Variables with our prefix that are no configuration keys. Other modules read them, the same for every process of a host."""

ROLES = frozenset({"gateway", "scheduler", "prefill-worker", "decode-worker", "bandwidth-probe"})
"""Roles whose keys a source may hold; each service's own `role` is one of them."""


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Keys that all services share. Each service subclasses it (`kw_only=True` is not inherited) and sets `role`."""

    role: ClassVar[str] = "service"
    gone: ClassVar[Mapping[str, str]] = {}
    """Settings of earlier versions, each a key or `key = value`, and what there is instead: the end of a sentence."""

    site: SubjectToken
    """Name of the site that this process belongs to."""
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]*$", max_length=64)] = ""
    """Name of this instance, unique in its site; empty: the role and a random suffix."""
    control: NatsEndpoint
    """Control account on the site's own server."""
    bulk: NatsEndpoint | None = None
    """Bulk account on the same server, for processes that move KV."""
    http_host: str = "127.0.0.1"
    """Address for /health, /ready and /metrics (and the gateway's API)."""
    http_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """0: any free port; the `ready` line of the log says which."""
    http_shared_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """A second port, which several gateways of a host may listen on at once (SO_REUSEPORT); each keeps `http-port` for itself. It
    is open while the process takes requests. 0: none."""
    http_idle_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = IDLE_TIMEOUT_S
    """Time that an HTTP connection may stay open without a request; longer than the pools of most clients keep theirs."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    drain_s: Annotated[float, msgspec.Meta(ge=0)] = 20.0
    """Time that running work may take to finish after SIGTERM."""

    def check_files(self) -> None:
        """Reads the files that the keys name. Raises ConfigError for a secret that is not there, or that others may read."""
        for key, endpoint in (("control", self.control), ("bulk", self.bulk)):
            if endpoint is not None and endpoint.nkey_seed_file is not None:
                try:
                    read_secret(Path(endpoint.nkey_seed_file))
                except SecretFileError as error:
                    raise ConfigError(f"key `{key}.nkey-seed-file`: {error}.") from error

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec reports as a ValidationError; the message begins with the key."""
        for key, endpoint in (("control", self.control), ("bulk", self.bulk)):
            if endpoint is not None and (problem := endpoint.problem()):
                expected = "expected nats://host:port or tls://host:port"
                raise ValueError(f"`{key}.url` is {endpoint.url!r}, which {problem}; {expected}")
        if not self.name:
            msgspec.structs.force_setattr(self, "name", f"{self.role}-{secrets.token_hex(4)}")
        for key in ("control", "bulk"):
            endpoint = getattr(self, key)
            if endpoint is not None and endpoint.site == UNSET_SITE:
                msgspec.structs.force_setattr(self, key, msgspec.structs.replace(endpoint, site=self.site))


class Setting(NamedTuple):
    key: str
    value: Any
    origin: str


Config = TypeVar("Config", bound=msgspec.Struct)


def load_config(cls: type[Config], *, argv: Sequence[str], environ: Mapping[str, str], prefix: str = "PRFAAS") -> Config:
    """Raises ConfigError, one sentence that names the key and where it was set. `--help` prints all keys and exits 0."""
    schema = Schema(cls)
    role = cls.role if issubclass(cls, ServiceConfig) else ""
    if any(word in ("--help", "-h") for word in argv):
        print(schema.help(prefix))
        sys.exit(0)
    flags = list(_flags(argv))
    files = [setting.value for setting in flags if setting.key == "config"]
    settings: list[Setting] = []
    for file in files[-1:]:
        settings += _for_role(_file(Path(file), schema, role), role)
    settings += _for_role(_environment(environ, prefix), role)
    settings += _for_role([setting for setting in flags if setting.key != "config"], role)

    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key, value, origin in settings:
        kind = schema.find(key, origin)
        *parents, leaf = key.split(".")
        table = tree
        for parent in parents:
            table = table.setdefault(parent, {})
        table[leaf] = take_string(value, kind, key, origin) if isinstance(value, str) else value
        origins[key] = origin
    try:
        return msgspec.convert(tree, cls, strict=False)
    except msgspec.ValidationError as error:
        raise schema.explain(error, origins) from error


def _for_role(settings: Iterable[Setting], role: str) -> list[Setting]:
    """Drops the keys of other roles; this role's own ones come last."""
    plain, own = [], []
    for setting in settings:
        owner = setting.key.partition(".")[0]
        if owner not in ROLES:
            plain.append(setting)
        elif owner == role:
            own.append(setting._replace(key=setting.key.removeprefix(f"{role}.")))
    return plain + own


def _flags(argv: Sequence[str]) -> Iterator[Setting]:
    words = iter(argv)
    for word in words:
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"command line: `{word}` is not a flag; flags look like `--key value` or `--key=value`.")
        flag, equals, value = word.partition("=")
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise ConfigError(f"command line: `{flag}` needs a value.")
        yield Setting(flag[2:], value, "command line")


def _environment(environ: Mapping[str, str], prefix: str) -> Iterator[Setting]:
    """Yields our variables. An empty one counts as not set: compose files and shells cannot unset one."""
    for variable, value in sorted(environ.items()):
        name = variable.removeprefix(f"{prefix}_")
        if name == variable or not value or name in PLAIN_VARIABLES or is_platforms(name, value):
            continue
        key = ".".join(part.lower().replace("_", "-") for part in name.split("__"))
        yield Setting(key, value, f"environment variable {variable}")


def _file(path: Path, schema: Schema, role: str) -> Iterator[Setting]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"command line: --config {path} cannot be read: {error.strerror}.") from error
    except RecursionError as error:
        raise ConfigError(f"file {path} is nested too deeply.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"file {path} is no TOML: {error}.") from error
    origin = f"file {path}"
    for owner in ROLES & table.keys():
        of_role = table.pop(owner)
        if not isinstance(of_role, dict):
            raise ConfigError(f"{origin}: `{owner}` is the table of a role's own keys, not a value.")
        if owner == role:
            yield from (setting._replace(key=f"{role}.{setting.key}") for setting in _leaves(of_role, "", schema, origin))
    yield from _leaves(table, "", schema, origin)


def _leaves(table: Mapping[str, Any], prefix: str, schema: Schema, origin: str) -> Iterator[Setting]:
    for name, value in table.items():
        key = prefix + name
        if schema.is_group(key) and isinstance(value, dict):
            yield from _leaves(value, f"{key}.", schema, origin)
        else:
            yield Setting(key, value, origin)
