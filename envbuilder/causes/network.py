"""Names, certificates, proxies: what stands between a program and the place it fetches from."""

from __future__ import annotations

from envbuilder.causes.base import Cause, Sign

_TEXTS = "the texts of pip 26, uv 0.13, git 2.39 and curl 7.88"
_EMPTY = ("no-such-version",)

CAUSES = (
    Cause(
        name="name-not-resolved",
        what=(
            "a host's name could not be looked up: there is no network here, as on compute nodes, or the name is wrong"
        ),
        signs=(
            Sign("Could not resolve host"),
            Sign("unable to resolve host address"),
            Sign("Failed to resolve", r"Failed to resolve '[^'\n]{1,255}'"),
            Sign("dns error"),
            Sign(
                "Temporary failure in name resolution",
                r"(?i)(?:connection|urlopen|gaierror).{0,300}failure in name resol",
            ),
            Sign("socket.gaierror", r"socket\.gaierror: \[Errno -\d\]"),
        ),
        remedy=(
            "fetch on a login node: `envbuilder bundle` there, `build --offline` here; or set the site's proxy "
            "or mirror"
        ),
        sources=(_TEXTS, "ARCHER2 documentation, containers: compute nodes reach no network"),
        explains=_EMPTY,
    ),
    Cause(
        name="certificate",
        what="the certificate of the server is not signed by an authority that this machine trusts",
        signs=(
            Sign("CERTIFICATE_VERIFY_FAILED"),
            Sign("invalid peer certificate"),
            Sign("server certificate verification failed"),
        ),
        remedy="point SSL_CERT_FILE (and pip's `cert`) to the bundle that holds your site's authority; check the clock",
        sources=(_TEXTS,),
        explains=_EMPTY,
    ),
    Cause(
        name="proxy",
        what="the proxy refused the connection",
        signs=(
            Sign("Tunnel connection failed", r"Tunnel connection failed: \d{3}"),
            Sign("proxy authorization required"),
            Sign("Received HTTP code 407 from proxy"),
        ),
        remedy="check HTTPS_PROXY and its credentials, and NO_PROXY for mirrors inside the site",
        sources=(_TEXTS,),
        explains=_EMPTY,
    ),
    Cause(
        name="connection-refused",
        what="nothing answers at the address that packages are fetched from",
        signs=(
            Sign("Failed to establish a new connection: [Errno 111]"),
            Sign("tcp connect error"),
            Sign(
                "Failed to connect to",
                r"curl: \(7\) Failed to connect to|unable to access '.{1,300}Failed to connect to",
            ),
        ),
        remedy=(
            "check the address of index, mirror and proxy (`pip config list`); on a compute node fetch on a "
            "login node instead"
        ),
        sources=(_TEXTS,),
        explains=_EMPTY,
    ),
    Cause(
        name="network-timeout",
        what="a server did not answer in time",
        signs=(
            Sign("Read timed out", r"HTTPS?ConnectionPool\([^)\n]{1,300}\): Read timed out"),
            Sign("operation timed out", r"cause: operation timed out"),
            Sign("connect timeout=", r"Connection to \S{1,255} timed out\. \(connect timeout="),
        ),
        remedy="run it again; raise UV_HTTP_TIMEOUT or pip's timeout; on a compute node fetch on a login node instead",
        sources=(_TEXTS,),
        explains=_EMPTY,
    ),
)
