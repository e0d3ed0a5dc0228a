"""Writes docs/settings.md from the settings classes; `make docs` runs it.

python docs/generate_settings.py
"""

from __future__ import annotations

from pathlib import Path

from lensemble.gateway.settings import GatewaySettings
from lensemble.settings import Settings
from lensemble.settings_base import SettingsBase, describe_settings

PAGE = Path(__file__).with_name("settings.md")

_HEADER = """\
# Settings

For operators: every environment variable that a server and a gateway read. This page is generated
from the code by `make docs`; do not edit it.

An empty variable counts as not set. `lensemble doctor` names misspelt `LENSEMBLE_*` variables.

## The server

Options of `lensemble up`, such as `--checkpoint` and `--index`, win over these variables. Triton's
model processes read them, too, so a compose file can set them directly.

{server}

## The gateway

`lensemble up --gateway` starts a gateway beside the server. Its options `--gateway-host`,
`--gateway-port` and `--keys` win over these variables, and it sets Triton's addresses itself. On
another machine (`pip install '.[gateway]'` in the checkout):

    LENSEMBLE_GATEWAY_TRITON=grpc://triton:8001 python -m lensemble.gateway

A variable `LENSEMBLE_GATEWAY_...` that is not in this table is refused at the start.

{gateway}

## The command line

Certificates are described under [TLS](operations.md#tls).

| variable | meaning |
|---|---|
| `LENSEMBLE_URL` | The server that commands talk to, `grpc://host:port` or `http://host:port`. |
| `LENSEMBLE_TLS` | Folder with `ca.crt`, and with `tls.crt` and `tls.key` for mutual TLS. |
"""


def table(settings: type[SettingsBase]) -> str:
    """The settings of one class as a table in Markdown."""
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for each in describe_settings(settings):
        default = f"`{each.default}`" if each.default else ""
        cells = (f"`{each.variable}`", each.type, default, each.description)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    return _HEADER.format(server=table(Settings), gateway=table(GatewaySettings))


if __name__ == "__main__":
    PAGE.write_text(page())
