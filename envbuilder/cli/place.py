"""The store that a command means."""

from __future__ import annotations

import os

from envbuilder import store
from envbuilder.store import Store


def opened(site: str) -> Store:
    """The store of a site; the site's file is read only where it may decide."""
    if os.environ.get("ENVBUILDER_HOME"):
        return store.locate(os.environ)
    from envbuilder import catalog

    return store.locate(os.environ, catalog.find_site(site, os.environ)[0].paths.root)
