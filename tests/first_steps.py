"""From an empty home to a paid, streamed tool call, typed into a real terminal: `python tests/first_steps.py` writes
docs/first-steps.md anew.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import sys
import tempfile
import time
from pathlib import Path

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "first-steps.md"
SECONDS = 90
PORT, GATEWAY = 4402, 4420
PROMPT = "$ "
TOOL_CALL = {
    "model": "sandbox-1",
    "stream": True,
    "messages": [{"role": "user", "content": "Do I need an umbrella in Oslo this week?"}],
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "forecast",
                "description": "The weather to come.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                    "required": ["city", "days"],
                },
            },
        }
    ],
}
FILE = json.dumps(TOOL_CALL, indent=2)
"""As the page shows it, blanks and all: they count in the price."""
TEXT = """\
# First steps

This is a recorded terminal session, from an empty home to a paid, streamed tool call. (A program typed it into a real
shell: `python tests/first_steps.py` writes this page.) The gateway is the sandbox on the same machine, which takes play
money and gives every wallet 1000 USDC of it. To follow it, run `./run.sh sandbox --once` first, which installs what is
needed, and save `tool-call.json` from the end of this page. Then run `.venv/bin/python -m mitmproxy_x402.sandbox` in
another terminal, and set `X402_UPSTREAM=http://127.0.0.1:4420` and
`X402_EVM_RPC=base-sepolia=http://127.0.0.1:4420/v1/rpc/base-sepolia`. With a real gateway set neither, and send a few
dollars to the address that `./run.sh wallet fund` shows.

{typed} characters were typed. The words of the backup are left out, and so are most events of the stream.

```console
{session}
```

`tool-call.json` holds the request:

```json
{request}
```
"""


class Terminal:
    """A shell at a pseudo-terminal: types into it, waits for what it shows, and keeps all of that."""

    def __init__(self, home: Path, port: int, gateway: str) -> None:
        start = f'exec "{sys.executable}" -I -m mitmproxy_x402 "$@"'
        (home / "run.sh").write_text(f"#!/bin/sh\nexport X402_PROGRAM=./run.sh\n{start}\n")
        (home / "run.sh").chmod(0o755)
        (home / "tool-call.json").write_text(FILE)
        environ = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "TERM": "dumb",
            "PS1": PROMPT,
            "COLUMNS": "160",
            "LANG": "C.UTF-8",
            "X402_UPSTREAM": gateway,
            "X402_EVM_RPC": f"base-sepolia={gateway}/v1/rpc/base-sepolia",
            "PORT": str(port),
        }
        self.pid, self._fd = pty.fork()
        if not self.pid:
            os.chdir(home)
            os.execve("/bin/sh", ["sh", "-i"], environ)
        self.shown = ""
        self.typed = 0
        self._seen = 0

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until `pattern` is shown, after what was waited for before."""
        end = time.monotonic() + SECONDS
        while (found := re.compile(pattern, re.DOTALL).search(self.shown, self._seen)) is None:
            assert time.monotonic() < end, f"{pattern!r} is not in {self.shown[self._seen :]!r}"
            if select.select([self._fd], [], [], 0.2)[0]:
                self.shown += os.read(self._fd, 65536).decode(errors="replace")
        self._seen = found.end()
        return found

    def type(self, text: str) -> None:
        self.typed += len(text)
        os.write(self._fd, text.encode())

    def close(self) -> None:
        os.killpg(os.getpgid(self.pid), signal.SIGHUP)
        os.close(self._fd)
        os.waitpid(self.pid, 0)


def play(home: Path, port: int, gateway_port: int) -> Terminal:
    """Play the whole session. Returns the terminal, which has what was shown and how much was typed."""
    config = SandboxConfig(networks=("base-sepolia",), port=gateway_port)
    with Sandbox(config).run_in_thread() as gateway:
        terminal = Terminal(home, port, gateway.url)
        try:
            _play(terminal, port)
        finally:
            terminal.close()
    return terminal


def _play(terminal: Terminal, port: int) -> None:
    at = "" if port == PORT else f" -p {port}"
    terminal.expect(re.escape(PROMPT))
    terminal.type("./run.sh wallet new --evm\n")
    words = dict(
        re.findall(r" (\d+) ([a-z]+)", terminal.expect(r"Nobody can give.*Press Enter[^\n]*screen\. ").group())
    )
    terminal.type("\n")
    for _ in range(2):
        place = terminal.expect(r"Word number (\d+) \(not shown\): ").group(1)
        terminal.type(f"{words[place]}\n")
    terminal.expect(r"New wallet 0x[0-9a-fA-F]{40}.*\n" + re.escape(PROMPT))
    terminal.type("./run.sh wallet\n")
    terminal.expect(r"To add money: .*\n" + re.escape(PROMPT))
    terminal.type(f"./run.sh check{at}\n")
    terminal.expect(r"All is ok\.\s+" + re.escape(PROMPT))
    terminal.type(f"./run.sh{at} >proxy.log 2>&1 &\n")
    terminal.expect(re.escape(PROMPT))
    terminal.type(f"curl -sN --retry 20 --retry-connrefused 127.0.0.1:{port}/v1/chat/completions -d @tool-call.json\n")
    terminal.expect(r"tool_calls.*data: \[DONE\]\s+" + re.escape(PROMPT))
    terminal.type("./run.sh report\n")
    terminal.expect(r"base-sepolia.*\n" + re.escape(PROMPT))
    terminal.type("kill %1\n")
    terminal.expect(re.escape(PROMPT))


def _left_out(word: re.Match[str]) -> str:
    return f"{word.group(1):>5} ......"


def page(terminal: Terminal, home: Path) -> str:
    """The session as a page, without what is secret or long."""
    shown = re.sub(r"[^\n]*\r\x1b\[K", "", terminal.shown)  # spinners
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown).replace("\r\n", "\n").replace("\r", "")
    text = text.replace(str(home), "/home/you")
    text = re.sub(r"(?m)^(?: +\d+ [a-z]+ *){4}$", lambda row: re.sub(r" +(\d+) [a-z]+", _left_out, row.group()), text)
    text = re.sub(r"(?m)^(data: .{100}).+$", r"\1 ...", text)
    text = re.sub(r"(?m) +$", "", text)
    events = text.split("\n\n")
    kept = [event for n, event in enumerate(events) if not event.startswith("data: ") or n % 6 == 0 or "DONE" in event]
    session = "\n\n".join(kept).strip().removesuffix("$").strip()
    return TEXT.format(typed=terminal.typed, session=session, request=FILE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(play(Path(folder), PORT, GATEWAY), Path(folder)))
