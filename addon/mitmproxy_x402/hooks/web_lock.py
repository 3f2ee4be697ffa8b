"""Keeps mitmweb's page from changing anything that could expose the key or allow more spending.

The page's API sets any option and runs any command: `scripts` runs code in our process, `save_stream_file` overwrites
files.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mitmproxy import exceptions

from ..machine.private_files import folder_objection

HARMLESS = frozenset(
    {
        *("view_filter", "view_order", "view_order_reversed", "web_columns", "web_theme", "showhost"),
        *("content_view_lines_cutoff", "console_focus_follow", "intercept", "intercept_active"),
    }
)
"""mitmproxy's options that only change what is displayed, or hold flows until they are looked at."""
COMMANDS = (
    *("script.run", "options.load", "options.save", "save.file", "save.har", "export.file", "cut.save"),
    *("view.flows.load", "replay.client.file", "replay.server.file", "browser.start"),
)
"""Commands that run code, start programs, or read or write files."""


def is_web(master: Any) -> bool:
    """Whether the process is mitmweb."""
    return type(master).__name__ == "WebMaster"


class WebLock:
    """Guards the options of one `master`. `objection` returns why options of ours may not change, or None."""

    def __init__(self, master: Any, objection: Callable[[dict[str, Any]], str | None]) -> None:
        self._options = master.options
        self._objection = objection
        self._update = self._options.update_known
        object.__setattr__(self._options, "update_known", self._update_known)
        object.__setattr__(self._options, "reset", self._reset)
        for name in COMMANDS:
            master.commands.commands.pop(name, None)

    def remove(self) -> None:
        """Stop guarding the options; removed commands stay removed."""
        for name in ("update_known", "reset"):
            vars(self._options).pop(name, None)

    def _update_known(self, **changes: Any) -> dict[str, Any]:
        known: dict[str, Any] = {
            name: value
            for name, value in changes.items()
            if name in self._options and getattr(self._options, name) != value
        }
        if known:
            for name, value in known.items():
                if name.startswith("x402_") and not isinstance(value, str):
                    raise exceptions.OptionsError(
                        f'{name}: expected text, as in "true" or "0.5", and got {value!r:.60}'
                    )
                if name not in HARMLESS and not name.startswith("x402_"):
                    raise exceptions.OptionsError(
                        f"{name} cannot be changed from mitmweb while a wallet is loaded: it may lead to the key. Set "
                        "it when starting the proxy, or start it with x402_web_options=true."
                    )
            why = self._objection({name: value for name, value in known.items() if name.startswith("x402_")})
            if why is not None:
                raise exceptions.OptionsError(why)
        left: dict[str, Any] = self._update(**changes)
        return left

    def _reset(self) -> None:
        raise exceptions.OptionsError("Options cannot be reset from mitmweb while a wallet is loaded.")


def open_by_file(folder: Path) -> None:
    """Make mitmweb open its browser with a private file instead of the address that contains the token.

    All users of the machine can see a browser's arguments. `folder` belongs to the user alone.
    """
    from mitmproxy.tools.web import webaddons  # noqa: PLC0415  # only mitmweb needs it

    opener = webaddons.open_browser
    if not isinstance(opener, functools.partial):
        vars(webaddons)["open_browser"] = functools.partial(_open, opener, folder)


def _open(opener: Callable[[str], bool], folder: Path, url: str) -> bool:
    if "token=" not in url:
        return opener(url)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder_objection(folder) is not None:
        return False  # mitmweb prints the address
    for old in folder.glob("mitmweb-*.html"):
        old.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(".html", "mitmweb-", folder)  # mode 0600
    with os.fdopen(descriptor, "w") as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={url}"><a href="{url}">mitmweb</a>\n')
    return opener(Path(name).as_uri())
