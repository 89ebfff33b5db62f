"""CARD.md: the page that a physician and a security officer read before a job runs in
their building.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from wardround.core.traits import STEADY
from wardround.flare.reported_settings import plain
from wardround.jobs.building import build, shared_layout
from wardround.jobs.card_privacy import privacy_notes
from wardround.jobs.joint_card import joint_cost, joint_round
from wardround.jobs.recipes import Job
from wardround.models import weights_words

VERDICT = (
    "The report names the model to deploy for each hospital, or says that joining did not help, or that no model here is usable "
    "yet, because none is clearly better than chance (classes) or than the least Dice (`model_selection.least_dice`)."
)
NEVER = "file names, patient identifiers, scores of single patients"
FEW = (
    "a statistic over few patients reveals their record. With fewer than 5 patients (n < 5; a hospital may ask for more in its own "
    "local/wardround.json) no score, interval or loss leaves, and no number of patients in a part or class; what leaves is that a "
    "candidate was scored, which one was chosen, and whether it is usable. With 5 or more, scores have two digits. Synthetic "
    "patients are exempt"
)


def card(job: Job) -> str:
    """Return the text of CARD.md."""
    schedule, args = job.schedule, job.algorithm["site"]["args"]
    beside = (
        "FedAvg is trained beside it in the same rounds, so that the report can compare; this doubles time and bytes.\n"
        if job.fedavg_baseline
        else ""
    )
    settings = {
        "algorithm": args,
        "sharing": job.sharing["args"] or {"everything": ""},
        **({"aggregation": job.aggregation["args"]} if job.aggregation["args"] else {}),
        **({"validation": job.validation["args"]} if job.validation else {}),
        **({"compression": job.compression["args"] or {job.compression["path"]: ""}} if job.compression else {}),
        "server": job.server_optimizer["args"],
        "model": job.task["model"]["args"],
    }
    sampling = dict(job.task["sampling"]["args"])
    # What is learnt has a row of its own, in the words of the report.
    learnt = {
        key: (f"({plain(value)})" if value else "none") if isinstance(value, Mapping) else value
        for key, value in (sampling.pop("task", None) or {}).items()
    }
    settings |= {
        "sampling": sampling,
        **({"task": learnt} if learnt else {}),
        "model_selection": job.task["model_selection"]["args"],
        "schedule": schedule,
    }
    settings |= {"privacy": {k: v for k, v in job.dp.items() if k != "unit"}} if job.dp else {}
    rows = "\n".join(f"| {group} | {_words(values)} |" for group, values in settings.items())
    hessian = (
        f"Second-order form: `wardround jobs run {job.name} --set algorithm.hessian=HF`\n\n"
        if "hessian" in args
        else ""
    )
    law = _law(job) if job.hospital_noise else ""
    law = f"What that costs: {_wrapped(joint_cost(job), '')}.\n" if job.shares_noise else law
    law += "".join(f"{_wrapped(words, '')}.\n" for words in privacy_notes(job))
    words = job.privacy.get("report")
    report = f"\nReport: {_wrapped(words, '')}.\n" if words else f"    wardround report /tmp/{job.name}\n"
    return f"""# {job.name}

**{job.title}** ({job.algorithm["source"]})
{_wrapped(job.task["purpose"], "")}

{_wrapped(job.algorithm["description"], "")}
{beside}{_begins(job)}
## What happens

{_wrapped(_course(job), "")}

## What leaves a hospital

- each round: {_wrapped(_leaves(job))}
- at the end: {_wrapped(job.privacy.get("at_the_end") or job.task["at_the_end"])}
- never: {_wrapped(f"images, masks, {'records, ' if _reads_record(job) else ''}{NEVER}")}
- few patients: {_wrapped(FEW)}
- {_wrapped(f"what stays of the model at the hospital: {_stays(job)}")}

Privacy guarantee: **{_wrapped(job.privacy["guarantee"], "")}**.
{law}What is promised here stands in one place of the job: the component `outbound` in config_fed_client.json.
Every message is noted in `releases.jsonl` in the site's own run folder before it is sent.

## Run it

    nvflare simulator jobs/{job.name} -t {len(job.federation["sites"])} -w /tmp/{job.name}
{report}
Each hospital's own report, with all its patients: `SITE/simulate_job/wardround/site_report.html` in that folder; at a
real site `KIT/JOB_ID/wardround/site_report.html`.

{hessian}If no data are configured, the simulator invents synthetic patients and says so. For real data read docs/data.md.
This job is not made for: {_wrapped(job.task["wrong_for"], "")}.

## Settings

