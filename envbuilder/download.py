"""Fetch one file with the network settings of a build: pip's certificates, proxy, credentials, time-out and retries.

pip itself would do, but for sources it runs their code to learn their metadata; uv keeps wheels unpacked only.

The standard library's HTTP client is imported where something is fetched: most builds fetch nothing.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlsplit, urlunsplit

from envbuilder.errors import HostError, InputError
from envbuilder.pip_config import PipConfig, local_path, redact

_CHUNK = 1 << 20
_LAST_PAUSE_SECONDS = 8.0
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """How to fetch: pip's configuration, the caller's variables, and further addresses that may hold credentials."""

    pip: PipConfig
    env: Mapping[str, str]
    mirrors: tuple[str, ...] = ()

    @property
    def timeout(self) -> float:
        """Seconds to wait for an answer: pip's, else uv's own variable, else what uv waits."""
        chosen = self.pip.timeout
        if chosen is None:
            chosen = _number(self.env.get("UV_HTTP_TIMEOUT", ""), 30.0)
        return chosen if math.isfinite(chosen) and chosen > 0 else 30.0

    @property
    def retries(self) -> int:
        """How often a failure that may pass is tried again."""
        if self.pip.retries is not None:
            return max(0, self.pip.retries)
        return max(0, int(_number(self.env.get("UV_HTTP_RETRIES", ""), 3.0)))


def fetch(url: str, sink: BinaryIO, network: Network, tick: Callable[[int, int], None]) -> None:
    """Write what is at `url` into `sink`; `tick` is told how many bytes are there, of how many (0 if unknown).

    Raises `HostError` when it cannot be had, `InputError` for an address of another kind; neither shows credentials.
    """
    path = local_path(url)
    if path is not None:
        _copy(path, sink)
        return
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(
            f"{redact(url)} cannot be fetched", hint="write the lock anew, or name a mirror in the site file"
        )
    if network.env.get("UV_OFFLINE", "").lower() in ("1", "true", "t", "yes", "y", "on"):
        raise HostError(f"{redact(url)} is not here, and UV_OFFLINE forbids to fetch it", hint="unset UV_OFFLINE")
    from http.client import HTTPException

    for again in range(network.retries, -1, -1):
        sink.seek(0)
        sink.truncate()
        try:
            _receive(with_credentials(url, network), sink, network, tick)
        except (OSError, ValueError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            if not again or not _may_pass(error):
                raise _given_up(error, url, network) from error
            time.sleep(min(_LAST_PAUSE_SECONDS, 0.5 * 2 ** (network.retries - again)))
        else:
            return


def with_credentials(url: str, network: Network) -> str:
    """`url` with the user and password that are configured for its host: in pip's addresses, a mirror's, or netrc."""
    parts = urlsplit(url)
    if parts.username is not None:
        return url
    config = network.pip
    for other in (config.index_url or "", *config.extra_index_urls, *config.find_links, *network.mirrors):
        known = urlsplit(other)
        if known.username is not None and (known.scheme, known.hostname, known.port) == (
            parts.scheme, parts.hostname, parts.port,
        ):  # fmt: skip
            return urlunsplit(parts._replace(netloc=f"{known.netloc.rpartition('@')[0]}@{parts.netloc}"))
    for user, password in _netrc(parts.hostname or "", network.env):
        return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc}"))
    return url


def _netrc(host: str, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    import netrc

    file = env.get("NETRC") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".netrc")
    try:
        found = netrc.netrc(file).authenticators(host)
    except (OSError, ValueError, netrc.NetrcParseError):
        return  # as pip: a netrc that cannot be read is none
    if found:
        yield found[0] or "", found[2] or ""


def _receive(url: str, sink: BinaryIO, network: Network, tick: Callable[[int, int], None]) -> None:
    from envbuilder import reachable

    with reachable.get(url, network.pip, network.env, timeout=network.timeout) as answer:
        total = int(answer.headers.get("Content-Length") or 0)
        done = 0
        for block in _blocks(answer):
            sink.write(block)
            done += len(block)
            tick(done, total)
    if done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def _blocks(source: BinaryIO) -> Iterable[bytes]:
    return iter(lambda: source.read(_CHUNK), b"")


def _copy(path: Path, sink: BinaryIO) -> None:
    try:
        with open(path, "rb") as source:
            shutil.copyfileobj(source, sink, _CHUNK)
    except FileNotFoundError as error:
        raise HostError(
            f"{path} is not there, and the lock names it", hint="put it back, or write the lock anew: envbuilder lock"
        ) from error


def _may_pass(error: Exception) -> bool:
    """Whether the next try may succeed; a page that is not there, or a certificate that is not trusted, stays so."""
    import ssl
    from urllib.error import HTTPError

    if isinstance(error, HTTPError):
        return error.code in _TRY_AGAIN
    cause = getattr(error, "reason", error)
    return not isinstance(cause, ssl.SSLCertVerificationError) and not isinstance(error, ValueError)


def _given_up(error: Exception, url: str, network: Network) -> HostError:
    from urllib.error import HTTPError

    from envbuilder import reachable

    shown = redact(url)
    if isinstance(error, HTTPError):
        hint = "is the index still there? the lock may have to be written anew"
        if error.code in (401, 403):
            hint = "name the user in pip's index-url or in ~/.netrc"
        error.close()
        return HostError(f"{shown} cannot be fetched: HTTP status {error.code}", hint=hint)
    why = reachable.reason(error, url, network.timeout)
    return HostError(
        f"{shown} cannot be fetched: {why}",
        hint="what was fetched is kept; run the same command again when the network is back",
    )


def _number(text: str, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise
