"""Show a page in which people draw a mask and see the lesion appear, for a server or for a browser alone.

The page is plain files: no build step, no framework. Its engine is a server (`m2l serve`), or onnxruntime-web in the
browser, where nothing that is drawn leaves the machine (`m2l web`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.imports import lazy_attributes

if TYPE_CHECKING:
    from m2l_runtime.page.config import PageMode, page_config
    from m2l_runtime.page.files import PageFile, page_files
    from m2l_runtime.page.site import SiteOptions, SiteReport, write_site

_HOMES = {
    "PageFile": "files",
    "PageMode": "config",
    "SiteOptions": "site",
    "SiteReport": "site",
    "page_config": "config",
    "page_files": "files",
    "write_site": "site",
}

__all__ = ["PageFile", "PageMode", "SiteOptions", "SiteReport", "page_config", "page_files", "write_site"]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(__name__, _HOMES)