| part | values |
|---|---|
{rows}
"""


def _begins(job: Job) -> str:
    """Return from which weights training begins; nothing where they are drawn."""
    said = weights_words.words(job.task["model"])
    return f"\n{_wrapped(f'Training begins from {said}', '')}\n" if said else ""


def _leaves(job: Job) -> str:
    """Return what leaves in each round and, where updates are compressed, in which
    form.
    """
    leaves: str = job.privacy["leaves"]
    if job.secagg is not None and job.dp is None and job.secagg["weights"] != "patients_in_sum":
        leaves += ". Where the number of patients is not only in the sum, the seconds of a round leave too"
    if job.compression is None:
        return leaves
    return f"{leaves}. The change of the weights leaves compressed, {build(job.compression, 'compression').leaves}"


def _stays(job: Job) -> str:
    """Return which parts of the model stay at the hospital, and what that does not mean
    while FedAvg is trained beside it.
    """
    sharing = build(job.sharing, "sharing")
    if job.shares_noise:
        return f"nothing; what is not trained (the job is {sharing.title}) is the same public weights everywhere"
    told = "the report names them and since when" if job.secagg is None else "only its own report names them"
    kept = (
        [
            f"{sharing.stays} ({told})" if STEADY in sharing.traits.breaks else sharing.stays,
        ]
        if sharing.stays
        else []
    )
    kept += [job.algorithm["keeps"]] if "keeps" in job.algorithm else []
    beside = "the FedAvg model that is trained beside it leaves whole (`--set fedavg_baseline=false`: without it)"
    return "; ".join(
        [
            *(kept or ["nothing, all of it is shared"]),
            *([beside] if job.fedavg_baseline and sharing.stays else []),
        ],
    )


def _course(job: Job) -> str:
    """Return what happens in the job, in order."""
    schedule, sites = job.schedule, job.federation["sites"]
    return (
        f"{schedule['num_rounds']} rounds at {len(sites)} sites ({', '.join(sites)}). {_each_round(job)}"
        f"fine-tunes the shared one ({_list(job.task['model_selection']['args']['steps'])} steps, chosen on validation), "
        f"{_mixes(job)}and scores every "
        f"candidate once on its test patients. {_checks(job)}{job.privacy.get('verdict', VERDICT)}"
    )


def _each_round(job: Job) -> str:
    """Return what a hospital does in every round, and what it trains by itself at the end."""
    if job.shares_noise:
        return joint_round(job)
    return (
        f"In every round each hospital scores the incoming model on its validation patients, spends {_work(job.schedule)} gradient "
        "evaluations (the unit of training work) on its training patients, and sends back the change. After the last round it "
        "trains a local model with the same total work, "
    )


def _mixes(job: Job) -> str:
    """Return which candidates are made of others; nothing where there are none."""
    args = job.task["model_selection"]["args"]
    blend = "takes the mean of its own model's and a shared model's probabilities as one more candidate, "
    between = "takes weights between the shared and the fine-tuned ones as one more candidate, "
    return (between if args.get("interpolate") else "") + (blend if args.get("blend") else "")


def _work(schedule: Mapping[str, Any]) -> str:
    """Return how many gradient evaluations a hospital spends in a round."""
    by_patients = schedule.get("work_by_patients")
    if by_patients is None:
        return str(schedule["work"])
    args = by_patients["args"]
    return (
        f"{args['least']:g} to {args['most']:g} times {schedule['work']} (n training patients: n / {args['reference_patients']} "
        "times, so that the time of a round tells roughly how many they are)"
    )


def _checks(job: Job) -> str:
    """Return what a hospital does with a revealed sum before it applies it; nothing where it is not checked."""
    if job.validation is None:
        return ""
    margin, floor, longest = (job.validation["args"][key] for key in ("margin", "floor", "max_norm"))
    scored = (
        "Before a hospital applies a revealed sum, it scores the model with and without it on its validation patients (one "
        f"more evaluation in every round), and refuses a sum that lowers the score by more than {margin:g} to below {floor:g}. "
    )
    bounded = (
        f"A hospital shortens its update to a norm of {longest:g} and refuses a sum whose mean is longer. "
        if longest
        else ""
    )
    left = (
        "A hospital that refuses keeps the model it has and leaves the job, and the server learns only that it refused. This "
        "does not stop an attack below these numbers, nor a backdoor. "
    )
    return f"{scored if margin else ''}{bounded}{left}"


def _law(job: Job) -> str:
    """Return the sentence that says how much of a run with hospital-level privacy can
    be signal at all.
    """
    from wardround.dp.hospital_dp import signal_to_noise

    shared, many = shared_layout(job).total, len(job.federation["sites"])
    ratio = signal_to_noise(
        build(job.hospital_noise or {}, "noise"),
        many,
        shared,
        job.schedule["num_rounds"],
    )
    words = (
        f"{shared:,} numbers are shared by {many} hospitals: over the whole run the signal is at best {ratio:.2f} times the noise "
        "(the law n mu / sqrt(numbers), times what the quorum costs). Below 1 the run is mostly noise: more hospitals or a "
        "smaller part help, more training does not. docs/results.md has measured results, including null results"
    )
    return f"What that costs: {_wrapped(words, '')}.\n"


def _wrapped(words: str, indent: str = "  ") -> str:
    return "\n".join(
        textwrap.wrap(
            words,
            118,
            initial_indent="            ",
            subsequent_indent=indent,
        ),
    ).strip()


def _reads_record(job: Job) -> bool:
    """Return whether the network receives health records (EHR). A classification task
    may have a table that is not read.
    """
    args = job.task["sampling"]["args"]
    return bool(args.get("columns")) and bool(args.get("record", True))


def _words(values: Mapping[str, Any]) -> str:
    """Return settings as a person reads them, with the unit and range of each column of
    a health record, fit for the cell of a table.
    """
    return ", ".join(f"{key} {_value(key, value)}" for key, value in values.items()) or "none"


def _value(key: str, value: Any) -> str:
    if isinstance(value, list):
        parts = [_column(one) if key == "columns" else _value("", one) for one in value]
        return f"[{('; ' if key == 'columns' else ', ').join(parts)}]"
    if isinstance(value, Mapping) and "path" in value:
        return f"{value['path']} ({_words(value['args'])})"
    if isinstance(value, Mapping):
        return f"({_words(value)})"
    named = {"None": "none", "True": "yes", "False": "no"}
    return named.get(str(value), str(value)).replace("|", "\\|")


def _column(column: Mapping[str, Any]) -> str:
    """Return one column of a health record in words, such as "sex f or m" or "age 18 to
    90 years".
    """
    if column["kind"] == "categorical":
        return f"{column['name']} {' or '.join(map(str, column['categories']))}"
    return f"{column['name']} {column['low']} to {column['high']} {column['unit']}"


def _list(values: list[int]) -> str:
    return ", ".join(str(value) for value in values)
