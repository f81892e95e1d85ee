"""The run reports: summary and audit, settings, time, throughput, errors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.output.columns import OK
from pipeline.page.charts import bars, legend, line, rates, stacked_bar
from pipeline.page.parts import (
    DASH,
    EMPTY,
    count,
    duration,
    html,
    joined,
    moment,
    plural,
    rate,
    section,
    share,
    subsection,
    table,
)
from pipeline.page.sample import Account, Report, Sample
from pipeline.page.state import audit, numbers, state, whole
from pipeline.page.truth import verdict
from pipeline.source.passed import counted

if TYPE_CHECKING:
    from pipeline.plan.verify import Verification

TITLES = {"embed": "Embeddings", "label": "Labels", "segment": "Segmentation", "tokens": "Visual tokens"}
STEPS = {"read_s": "Read", "decode_s": "Decode", "predict_s": "Predict", "write_s": "Write"}
DIGEST = re.compile("[0-9a-f]{40,}")  # a long checksum, of which the beginning is enough
SHOWN_RUNS, SHOWN_BARS, SHOWN_EXAMPLES = 20, 4, 12


def _list(holder: Report, name: str) -> list[object]:
    value = holder.get(name)
    return value if isinstance(value, list) else []


def title_of(account: Account) -> str:
    """What the output holds, and of how many images."""
    task = account.bound.task
    planned = whole(account).get("planned")
    return TITLES.get(task, task) + (f" of {plural(int(planned), 'image')}" if planned is not None else "")


def header(account: Account) -> Markup:
    """The title, the model and where the output lies."""
    return html(
        '<header><p class="eyebrow">{} · {}</p><h1>{}</h1><p class="uri">{}</p></header>',
        *(account.bound.task, account.bound.model.name, title_of(account), account.place.root),
    )


def summary(account: Account, sample: Sample, verified: Verification | None) -> Markup:
    """The state in one sentence, the numbers that matter, the audit."""
    images = whole(account)
    planned, failed = images.get("planned"), images.get("failed", 0)
    judged = verdict(sample.survey)
    most = max(account.runs, key=lambda run: numbers(run, "images").get("done", 0), default={})
    done = numbers(most, "images").get("done", 0)
    of = f"of {plural(int(done), 'image')}" if account.run_count > 1 and done else ""
    tiles = [
        ("images planned", count(planned), ""),
        ("with an answer", count(images.get("ok")), ""),
        ("failed", count(images.get("failed")), share(failed / planned) if planned and failed else ""),
        *([("right", judged.accuracy, f"{judged.right:,} of {len(judged.rows):,}")] if judged else []),
        ("images per second", rate(done, most.get("seconds")), of),
        ("run" if account.run_count == 1 else "runs", count(account.run_count), ""),
    ]
    if images.get("forgotten"):
        tiles.insert(3, ("forgotten", count(images["forgotten"]), ""))
    drawn = [
        html("<div><dt>{}<small>{}</small></dt><dd>{}</dd></div>", name, note, value) for name, value, note in tiles
    ]
    return html(
        '<section id="summary" aria-label="Summary">{}<dl class="tiles">{}</dl>{}</section>',
        *(state(account, verified), joined(drawn), audit(account, verified)),
    )


def settings(account: Account) -> Markup:
    """What the output is bound to."""
    bound = account.bound
    flat: dict[str, object] = {"task": bound.task}
    flat |= {f"model {name}": value for name, value in asdict(bound.model).items()}
    flat |= {name.replace("_", " "): value for name, value in bound.settings.items()}
    for name, value in bound.to_json().items():
        if name not in ("task", "model", "settings", "versions"):
            flat[name.replace("_", " ")] = value
    flat |= {f"{name} version": value for name, value in bound.versions.items()}
    items = [html("<div><dt>{}</dt><dd>{}</dd></div>", name, _plain(value)) for name, value in flat.items()]
    lead = "What this output is bound to; a run with other settings is refused."
    return section("settings", "Settings", lead, html('<dl class="facts">{}</dl>', joined(items)))


def _plain(value: object) -> str:
    if value is None or value == [] or value == {}:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return f"{text[:12]}..." if DIGEST.fullmatch(text) else text


def runs(account: Account) -> Markup:
    """The newest runs, newest first."""
    shown = account.runs[: -SHOWN_RUNS - 1 : -1]
    if not shown:
        return section("runs", "Runs", "No run has ended yet.")
    heads = ("Started (UTC)", "Mode", "Workers", "Device", "Images", "Failed", "Time", "Images/s", "Exit")
    lead = "" if len(shown) == account.run_count else f"The newest {len(shown)} of {account.run_count:,}."
    return section("runs", "Runs", lead, table("Runs, newest first", heads, map(_run_cells, shown), range(4, 9)))


def _run_cells(run: Report) -> list[object]:
    images, seconds = numbers(run, "images"), run.get("seconds")
    failed = int(sum(numbers(run, "errors").values()))
    plain = [run[name] if run.get(name) is not None else DASH for name in ("mode", "workers", "device")]
    done = images.get("done")
    ended = "interrupted" if run.get("interrupted") else run["exit"] if run.get("exit") is not None else DASH
    return [
        moment(run.get("started", run["run"])),
        *plain,
        count(done),
        failed,
        duration(seconds),
        rate(done, seconds),
        ended,
    ]


def timing(account: Account) -> Markup:
    """Where the time went, and how fast images came."""
    parts = [_steps(account), _throughput(account)]
    body = [part for part in parts if part]
    return section("time", "Time", "", html('<div class="columns">{}</div>', joined(body))) if body else EMPTY


def _steps(account: Account) -> Markup:
    with_steps = [(run, found) for run in account.runs if sum((found := numbers(run, "steps")).values()) > 0]
    if not with_steps:
        return EMPTY
    names = list(dict.fromkeys([*STEPS, *(name for _, found in with_steps for name in found)]))
    rows = []
    for run, found in with_steps[: -SHOWN_BARS - 1 : -1]:
        entries = [(STEPS.get(name, name), found.get(name, 0.0)) for name in names]
        total = sum(found.values())
        values = [(f"s{i}", name, f"{duration(v)} · {share(v / total)}") for i, (name, v) in enumerate(entries, 1)]
        started = moment(run.get("started", run["run"]))
        rows.append(
            html(
                '<div class="step"><p>{}</p>{}{}</div>', started, stacked_bar("Time per step", entries), legend(values)
            )
        )
    return subsection("Time per step", "Added up over all workers of a run.", *rows)


def _throughput(account: Account) -> Markup:
    for run in reversed(account.runs):
        progress = [pair for pair in _list(run, "throughput") if isinstance(pair, list) and len(pair) == 2]
        points = rates(progress)
        if len(progress) > 1 and points:
            mean = max(n for _, n in progress) / points[-1][0]
            lead = html(
                "Images per second, {}; the dashed line is the average, {}.",
                moment(run.get("started", run["run"])),
                rate(mean, 1),
            )
            return subsection("Throughput", lead, line("Images per second", points, mean))
    return EMPTY


def errors(account: Account, sample: Sample) -> Markup:
    """Failures by kind, with examples; what a listing passed over."""
    kinds, examples = _kinds_of(account), _examples(account, sample)
    parts = (_kinds(kinds), _failed(examples), _passed_by(account.last))
    lead = "" if kinds or examples else "None."
    if kinds and len(account.runs) > 1:
        lead = "Counted in each run: an image that was tried again counts again."
    return section("errors", "Errors", lead, *filter(None, parts))


def _kinds_of(account: Account) -> Counter[str]:
    """Failures by kind in all reports, added up."""
    total: Counter[str] = Counter()
    for run in account.runs:
        total.update({kind: int(value) for kind, value in numbers(run, "errors").items()})
    return total


def _kinds(kinds: Counter[str]) -> Markup:
    entries = [(name, float(number), f"{number:,}") for name, number in kinds.most_common()]
    return bars("Failed images by kind", entries, kind="bad") if entries else EMPTY


def _failed(examples: list[tuple[Markup, Markup, str]]) -> Markup:
    return table("Failed images", ("Image", "Status", "Why"), examples) if examples else EMPTY


def _passed_by(run: Report) -> Markup:
    """What the newest run's listing passed by: it has seen the whole source, as each run before it."""
    names = {"unreadable": "Photos that could not be read there, passed by", "skipped": "Not images, passed by"}
    found = {said: {kind: int(number) for kind, number in numbers(run, name).items()} for name, said in names.items()}
    return joined(html('<p class="lead">{}: {}.</p>', said, counted(kinds)) for said, kinds in found.items() if kinds)


def _examples(account: Account, sample: Sample) -> list[tuple[Markup, Markup, str]]:
    shown: list[Mapping[str, object]] = [
        example for run in reversed(account.runs) for example in _list(run, "examples") if isinstance(example, dict)
    ]
    shown += [row for row in sample.rows if row.get("status") != OK]
    unique = {str(example.get("uri")): example for example in reversed(shown)}
    newest = list(reversed(unique.values()))[:SHOWN_EXAMPLES]
    return [
        (
            html('<span class="uri">{}</span>', e.get("uri")),
            html("<code>{}</code>", e.get("status") or DASH),
            str(e.get("error") or DASH),
        )
        for e in newest
    ]
