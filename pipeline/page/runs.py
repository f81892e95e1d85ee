"""The run reports: summary and audit, settings, time, throughput."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from itertools import starmap
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline.command import INSTALLED
from pipeline.page.charts import Event, Swatch, columns, legend, line, rates, stacked_bar
from pipeline.page.parts import (
    DASH,
    EMPTY,
    copy_button,
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
from pipeline.page.state import audit, entries, numbers, state, whole
from pipeline.page.truth import verdict
from pipeline.plan.forgotten import is_of_forgetting

if TYPE_CHECKING:
    from pipeline.plan.verify import Verification

TITLES = {"embed": "Embeddings", "label": "Labels", "segment": "Segmentation", "tokens": "Visual tokens"}
STEPS = {"read_s": "Read", "decode_s": "Decode", "predict_s": "Predict", "write_s": "Write"}
DIGEST = re.compile("[0-9a-f]{40,}")  # a long checksum, of which the beginning is enough
OVERWRITE = "--overwrite"
SHOWN_RUNS, SHOWN_BARS = 20, 4


def title_of(account: Account) -> str:
    """What the output holds, and of how many images."""
    task = account.bound.task
    planned = whole(account).get("planned")
    name = TITLES.get(task) or task.replace("_", " ").replace("-", " ").strip().capitalize()
    return name + (f" of {plural(int(planned), 'image')}" if planned is not None else "")


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
        '<section id="summary" aria-label="Summary">{}<dl class="tiles">{}</dl>{}{}</section>',
        *(state(account, verified), joined(drawn), audit(account, verified), _commands(account)),
    )


def _commands(account: Account) -> Markup:
    """The command that the newest run was given, and the one that reads every row and draws the page again."""
    newest = (run for run in reversed(account.runs) if not is_of_forgetting(run))
    given = next((str(run["command"]) for run in newest if run.get("command")), "")
    report = "beit report" if given.startswith(f"{INSTALLED} ") else "python jobs/report.py"
    verify = f"{report} {shlex.quote(account.place.root)} --verify"
    again = (
        "Start over: --overwrite deletes what is there" if OVERWRITE in given.split() else "Run again, for what is new"
    )
    shown = [(again, given)] if given else []
    return joined(starmap(_command, [*shown, ("Read every row, and draw this page again", verify)]))


def _command(said: str, text: str) -> Markup:
    """A command to copy; where it is too long for a line, it is broken between words, not behind a hyphen."""
    words = Markup(" ").join(html("<i>{}</i>", word) for word in text.split(" "))
    return html('<div class="command"><span>{}</span><code>{}</code>{}</div>', said, words, copy_button(text, "Copy"))


def settings(account: Account) -> Markup:
    """What the output is bound to."""
    bound = account.bound
    flat: dict[str, object] = {"task": bound.task}
    flat |= {f"model {name}": value for name, value in asdict(bound.model).items()}
    flat |= {name.replace("_", " "): value for name, value in bound.settings.items()}
    for name, value in bound.to_json().items():
        if name not in ("task", "model", "settings", "versions", "labels"):
            flat[name.replace("_", " ")] = value
    flat |= {f"{name} version": value for name, value in bound.versions.items()}
    items = [html("<div><dt>{}</dt><dd>{}</dd></div>", name, _plain(value)) for name, value in flat.items()]
    lead = "What this output is bound to; a run with other settings is refused."
    drawn = html('<details><summary>{}</summary><dl class="facts">{}</dl></details>', lead, joined(items))
    return section("settings", "Settings", "", drawn)


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
    return section(
        "runs",
        "Runs",
        lead,
        _over_time(account.runs),
        table("Runs, newest first", heads, map(_run_cells, shown), range(4, 9)),
    )


def _over_time(runs: list[Report]) -> Markup:
    """A column per run, oldest first: how many images it did."""
    events = []
    for run in runs:
        done, failed = numbers(run, "images").get("done", 0), sum(numbers(run, "errors").values())
        began = str(run.get("started", run["run"]))[:16].replace("T", " ")
        said = f"{began}: {plural(int(done), 'image')} in {duration(run.get('seconds'))}"
        events.append(Event(began, float(done), float(min(failed, done)), said))
    is_telling = len(events) > 1 and any(event.height for event in events)
    return columns("Images of each run", events) if is_telling else EMPTY


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
        values = [
            Swatch(name, f"{duration(spent)} · {share(spent / total)}", style=f"s{place}")
            for place, (name, spent) in enumerate(entries, 1)
        ]
        started = moment(run.get("started", run["run"]))
        rows.append(
            html(
                '<div class="step"><p>{}</p>{}{}</div>', started, stacked_bar("Time per step", entries), legend(values)
            )
        )
    return subsection("Time per step", "Added up over all workers of a run.", *rows)


def _throughput(account: Account) -> Markup:
    for run in reversed(account.runs):
        progress = [pair for pair in entries(run, "throughput") if isinstance(pair, list) and len(pair) == 2]
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
