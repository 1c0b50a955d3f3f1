"""Whether an index answers from this machine, and if not, why, in words."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from socket import gaierror
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from envbuilder.pip_config import PipConfig, local_path, redact, without_credentials


def reachable(url: str, config: PipConfig, env: Mapping[str, str], *, timeout: float = 10.0) -> str | None:
    """None when the index or folder at `url` answers (any HTTP status below 500), else why not, without credentials.

    Certificates and proxy are those of `config`, then those of `env`. `timeout` is in seconds, for each of at most two
    requests.
    """
    path = local_path(url)
    if path is not None:
        return None if path.is_dir() else f"{path} is no directory"
    try:
        opener = _opener(urlsplit(url), config, env)
        status = _status(opener, "HEAD", url, timeout)
        if status >= 500:
            status = _status(opener, "GET", url, timeout)
    except (OSError, ValueError, HTTPException) as error:
        return reason(error, url, timeout)
    return None if status < 500 else f"{_host(url)} answers with HTTP status {status}"


def get(url: str, config: PipConfig, env: Mapping[str, str], *, timeout: float) -> HTTPResponse:
    """The answer of `url` to a GET, with the certificates and the proxy of `reachable` and the credentials of the URL.

    Raises OSError (an `HTTPError` is one), ValueError or HTTPException; `reason` says it in words.
    """
    opener = _opener(urlsplit(url), config, env)
    return opener.open(_request("GET", url), timeout=timeout)  # type: ignore[no-any-return]  # so for http and https


def _request(method: str, url: str) -> Request:
    request = Request(without_credentials(url), method=method)  # noqa: S310  # callers have dealt with file://
    parts = urlsplit(url)
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        # not to be sent on to the host of a redirection
        request.add_unredirected_header("Authorization", "Basic " + b64encode(pair.encode()).decode())
    return request


def _status(opener: OpenerDirector, method: str, url: str, timeout: float) -> int:
    request = _request(method, url)
    try:
        with opener.open(request, timeout=timeout) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code


def _opener(url: SplitResult, config: PipConfig, env: Mapping[str, str]) -> OpenerDirector:
    host, proxy = url.hostname or "", config.proxy or _proxy_of(url.scheme, env)
    proxies = {url.scheme: proxy} if proxy and not _is_direct(host, env) else {}
    return build_opener(ProxyHandler(proxies), HTTPSHandler(context=_tls(url, config, env)))


def _proxy_of(scheme: str, env: Mapping[str, str]) -> str | None:
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    return next((env[name] for name in names if env.get(name)), None)


def _is_direct(host: str, env: Mapping[str, str]) -> bool:
    names = [name.strip().lstrip(".") for name in (env.get("no_proxy") or env.get("NO_PROXY", "")).split(",")]
    return any(name and (name == "*" or f".{host}".endswith(f".{name}")) for name in names)


def _tls(url: SplitResult, config: PipConfig, env: Mapping[str, str]) -> ssl.SSLContext:
    file = config.cert or env.get("SSL_CERT_FILE") or None
    folder = env.get("SSL_CERT_DIR") or None
    if config.cert:
        file, folder = (None, config.cert) if Path(config.cert).is_dir() else (config.cert, None)
    if url.scheme == "https" and file and not Path(file).is_file():
        raise ValueError(f"the certificate file {file} does not exist")
    context = ssl.create_default_context(cafile=file if url.scheme == "https" else None, capath=folder)
    if config.client_cert:
        context.load_cert_chain(config.client_cert)
    if {url.hostname, f"{url.hostname}:{url.port}"} & set(config.trusted_hosts):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def reason(error: Exception, url: str, timeout: float) -> str:
    """Why `url` gave no answer, in words and without credentials."""
    host = _host(url)
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, gaierror):
        return f"the name {host} cannot be resolved"
    if isinstance(cause, TimeoutError):
        return f"{host} does not answer within {timeout:g} s"
    if isinstance(cause, ConnectionRefusedError):
        return f"{host} refuses the connection"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the TLS certificate of {host} is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS with {host} fails: {cause.reason or cause}"
    return f"{host} cannot be reached: {redact(str(cause))}"


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
