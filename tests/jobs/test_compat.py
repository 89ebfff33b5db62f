"""The compatibility table: what it says, that the page is its print-out, and that jobs are refused as it says."""

from __future__ import annotations

import copy
import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from wardround.cli.main import main
from wardround.core.errors import ConfigRefused
from wardround.core.traits import require_fit
from wardround.flare.job_settings import require_same
from wardround.jobs import compat, folder, recipes
from wardround.jobs.building import class_at, parts_of, require_buildable

MASKS = {"same_masks": ["sharing=klmask", "sharing.choose=head"], "klmask": ["sharing=klmask"]}
SHARINGS = {"everything": [], "roles": ["sharing=norms_at_home"], **MASKS}


def objective(cell: compat.Cell) -> bool:
    """What goes together, pair by pair, as somebody wrote it down who knows no traits."""
    secagg, dp, masks = cell["secagg"], cell["dp"], cell["sharing"] in MASKS
    summed, chosen, beside = secagg != "plaintext", cell["sharing"] == "klmask", cell["beside"] == "beside"
    compressed, robust = cell["compression"] != "none", cell["aggregation"] != "mean"
    if summed and (robust or (compressed and cell["compression"] not in ("rand_k", "low_rank"))):
        return False  # rules and most compressions read single updates
    if not summed and cell["compression"] == "low_rank":
        return False  # its factors follow from means, which no site of a plaintext job hears
    if dp == "joint" and secagg in ("plaintext", "fixed", "he", "weighted"):
        return False  # one share of the noise hides nobody, and the number of patients would be told
    if summed and compressed and dp in ("hospital", "joint"):
        return False  # what is left out would leave in a sum with other noise
    if dp == "hospital" and secagg in ("plaintext", "weighted"):
        return False  # the number of patients would be told
    if dp != "no_dp" and beside:
        return False
    if dp in ("patient", "joint") and chosen:
        return False  # masks read training patients
    if summed and chosen and beside:
        return False  # the difference of two sums
    if masks and (compressed or cell["algorithm"] == "scaffold"):
        return False
    return not (robust and cell["compression"] == "top_k")


def test_every_cell_is_what_a_list_of_pairs_says():
    found = Counter((compat.why_not(cell) is None, objective(cell)) for cell in compat.cells())
    assert set(found) == {(True, True), (False, False)}
    assert found[True, True] > 500


def test_the_conflicts_tell_every_refused_cell():
    """A cell is refused where its row is, or where one of the listed sets of options is in it."""
    closed = {row for row in compat.rows() if compat.row_misfit(row) is not None}
    for cell in compat.cells():
        told = (cell["secagg"], cell["dp"]) in closed or any(one.within(cell) for one in compat.conflicts())
        assert told == (compat.why_not(cell) is not None), cell


def test_the_page_is_what_the_command_prints(repository: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["jobs", "compat", "--markdown"]) == 0
    page = (repository / "docs" / "compatibility.md").read_text()
    assert page == capsys.readouterr().out, "print it again: wardround jobs compat --markdown > docs/compatibility.md"
    assert main(["jobs", "compat"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for axis in compat.options().values() for name in list(axis)[1:])


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        (["masked", "klmask"], 0, "goes together"),
        (["krum", "top_k"], 1, "since top_k"),
        (["hospital"], 1, "without a number of patients"),
        (["masked", "median"], 1, "since a masked sum"),
    ],
)
def test_one_combination_is_answered_with_a_reason(names, code, words, capsys):
    assert main(["jobs", "compat", *names]) == code
    assert words in capsys.readouterr().out


def test_a_job_is_answered(capsys):
    assert main(["jobs", "compat", "--job", "brats_klmask"]) == 0
    assert main(["jobs", "compat", "--job", "brats_klmask", "--set", "privacy=secagg_masks"]) == 1
    assert "--set fedavg_baseline=false" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["krum", "--markdown"], ["--set", "fedavg_baseline=true"], ["kruum"]])
def test_a_question_that_is_none_is_refused(words, capsys):
    assert main(["jobs", "compat", *words]) == 2
    assert "to do:" in capsys.readouterr().err


@cache
def printed(name: str, *settings: str) -> recipes.Job:
    return recipes.job(name, settings)


def job_of(cell: compat.Cell) -> recipes.Job:
    """Return a job with the parts of a cell; a promise of privacy and a sum are put together by hand where no fragment does."""
    name = "brats_scaffold" if cell["algorithm"] == "scaffold" else "brats_fedavg"
    masked = {"plaintext": "plaintext", "fixed": "fixed_point", "he": "secagg_he", "ring": "secagg_ring"}
    privacy = f"privacy={masked.get(cell['secagg'], 'secagg_masks')}"
    rest = [f"aggregation={cell['aggregation']}", f"compression={cell['compression']}", *SHARINGS[cell["sharing"]]]
    made = printed(name, privacy, *rest)
    privacy = dict(made.privacy)
    if made.secagg is not None:
        args = made.secagg | {"weights": "equal"}
        args |= {"encryption": True} if cell["secagg"] == "he_masks" else {}
        args |= {"weights": "patients_in_sum"} if cell["secagg"] == "weighted" else {}
        privacy["secagg"] = made.privacy["secagg"] | {"args": args}
    if cell["dp"] != "no_dp":
        source = {"patient": "brats_dp_patient", "hospital": "brats_dp_adaptive", "joint": "brats_dp_joint"}[cell["dp"]]
        private = copy.deepcopy(printed(source).privacy)
        privacy |= {key: private[key] for key in ("mechanism", "dp", "scaling") if key in private}
        if cell["dp"] == "hospital" and made.secagg is not None:
            sum_ = privacy["secagg"]["args"] | {"bits": 16}
            made_for = {key: sum_[key] for key in ("sites", "min_clients", "bits")} | {"distributed": sum_["masks"]}
            privacy["mechanism"]["args"]["promise"]["args"] |= made_for
            privacy["secagg"] = privacy["secagg"] | {"args": sum_}
        if cell["dp"] == "joint" and made.secagg is not None:
            sum_ = privacy["secagg"]["args"] | {"bits": 16}
            made_for = {key: sum_[key] for key in ("sites", "min_clients", "bits")}
            privacy["mechanism"]["args"]["promise"]["args"] |= made_for
            privacy["secagg"] = privacy["secagg"] | {"args": sum_}
    return replace(made, privacy=privacy, fedavg_baseline=cell["beside"] == "beside")


