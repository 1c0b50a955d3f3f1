"""Pip's own configuration, read as pip reads it, and handed to uv, which ignores it.

Computing centres announce their index, wheel folders and certificates in pip's files. The order of files, sections and
variables below is that of pip's documentation; the tests compare it with real pips.
"""

from __future__ import annotations

import configparser
import locale
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from optparse import Option, OptionValueError
from pathlib import Path
from urllib.parse import unquote, urlsplit

from envbuilder.errors import InputError

# The entry of `mirrors` that stands for the index that is used where nobody configured one.
DEFAULT_INDEX = "default-index"

# The user's own uv settings that would change what is resolved or installed; each is taken out of uv's environment.
# What concerns the network or the machine stays: UV_HTTP_TIMEOUT, UV_HTTP_RETRIES, UV_CONCURRENT_*, UV_OFFLINE,
# UV_SYSTEM_CERTS, UV_NATIVE_TLS, UV_KEYRING_PROVIDER, UV_CACHE_DIR, UV_LINK_MODE, UV_NO_CACHE, UV_NO_PROGRESS,
# UV_LOCK_TIMEOUT: they decide whether and how fast an artefact arrives, not which.
CLEARED = (
    "UV_BREAK_SYSTEM_PACKAGES", "UV_BUILD_CONSTRAINT", "UV_COMPILE_BYTECODE", "UV_CONFIG_FILE", "UV_CONSTRAINT",
    "UV_CUSTOM_COMPILE_COMMAND", "UV_ENV_FILE", "UV_EXCLUDE", "UV_EXCLUDE_NEWER", "UV_EXTRA_INDEX_URL",
    "UV_FORK_STRATEGY", "UV_INDEX_URL", "UV_ISOLATED", "UV_LIBC", "UV_MANAGED_PYTHON", "UV_NO_BINARY",
    "UV_NO_BINARY_PACKAGE", "UV_NO_BUILD", "UV_NO_BUILD_ISOLATION", "UV_NO_BUILD_PACKAGE", "UV_NO_EDITABLE",
    "UV_NO_INSTALLER_METADATA",
    "UV_NO_MANAGED_PYTHON", "UV_NO_PROJECT", "UV_NO_SOURCES", "UV_NO_SOURCES_PACKAGE", "UV_NO_VERIFY_HASHES", "UV_OVERRIDE",
    "UV_PRERELEASE", "UV_PREVIEW", "UV_PREVIEW_FEATURES", "UV_PROJECT", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON",
    "UV_PYTHON_DOWNLOADS", "UV_PYTHON_PREFERENCE", "UV_REQUIRE_HASHES", "UV_RESOLUTION", "UV_SYSTEM_PYTHON",
    "UV_TORCH_BACKEND", "UV_VENV_CLEAR", "UV_VENV_RELOCATABLE", "UV_VENV_SEED", "UV_WORKING_DIR",
)  # fmt: skip
# What would get into an environment, or change it, while it is installed.
FOREIGN = (*CLEARED, "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
KEPT = (
    "UV_CACHE_DIR", "UV_HTTP_RETRIES", "UV_HTTP_TIMEOUT", "UV_KEYRING_PROVIDER", "UV_LINK_MODE", "UV_NATIVE_TLS",
    "UV_NO_CACHE", "UV_NO_PROGRESS", "UV_OFFLINE", "UV_SYSTEM_CERTS",
)  # fmt: skip

# pip's spellings of one option, each with the field that it fills
_OPTIONS = {
    "index-url": "index_url",
    "pypi-url": "index_url",
    "extra-index-url": "extra_index_urls",
    "find-links": "find_links",
    "no-index": "no_index",
    "cert": "cert",
    "client-cert": "client_cert",
    "trusted-host": "trusted_hosts",
    "proxy": "proxy",
    "timeout": "timeout",
    "default-timeout": "timeout",
    "retries": "retries",
}
_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE = frozenset({"n", "no", "f", "false", "off", "0"})
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")

# pip parses numbers with optparse, which takes a leading zero for octal
_OPTPARSE_FLOAT = Option("--timeout", type="float")
_OPTPARSE_INT = Option("--retries", type="int")

_Items = dict[str, tuple[str, str]]  # "section.option" -> (value, origin)


@dataclass(frozen=True, kw_only=True, slots=True)
class PipConfig:
    """What pip would use: `timeout` in seconds; None or empty where nothing is configured.

    `origins` maps an option's name (as written on pip's command line) to the file or variable that decided it.
    """

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    cert: str | None = None
    client_cert: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    proxy: str | None = None
    timeout: float | None = None
    retries: int | None = None
    origins: Mapping[str, str] = field(default_factory=dict)


def read(env: Mapping[str, str], *, prefix: Path | None = None, command: str = "install") -> PipConfig:
    """The configuration that `pip <command>` of the Python at `prefix` (default: ours) has in the environment `env`.

    Raises `InputError` for what pip itself refuses: a file that is no configuration, a value of the wrong type.
    """
    found: dict[str, object] = {}
    origins: dict[str, str] = {}
    for option, value, origin in _ordered(_merged(env, prefix or Path(sys.prefix)), command):
        name = _OPTIONS[option]
        found[name] = _converted(name, value, env, origin)
        origins[_canonical(name)] = origin
    config = PipConfig(**found, origins=origins)  # type: ignore[arg-type]  # _converted gives each field its type
    return config if config.cert else _with_certificates_of_requests(config, env)


def uv_environment(
    config: PipConfig, *, indexes: Sequence[str] = (), mirrors: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """The patch of environment variables with which uv uses the same indexes, links, certificates and proxies as pip.

    `indexes` are further ones that the recipe or the site wants. `mirrors` maps a prefix of an upstream URL to a local
    one; its entry `DEFAULT_INDEX` replaces the index that is used where pip has none configured. Variables are used
    and not arguments, so that credentials show neither in the process list nor in a log. What could not be passed on is
    in `notes`. Raises `InputError` for a certificate file that does not exist while something is fetched by https.
    """
    mirrors = mirrors or {}
    main = config.index_url or mirrors.get(DEFAULT_INDEX)
    urls = [_location(mirrored(url, mirrors)) for url in (*config.extra_index_urls, *indexes)]
    links = [_location(mirrored(link, mirrors)) for link in _usable_links(config)]
    _require_certificates(config, [*([main] if main else ["https://"]), *urls, *config.find_links])
    return {
        **dict.fromkeys(CLEARED),
        "UV_NO_CONFIG": "1",
        "UV_INDEX_STRATEGY": "unsafe-best-match",  # pip takes the best version of all indexes together
        "UV_DEFAULT_INDEX": _location(mirrored(main, mirrors)) if main and not config.no_index else None,
        "UV_INDEX": None if config.no_index else " ".join(dict.fromkeys(urls)) or None,
        "UV_FIND_LINKS": ",".join(link.replace(",", "%2C") for link in dict.fromkeys(links)) or None,
        "UV_NO_INDEX": "1" if config.no_index else None,
        "UV_INSECURE_HOST": " ".join(config.trusted_hosts) or None,
        **_transport(config),
    }


def uv_network(
    config: PipConfig, root: Path, *, indexes: Sequence[str] = (), mirrors: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """`uv_environment`, with the cache of the store at `root` and nothing that is for a person at a terminal."""
    return {
        **uv_environment(config, indexes=indexes, mirrors=mirrors),
        "UV_CACHE_DIR": str(root / "cache" / "uv"),
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "NO_COLOR": "1",
        "VIRTUAL_ENV": None,
    }


def linked(env: Mapping[str, str]) -> dict[str, None]:
    """The patch that keeps a user's UV_LINK_MODE from filling an environment with links into a cache that may be removed."""
    return {"UV_LINK_MODE": None} if env.get("UV_LINK_MODE") == "symlink" else {}


def notes(config: PipConfig, *, indexes: Sequence[str] = ()) -> tuple[str, ...]:
    """What `uv_environment` leaves out, in words for the user."""
    usable = _usable_links(config)
    origin = config.origins.get("find-links", "pip's configuration")
    gone = [f"find-links {redact(link)} ({origin}) is no directory" for link in config.find_links if link not in usable]
    if config.no_index and indexes:
        why = f"no-index is set ({config.origins.get('no-index', 'pip configuration')})"
        gone += [f"the index {redact(url)} is not used: {why}" for url in indexes]
    return tuple(gone)


def mirrored(url: str, mirrors: Mapping[str, str]) -> str:
    """`url` with the longest upstream prefix that `mirrors` knows replaced; credentials stay with the upstream."""
    bare = without_credentials(url)
    for upstream in sorted(mirrors, key=len, reverse=True):
        stem = upstream.rstrip("/")
        rest = bare.removeprefix(stem)
        if stem and bare.startswith(stem) and (not rest or rest[0] in "/?#"):
            return mirrors[upstream].rstrip("/") + rest
    return url


def redact(text: str) -> str:
    """`text` with the credentials of every URL replaced by `***`."""
    return _CREDENTIALS.sub("***@", text)


def without_credentials(url: str) -> str:
    """`url` without its user and password."""
    return _CREDENTIALS.sub("", url)


def files(env: Mapping[str, str], prefix: Path) -> list[str]:
    """The configuration files that pip looks for, whether they exist or not; later ones win."""
    chosen = env.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    shared = env.get("XDG_CONFIG_DIRS", "")
    shared = shared if shared.strip() else "/etc/xdg"
    own = env.get("XDG_CONFIG_HOME", "")
    own = own if own.strip() else _home("~/.config", env)
    found = [os.path.join(_home(place, env), "pip") for place in shared.split(os.pathsep)]  # as pip
    found += ["/etc"]
    if not (chosen and os.path.exists(chosen)):  # as pip: an empty or odd name is no error
        found += [_home("~/.pip", env), f"{own}/pip"]
    return [*(f"{place}/pip.conf" for place in (*found, str(prefix))), *([chosen] if chosen else [])]


def _merged(env: Mapping[str, str], prefix: Path) -> _Items:
    """Every setting under "section.option"; a key keeps the place of its first file and the value of its last."""
    items: _Items = {}
    for name in files(env, prefix):
        parser = configparser.RawConfigParser()
        try:
            parser.read(name, encoding=locale.getpreferredencoding(False))
        except (configparser.Error, UnicodeDecodeError) as error:
            what = " ".join(str(error).split())
            raise InputError(f"pip's configuration file cannot be read: {what}", hint=f"correct {name}") from error
        for section in parser.sections():
            items.update({f"{section}.{_normal(key)}": (value, name) for key, value in parser.items(section)})
    variables = ((name, value) for name, value in env.items() if name.startswith("PIP_"))
    items.update({f":env:.{_normal(name[4:])}": (value, name) for name, value in variables})
    return items


def _ordered(items: _Items, command: str) -> Iterator[tuple[str, str, str]]:
    """The settings that matter, weakest first: [global], the command's section, PIP_ variables; empty ones say nothing.

    A file of higher rank that sets an option to nothing thereby hides that option of the files below, as with pip.
    """
    for wanted in ("global", command, ":env:"):
        for key, (value, origin) in items.items():
            section, _, option = key.partition(".")
            if section == wanted and value and option in _OPTIONS:
                yield option, value, origin


def _converted(name: str, value: str, env: Mapping[str, str], origin: str) -> object:
    try:
        return _CONVERTERS.get(name, _text)(value, env)
    except (ValueError, OptionValueError) as error:
        option = _canonical(name)
        raise InputError(f"{origin}: {option} cannot be {value!r}", hint=f"correct {option} in {origin}") from error


def _text(value: str, _: Mapping[str, str]) -> str:
    return value


def _words(value: str, _: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(value.split())


def _links(value: str, env: Mapping[str, str]) -> tuple[str, ...]:
    expanded = ((link, _home(link, env)) for link in value.split())
    return tuple(full if os.path.exists(full) else link for link, full in expanded)  # may be a URL


def _truth(value: str, _: Mapping[str, str]) -> bool:
    if value.lower() not in _TRUE | _FALSE:
        raise ValueError(value)
    return value.lower() in _TRUE


def _seconds(value: str, _: Mapping[str, str]) -> float:
    return float(_OPTPARSE_FLOAT.check_value("timeout", value))


def _whole(value: str, _: Mapping[str, str]) -> int:
    return int(_OPTPARSE_INT.check_value("retries", value))


def _home(path: str, env: Mapping[str, str]) -> str:
    """`path` with a leading `~` replaced by the HOME of `env`."""
    if "HOME" in env and (path == "~" or path.startswith("~/")):
        return env["HOME"].rstrip("/") + path[1:] or "/"
    return os.path.expanduser(path)  # as pip does for `~user`


_CONVERTERS: dict[str, Callable[[str, Mapping[str, str]], object]] = {
    "extra_index_urls": _words,
    "find_links": _links,
    "trusted_hosts": _words,
    "no_index": _truth,
    "cert": _home,
    "client_cert": _home,
    "timeout": _seconds,
    "retries": _whole,
}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("--")


def _canonical(name: str) -> str:
    return next(option for option, field_name in _OPTIONS.items() if field_name == name)


def _with_certificates_of_requests(config: PipConfig, env: Mapping[str, str]) -> PipConfig:
    """Without a `cert` of its own, pip's HTTP library takes the bundle that these variables name."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if env.get(name):
            return replace(config, cert=env[name], origins={**config.origins, "cert": name})
    return config


def _usable_links(config: PipConfig) -> tuple[str, ...]:
    """Without the links that are no directories: uv fails on those, where pip only warns or reads a page."""
    return tuple(link for link in config.find_links if (path := local_path(link)) is None or path.is_dir())


def local_path(location: str) -> Path | None:
    """The path that a location names: `file://` URL or plain path; None for any other URL."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in location else Path(location)


def _location(location: str) -> str:
    """Plain paths as absolute `file://` URLs, so that neither the working directory nor a separator matters to uv."""
    path = None if "://" in location else local_path(location)
    return location if path is None else path.absolute().as_uri()


def _require_certificates(config: PipConfig, locations: Sequence[str]) -> None:
    for option, name in (("cert", config.cert), ("client-cert", config.client_cert)):
        if name and not Path(name).exists() and any(location.startswith("https:") for location in locations):
            origin = config.origins.get(option, "pip's configuration")
            raise InputError(
                f"the certificate file {name} does not exist ({option}, from {origin})",
                hint=f"correct {option} in {origin}",
            )


def _transport(config: PipConfig) -> dict[str, str | None]:
    """Certificates, proxy, patience; only what pip has configured, so that the user's own settings stay otherwise.

    NO_PROXY is left as it is: who names a host there means every program.
    """
    patch: dict[str, str | None] = {}
    if config.cert:
        patch["SSL_CERT_DIR" if Path(config.cert).is_dir() else "SSL_CERT_FILE"] = config.cert
        patch["SSL_CERT_FILE" if Path(config.cert).is_dir() else "SSL_CERT_DIR"] = None
    else:
        patch["UV_SYSTEM_CERTS"] = "1"  # what pip trusts since 24.2
    if config.client_cert:
        patch["SSL_CLIENT_CERT"] = config.client_cert
    if config.proxy:
        patch.update(dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), config.proxy))
    if config.timeout is not None and math.isfinite(config.timeout):
        patch["UV_HTTP_TIMEOUT"] = str(max(1, math.ceil(config.timeout)))  # uv takes whole seconds
    if config.retries is not None:
        patch["UV_HTTP_RETRIES"] = str(max(0, config.retries))
    return patch
