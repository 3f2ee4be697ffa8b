"""Writes the report as one self-contained HTML page, without scripts, fonts or requests, in light and dark.

Every text from outside is escaped, and the page's own policy lets a browser load nothing, should one slip through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from .. import __version__
from ..ledger.reading import Entry
from ..machine.program import program
from ..protocol.amounts import format_usd
from . import chart as report_chart
from .style import STYLE
from .sums import WORDS, Report, Sum
from .text import ceilings, count, plain

LATEST = 50
"""Payments that are listed one by one."""
FEW = 12
"""Rows of a table; the rest waits behind a click."""

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>What was paid: {total} USD</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>What was paid</h1>
<p>{period} · {made}</p>
</header>
{body}
<footer>
<p>Amounts are US dollars; stablecoins count one to one. Days and months are those of {zone}.</p>
<p>From <code>{ledger}</code> by mitmproxy-x402 {version}. This page loads nothing from anywhere.</p>
</footer>
</main>
</body>
</html>
"""


def page(report: Report) -> str:
    """The whole page as text."""
    body = [_cards(report)]
    if report.total.payments:
        body.append(_charts(report))
        body.append('<div class="pair"><div>')
        body.append(_sums("By model", report.by_model, report_chart.ranking(report.by_model)))
        body.append(_sums("By network", report.by_network, report_chart.ranking(report.by_network)))
        body.append(_sums("By client", report.by_client, ()))
        body.append("</div><div>")
        body.append(_sums("By path", report.by_path, ()))
        body.append(_sums("By day", dict(reversed(list(report.by_day.items()))), ()))
        body.append("</div></div>")
    elif not report.groups:
        body.append('<section class="empty"><p>Nothing was paid yet. Come back when something was.</p></section>')
    body += [_ceilings(report), _findings(report), _unknown(report), _latest(report)]
    return PAGE.format(
        total=format_usd(report.total.micro_usd),
        style=STYLE,
        period=f"since {report.since:%d %B %Y}" if report.since else "since the first payment",
        made=f"{report.made:%d %B %Y, %H:%M}",
        zone=escape(report.made.tzname() or "this machine"),
        body="\n".join(part for part in body if part),
        ledger=escape(plain(report.ledger)),
        version=__version__,
    )


def _cards(report: Report) -> str:
    cards = [
        _card("Today", report.today),
        _card("This month", report.month),
        _card("In this period" if report.since else "In all", report.total),
        _card("Not confirmed yet", report.total.open, "warn" if report.total.open_payments else "", "sent, and spent"),
    ]
    return f'<section class="cards">{"".join(cards)}</section>'


def _card(title: str, each: Sum, kind: str = "", note: str = "") -> str:
    whole, point, part = format_usd(each.micro_usd).partition(".")
    small = f"<small>{point}{part}</small>" if part else ""
    more = f", {note}" if note and each.payments else ""
    if not note and each.open_payments:
        confirmed, still = format_usd(each.confirmed.micro_usd), format_usd(each.open_micro_usd)
        more = f": {confirmed} confirmed, {still} not confirmed yet"
    return (
        f'<div class="card {kind}"><h2>{title}</h2><p class="sum"><span>$</span>{whole}{small}</p>'
        f"<p>{count(each.payments)}{more}</p></div>"
    )


def _charts(report: Report) -> str:
    """Both charts; which one shows is a matter of two radio buttons, so that no script is needed."""
    unit = {1: "day", 7: "week"}.get(_distance(report), "month")
    models, networks = report_chart.ranking(report.by_model), report_chart.ranking(report.by_network)
    title = f"Spent per {unit}"
    by_model = report_chart.svg(report, f"{title}, by model", models, lambda group: group.what)
    by_network = report_chart.svg(report, f"{title}, by network", networks, lambda group: report.network(group.network))
    return f"""<section class="chart">
<h2>{title}</h2>
<input type="radio" name="by" id="by-model" checked><label for="by-model">by model</label><!--
--><input type="radio" name="by" id="by-network"><label for="by-network">by network</label>
<figure class="of-model"><div class="scroll">{by_model}</div>{_legend(models)}</figure>
<figure class="of-network"><div class="scroll">{by_network}</div>{_legend(networks)}</figure>
</section>"""


def _distance(report: Report) -> int:
    first, second, *_ = report_chart.slots(report)
    return (second.first - first.first).days


def _legend(names: Sequence[str]) -> str:
    items = (f'<li><i class="c{number}"></i>{escape(plain(name, 60))}</li>' for number, name in enumerate(names))
    return f"<figcaption><ul>{''.join(items)}</ul></figcaption>"


def _sums(title: str, rows: Mapping[str, Sum], colours: Sequence[str]) -> str:
    most = max(each.micro_usd for each in rows.values()) or 1
    lines = []
    for name, each in rows.items():
        colour = colours.index(name) if name in colours else len(colours) - 1 if colours else "x"
        share = each.micro_usd * 1000 // most
        lines.append(
            f'<tr><th scope="row"><span>{escape(plain(name, 80))}</span>'
            f'<i class="share c{colour}" style="width:{share // 10}.{share % 10}%"></i></th>'
            f"<td>{each.payments}</td><td>{_usd(each.micro_usd)}</td></tr>"
        )
    return _folded(title, _head("", "payments", "USD"), lines, kind="sums")


def _folded(title: str, head: str, lines: Sequence[str], *, kind: str, note: str = "") -> str:
    """A table whose first rows show, the others on demand."""

    def table(rows: Iterable[str], top: str) -> str:
        return f'<div class="scroll"><table class="{kind}">{top}<tbody>{"".join(rows)}</tbody></table></div>'

    said = f"<p>{note}</p>" if note else ""
    rest = ""
    if len(lines) > FEW:
        rest = f"<details><summary>{len(lines) - FEW} more</summary>{table(lines[FEW:], '')}</details>"
    return f"<section><h2>{title}</h2>{said}{table(lines[:FEW], head)}{rest}</section>"


def _head(*titles: str) -> str:
    return f"<thead><tr>{''.join(f'<th>{title}</th>' for title in titles)}</tr></thead>"


def _usd(micro_usd: int) -> str:
    """An amount with room for all six decimals, so that the points of a column are in line."""
    text = format_usd(micro_usd)
    _, point, part = text.partition(".")
    missing = "0" * (6 - len(part)) if point else ".000000"
    return f'{text}<span class="pad" aria-hidden="true">{missing}</span>'


def _unknown(report: Report) -> str:
    unknown = report.unknown
    if not unknown:
        return ""
    lines = [
        f"<tr><td>{_time(report, entry)}</td><td>{_usd(entry.micro_usd)}</td><td>{_what(entry)}</td>"
        f'<td>{escape(report.network(entry.network))}</td><td class="code">{escape(plain(entry.reference))}</td></tr>'
        for entry in unknown
    ]
    head = _head("time", "USD", "for", "network", "reference")
    note = f"These count as spent. <code>{escape(program())} reconcile</code> asks the chain about them."
    if more := report.of("unknown").payments - len(unknown):
        note += f" {count(more)} more are in <code>--csv</code>."
    return _folded("Sent, not confirmed yet", head, lines, kind="list", note=note)


def _ceilings(report: Report) -> str:
    said = ceilings(report.ceilings)
    return f"<section><p>{escape(' '.join(said))}</p></section>" if said else ""


def _findings(report: Report) -> str:
    if not report.findings:
        return ""
    lines = [
        f"<tr><td>{_time(report, entry)}</td><td>{_usd(entry.micro_usd)}</td><td>{_what(entry)}</td>"
        f'<td>{escape(plain(entry.finding))}</td><td class="code">{escape(plain(entry.transaction))}</td>'
        f'<td class="code">{escape(plain(entry.chain_transaction or "nothing moved"))}</td></tr>'
        for entry in report.findings
    ]
    head = _head("time", "USD", "for", "finding", "the gateway said", "the chain says")
    return _folded("The chain contradicts the gateway", head, lines, kind="list")


def _latest(report: Report) -> str:
    latest = tuple(reversed(report.entries))[:LATEST]
    if not latest:
        return ""
    lines = [
        f"<tr><td>{_time(report, entry)}</td><td>{_usd(entry.micro_usd)}</td><td>{_what(entry)}</td>"
        f"<td>{escape(report.network(entry.network))}</td>"
        f'<td><span class="state {entry.fate.replace(" ", "-")}">{WORDS[entry.fate]}</span></td>'
        f'<td class="code">{escape(plain(entry.chain_transaction or entry.transaction or entry.code))}</td></tr>'
        for entry in latest
    ]
    head = _head("time", "USD", "for", "network", "state", "transaction")
    return _folded("Latest payments", head, lines, kind="list")


def _time(report: Report, entry: Entry) -> str:
    moment = report.moment(entry)
    return f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d %H:%M}</time>'


def _what(entry: Entry) -> str:
    return f"<span>{escape(plain(entry.what, 80))}</span>"