def part(value):
    """Return what NVFlare builds of a {"path", "args"}, with everything inside it."""
    if not (isinstance(value, dict) and "path" in value):
        return value
    return class_at(value["path"], "part")(**{key: part(one) for key, one in value["args"].items()})


def load(job: recipes.Job) -> None:
    """Build both ends of a printed job, and let the executor take over what `outbound` promises, as at its first task."""
    client = folder.client_config(job)
    promised = next(part(one) for one in client["components"] if one["id"] == "outbound")
    executor = part(client["executors"][0]["executor"])
    executor.trainer.bind(promised)
    part(folder.server_config(job)["workflows"][0]["args"]["mode"])


PRINTED = [
    cell
    for cell in compat.cells()
    if cell["secagg"] in ("plaintext", "masked") and (cell["compression"], cell["aggregation"]) == ("none", "mean")
]
# A row that is refused as such, and of every smallest conflict one cell.
REFUSED = [compat.cell_of(row) for row in compat.rows() if compat.row_misfit(row) is not None] + [
    compat.cell_of([*one.names, *one.rows[-1]]) for one in compat.conflicts()
]


def test_a_job_is_refused_for_the_reason_of_its_cell():
    for cell in PRINTED:
        wrong = compat.why_not(cell)
        if wrong is None:
            require_fit(parts_of(job_of(cell)))
            continue
        with pytest.raises(ConfigRefused) as caught:
            require_fit(parts_of(job_of(cell)))
        assert str(caught.value) == str(wrong.refusal()), cell


def test_a_job_that_does_not_fit_is_not_printed():
    """`require_buildable` is what every way to print or run a job asks."""
    for cell in REFUSED:
        with pytest.raises(ConfigRefused) as caught:
            require_buildable(job_of(cell))
        assert str(caught.value) == str(compat.why_not(cell).refusal()), cell


def test_a_job_that_does_not_fit_is_not_loaded():
    """Somebody has written its two configs by hand: a hospital or the server refuses it for the same reason."""
    for cell in REFUSED:
        job = job_of(cell)
        if cell["secagg"] != "plaintext" and cell["aggregation"] != "mean":
            # The server of a secure sum has no aggregation that a config could name.
            assert "aggregation" not in folder.server_config(job)["workflows"][0]["args"]["mode"]["args"]
            continue
        with pytest.raises(ConfigRefused) as caught:
            load(job)
        wrong = compat.why_not(cell)
        assert (caught.value.expected, caught.value.found.partition(" (since")[0]) == (wrong.expected, wrong.found), (
            cell
        )


@pytest.mark.parametrize(
    "settings",
    [
        ["aggregation=median", "federation.min_clients=3"],
        ["compression=top_k", "compression.share=0.02"],
        ["compression=half", "sharing=norms_at_home"],
        ["privacy=secagg_masks", "sharing=klmask"],
        ["privacy=secagg_masks", "compression=rand_k", "compression.period=8"],
        ["privacy=secagg_he", "compression=low_rank", "compression.rank=2"],
        ["privacy=secagg_ring", "compression=rand_k", "sharing=norms_at_home"],
        ["privacy=secagg_ring", "compression=low_rank", "validation=own_patients"],
    ],
)
def test_what_fits_is_printed_and_loaded(settings):
    job = recipes.job("brats_fedavg", settings)
    require_buildable(job)
    load(job)


def test_a_compression_is_in_both_configs_with_the_seed_of_the_job_and_on_the_card():
    job = recipes.job("brats_fedavg", ["compression=rand_k", "compression.period=8", "task.seed=3"])
    wanted = {"path": "wardround.compression.chosen.RandomSlices", "args": {"period": 8, "seed": 3}}
    files = folder.job_files(job)
    client, server = (json.loads(files[f"app/config/config_fed_{side}.json"]) for side in ("client", "server"))
    assert client["components"][1]["args"]["compression"] == wanted
    assert server["workflows"][0]["args"]["mode"]["args"]["compression"] == wanted
    require_same(server, client)
    assert "one of 8 slices of its values" in " ".join(files["CARD.md"].split())
    server["workflows"][0]["args"]["mode"]["args"]["compression"]["args"]["period"] = 4
    with pytest.raises(ConfigRefused, match="the report would say"):
        require_same(server, client)


def test_a_compression_that_is_none_is_refused():
    with pytest.raises(ConfigRefused, match="did you mean top_k"):
        recipes.job("brats_fedavg", ["compression=topk"])
