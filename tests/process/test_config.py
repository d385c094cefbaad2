"""The sources of configuration, the one that wins, and the errors that wrong ones get."""

import tempfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.process.config import PLAIN_VARIABLES, ConfigError, ServiceConfig, load_config


class Policy(StrEnum):
    LOCAL_ONLY = "local_only"
    THRESHOLD = "threshold"


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    queue_length: Annotated[int, msgspec.Meta(gt=0)] = 8
    timeout_s: float = 1.5


class ExampleConfig(ServiceConfig, frozen=True, kw_only=True):
    """Configuration of an example service."""

    role: ClassVar[str] = "example"
    gone: ClassVar[Mapping[str, str]] = {"thresh": "set `threshold-tokens`", "policy = guess": "`threshold` knows"}
    limits: Limits = Limits()
    threshold_tokens: Annotated[int, msgspec.Meta(ge=0)] = 2048
    """Uncached tokens above which a prefill is offloaded."""
    peers: tuple[str, ...] = ()
    policy: Policy = Policy.THRESHOLD
    weights: dict[str, float] = msgspec.field(default_factory=dict)
    strict: bool = False
    ttft_s: float | None = None


REQUIRED = ["--site", "east", "--control.url", "nats://127.0.0.1:4222"]


def load(argv: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> ExampleConfig:
    return load_config(ExampleConfig, argv=[*REQUIRED, *argv], environ=environ or {})


def test_defaults_and_a_name_of_its_own() -> None:
    config, other = load(), load()
    assert (config.site, config.control.url, config.bulk, config.http_port) == ("east", "nats://127.0.0.1:4222", None, 0)
    assert config.name.startswith("example-") and config.name != other.name
    assert load(["--name", "t0"]).name == "t0"


@given(
    st.dictionaries(
        st.sampled_from(["threshold-tokens", "limits.queue-length", "drain-s", "http-port"]),
        st.fixed_dictionaries({}, optional={source: st.integers(1, 60_000) for source in ("file", "environment", "flag")}),
    )
)
def test_flags_win_over_environment_over_file_key_by_key(keys: dict[str, dict[str, int]]) -> None:
    lines: list[str] = []
    environ: dict[str, str] = {}
    argv: list[str] = []
    expected = {"threshold-tokens": 2048, "limits.queue-length": 8, "drain-s": 20, "http-port": 0}
    for key, sources in keys.items():
        if "file" in sources:
            lines.append(f"{key} = {sources['file']}")
            expected[key] = sources["file"]
        if "environment" in sources:
            environ["PRFAAS_" + key.replace(".", "__").replace("-", "_").upper()] = str(sources["environment"])
            expected[key] = sources["environment"]
        if "flag" in sources:
            argv += [f"--{key}", str(sources["flag"])] if sources["flag"] % 2 else [f"--{key}={sources['flag']}"]
            expected[key] = sources["flag"]
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write("\n".join(lines))
        file.flush()
        config = load(["--config", file.name, *argv], environ)
    found = {
        "threshold-tokens": config.threshold_tokens,
        "limits.queue-length": config.limits.queue_length,
        "drain-s": config.drain_s,
        "http-port": config.http_port,
    }
    assert found == expected
    assert config.limits.timeout_s == 1.5


def test_a_group_may_come_from_several_sources(tmp_path: Path) -> None:
    file = tmp_path / "service.toml"
    file.write_text('[bulk]\nurl = "nats://127.0.0.1:1"\nnkey-seed-file = "a"\n')
    config = load(["--config", str(file), "--bulk.nkey-seed-file", "b"], {"PRFAAS_BULK__TLS_CA_FILE": "c"})
    assert config.bulk is not None
    assert (config.bulk.url, config.bulk.nkey_seed_file, config.bulk.tls_ca_file) == ("nats://127.0.0.1:1", "b", "c")


def test_strings_become_what_the_key_takes() -> None:
    config = load(["--peers", "a, b,", "--policy", "local_only", "--weights", '{"x": 2}', "--strict", "true", "--ttft-s", "0.5"])
    assert config.peers == ("a", "b")
    assert config.policy is Policy.LOCAL_ONLY
    assert config.weights == {"x": 2.0}
    assert config.strict is True
    assert config.ttft_s == 0.5
    assert load(["--peers", '["a,b"]']).peers == ("a,b",)


def test_plain_and_empty_and_foreign_variables_are_no_keys() -> None:
    plain = {f"PRFAAS_{name}": "/somewhere" for name in PLAIN_VARIABLES}
    load(environ={**plain, "PRFAAS_THRESHOLD_TOKENS": "", "PRFAAS_NO_SUCH_KEY": "", "PRFAASX_SITE": "x", "HOME": "/"})
    assert "CACHE_DIR" in PLAIN_VARIABLES


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--treshold-tokens", "1"], {}, "command line: unknown key `treshold-tokens`; did you mean `threshold-tokens`?"),
        (
            [],
            {"PRFAAS_LIMITS__QUEUE": "1"},
            "environment variable PRFAAS_LIMITS__QUEUE: unknown key `limits.queue`; did you mean",
        ),
        (["--zzz", "1"], {}, "command line: unknown key `zzz`; --help lists all keys."),
        (
            ["--limits", "1"],
            {},
            "command line: `limits` is a group of keys, it has no value of its own; set `limits.queue-length`",
        ),
        (["--limits.queue-length", "0"], {}, "command line: key `limits.queue-length`: expected `int` >= 1."),
        ([], {"PRFAAS_DRAIN_S": "soon"}, "environment variable PRFAAS_DRAIN_S: key `drain-s`: expected `float`, got `str`."),
        (["--site", "no.dots"], {}, "command line: key `site`: expected `str` matching regex"),
        (["--policy", "best"], {}, "command line: key `policy`: invalid enum value 'best'; expected local_only|"),
        (["--policy", "guess"], {}, "command line: key `policy`: invalid enum value 'guess', which is gone: `threshold` knows."),
        (["--thresh", "1"], {}, "command line: key `thresh` is gone: set `threshold-tokens`."),
        (["--weights", "x"], {}, "command line: key `weights` is no JSON"),
        (["--weights", '{"x": "y"}'], {}, "command line: key `weights[...]`: expected `float`, got `str`."),
        (["--bulk.tls-ca-file", "x"], {}, "key `bulk.url` is not set; give it in the file, the environment or as `--bulk.url`."),
        (["positional"], {}, "command line: `positional` is not a flag"),
        (["--strict"], {}, "command line: `--strict` needs a value."),
        (["--strict", "--name", "x"], {}, "command line: `--strict` needs a value."),
        (["--config", "/nowhere.toml"], {}, "command line: --config /nowhere.toml cannot be read: No such file or directory."),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_origin(argv: list[str], environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(argv, environ)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threshold_tokens = 1", "unknown key `threshold_tokens`; did you mean `threshold-tokens`?"),
        ("[limits]\nqueue-lenght = 1", "unknown key `limits.queue-lenght`; did you mean `limits.queue-length`?"),
        ("limits = 1", "`limits` is a group of keys"),
        ("threshold-tokens = -1", "key `threshold-tokens`: expected `int` >= 0."),
        ("= 1", "is no TOML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "service.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(["--config", str(file)])
    assert str(caught.value).startswith(f"file {file}")
    assert message in str(caught.value)


ADDRESS = st.ip_addresses().map(str)
PORT = st.integers(1, 65535)
SERVICE_NAME = st.sampled_from([
    "prfaas", "prfaas-gateway", "prfaas-http", "prfaas-decode-worker-0", "prfaas-name", "prfaas-control--url", "prfaas-site",
    "prfaas-port", "prfaas-threshold-tokens",
]) | st.from_regex(r"prfaas-[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)  # fmt: skip
PORT_NAME = st.none() | st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)


def kubernetes_variables(service: str, address: str, port: int, port_name: str | None, protocol: str) -> dict[str, str]:
    """The variables that a kubelet gives to containers for one Service (makeLinkVariables of kubernetes/pkg/kubelet/envvars)."""
    name = service.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    link = f"{protocol}://{host}:{port}"
    numbered = f"{name}_PORT_{port}_{protocol.upper()}"
    variables = {
        f"{name}_SERVICE_HOST": address,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_PORT": link,
        numbered: link,
        f"{numbered}_PROTO": protocol,
        f"{numbered}_PORT": str(port),
        f"{numbered}_ADDR": address,
    }
    if port_name is not None:
        variables[f"{name}_SERVICE_PORT_{port_name.upper().replace('-', '_')}"] = str(port)
    return variables


@given(
    st.builds(kubernetes_variables, SERVICE_NAME, ADDRESS, PORT, PORT_NAME, st.sampled_from(["tcp", "udp", "sctp"])),
    st.data(),
)
def test_variables_of_kubernetes_services_are_not_ours(variables: dict[str, str], data: st.DataObject) -> None:
    some = data.draw(st.sets(st.sampled_from(sorted(variables))))
    environ = {name: variables[name] for name in some}
    assert load(["--name", "t"], environ) == load(["--name", "t"])
    assert load(["--name", "t"], {**environ, "PRFAAS_DRAIN_S": "7"}).drain_s == 7


def test_variables_of_docker_links_are_not_ours() -> None:
    environ = {"PRFAAS_NAME": "/web/prfaas", "PRFAAS_GATEWAY_NAME": "/web/gateway", "PRFAAS_GATEWAY_ENV_PATH": "/bin"}
    assert load(["--name", "t"], environ) == load(["--name", "t"])


@pytest.mark.parametrize(("variable", "value"), [
    ("PRFAAS_GATEWAY_PORT", "8000"),
    ("PRFAAS_SERVICE_PORT", "http"),
    ("PRFAAS_HTPP_PORT", "8000"),
    ("PRFAAS_HTTP_HOSTS", "0.0.0.0"),
    ("PRFAAS_SERVICE_NAME", "x"),
    ("PRFAAS_CONTROL_URL", "nats://127.0.0.1:4222"),
])  # fmt: skip
def test_a_typo_in_our_own_variables_is_still_named(variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"environment variable {variable}: unknown key"):
        load(environ={variable: value})


@pytest.mark.parametrize("url", [
    "", "127.0.0.1:4222", "localhost", "http://127.0.0.1:4222", "ws://127.0.0.1:80", "nats://", "nats://:4222", "nats:4222",
    "nats://a:99999", "nats://a:0", "nats://a:b", "nats://[::1", "nats://a b:4222", "nats://a:4222/path", " nats://a:4222",
])  # fmt: skip
@pytest.mark.parametrize("key", ["control", "bulk"])
def test_a_url_that_is_no_nats_servers_is_named_with_its_origin(key: str, url: str) -> None:
    with pytest.raises(ConfigError, match=rf"^command line: `{key}\.url` is .*; expected nats://host"):
        load([f"--{key}.url={url}"])


@pytest.mark.parametrize("url", ["nats://127.0.0.1:4222", "tls://nats.example.org:4222", "nats://[::1]:4222", "nats://host"])
def test_urls_of_nats_servers(url: str) -> None:
    assert load(["--control.url", url]).control.url == url


class WorkerConfig(ServiceConfig, frozen=True, kw_only=True):
    role: ClassVar[str] = "decode-worker"
    slots: int = 1
    limits: Limits = Limits()


def test_roles_share_a_file_and_each_reads_its_own_keys(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    text = """
        site = "east"
        [limits]
        timeout-s = 2.0
        [control]
        url = "nats://127.0.0.1:4222"
        [prefill-worker]
        serves = ["east"]
        [decode-worker]
        slots = 7
        [decode-worker.limits]
        queue-length = 3
    """
    file.write_text(text)
    argv = ["--config", str(file)]
    config = load_config(WorkerConfig, argv=argv, environ={"PRFAAS_GATEWAY__MODELS": "m"})
    assert (config.slots, config.limits.queue_length, config.limits.timeout_s) == (7, 3, 2.0)
    environ = {"PRFAAS_SLOTS": "9", "PRFAAS_DECODE_WORKER__SLOTS": "8"}
    assert load_config(WorkerConfig, argv=argv, environ=environ).slots == 8, "its own key wins over the plain one of a source"
    assert load_config(WorkerConfig, argv=[*argv, "--slots", "9"], environ=environ).slots == 9, "and a later source over both"
    file.write_text(text.replace("slots = 7", "slot = 7"))
    with pytest.raises(ConfigError, match=r"unknown key `slot`; did you mean `slots`\?"):
        load_config(WorkerConfig, argv=argv, environ={})
    file.write_text("prefill-worker = 1")
    with pytest.raises(ConfigError, match="`prefill-worker` is the table of a role's own keys, not a value"):
        load_config(WorkerConfig, argv=argv, environ={})


def test_what_is_required_and_missing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^key `site` is not set"):
        load_config(ExampleConfig, argv=[], environ={})
    with pytest.raises(ConfigError, match=r"^key `control\.url` is not set"):
        load_config(ExampleConfig, argv=["--site", "east"], environ={})


def test_help_lists_every_key_with_type_default_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        load_config(ExampleConfig, argv=["--help"], environ={})
    assert exit_code.value.code == 0
    text = capsys.readouterr().out
    assert "Configuration of an example service." in text
    assert "--site  str  (required)\n      Name of the site that this process belongs to." in text
    assert "--threshold-tokens  int >= 0  (default 2048)\n      Uncached tokens above which a prefill is offloaded." in text
    assert "--limits.queue-length  int > 0  (default 8)" in text
    assert "--policy  local_only|threshold  (default threshold)" in text
    assert "--peers  list of str" in text
    assert "--bulk.url  str  (required where bulk is used)\n" in text


@pytest.mark.parametrize(("mode", "said"), [(0o644, "mode 0644"), (0o640, "mode 0640"), (None, "cannot be read")])
def test_a_seed_that_others_may_read_or_that_is_not_there_is_refused(tmp_path: Path, mode: int | None, said: str) -> None:
    seed = tmp_path / "ctl.nk"
    if mode is not None:
        seed.write_text("SU...")
        seed.chmod(mode)
    argv = ["--site", "home", "--control.url", "nats://h:1", "--control.nkey-seed-file", str(seed)]
    with pytest.raises(ConfigError, match=rf"`control.nkey-seed-file`: the secret file {seed} .*{said}"):
        load_config(ServiceConfig, argv=argv, environ={}).check_files()
    if mode is not None:
        seed.chmod(0o400)
        load_config(ServiceConfig, argv=argv, environ={}).check_files()


def test_a_file_that_is_nested_too_deeply_is_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("site = " + "[" * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load_config(ServiceConfig, argv=["--config", str(path)], environ={})
