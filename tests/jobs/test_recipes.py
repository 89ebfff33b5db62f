"""One job from app_configs/: which fragments it takes, which settings change it, and what is refused."""

import json

import pytest

from wardround.core.errors import ConfigRefused
from wardround.jobs import folder, fragments, recipes
from wardround.jobs.building import require_buildable

PRIVACY = ("fixed_point", "secagg_he", "plaintext", "secagg_masks", "secagg_ring")
SECAGG = ("fixed_point", "secagg_he", "secagg_masks", "secagg_ring")


@pytest.mark.parametrize("name", ["brats_scaffold", "brats_perfedavg", "brats_fedrep"])
@pytest.mark.parametrize("privacy", SECAGG)
def test_any_job_can_be_printed_with_a_hidden_sum(name, privacy):
    made = recipes.job(name, [f"privacy={privacy}"])
    assert made.privacy["kind"] == "secagg"
    assert made.secagg["min_clients"] == made.federation["min_clients"] == 3
    require_buildable(made)
    files = folder.job_files(made)
    client = json.loads(files["app/config/config_fed_client.json"])
    assert client["executors"][0]["executor"]["path"] == "wardround.flare.executor.SiteExecutor"
    assert made.privacy["title"] in files["app/config/config_fed_server.json"]
    assert json.loads(files["meta.json"])["min_clients"] == 3


def test_the_name_of_the_job_does_not_decide():
    """A job with a secure sum printed in plaintext is the open job under another name."""
    opened, plain = recipes.job("brats_fedavg_he", ["privacy=plaintext"]), recipes.job("brats_fedavg")
    assert opened.secagg is None
    assert folder.client_config(opened) == folder.client_config(plain)


def test_the_last_wish_counts():
    made = recipes.job("brats_fedavg", ["privacy=secagg_he", "privacy=secagg_masks"])
    assert made.privacy["title"] == "pairwise masks"


def test_in_plaintext_two_sites_are_enough():
    assert recipes.job("brats_fedavg").federation["min_clients"] == 2
    assert recipes.job("brats_fedavg").secagg is None


@pytest.mark.parametrize("wish", ["nothing", "", "../task/brats", "he.yaml", "HE"])
def test_an_unknown_privacy_fragment_is_refused(wish):
    with pytest.raises(ConfigRefused, match=f"the privacy fragment '{wish}'") as caught:
        recipes.job("brats_fedavg", [f"privacy={wish}"])
    assert all(name in caught.value.expected for name in PRIVACY)


@pytest.mark.parametrize("kind", ["task", "federation", "privacy"])
def test_an_unknown_fragment_of_any_kind_is_refused(kind):
    with pytest.raises(ConfigRefused, match=f"the {kind} fragment 'nothing'"):
        fragments.fragment(kind, "nothing")


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("secagg.bits=16", "bits", 16),
        ("secagg.weights=equal", "weights", "equal"),
        ("secagg.weights=patients_plaintext", "weights", "patients_plaintext"),
        ("secagg.masks=true", "masks", True),
        ("secagg.threshold=12", "threshold", 12),
        ("secagg.sites=64", "sites", 64),
        ("secagg.reference_patients=100", "reference_patients", 100),
    ],
)
def test_the_promise_can_be_changed_and_stands_on_both_sides(setting, key, value):
    made = recipes.job("brats_fedavg", ["privacy=secagg_he", setting])
    require_buildable(made)
    server, client = folder.server_config(made), folder.client_config(made)
    components = {one["id"]: one["args"] for one in client["components"]}
    assert server["workflows"][0]["args"]["mode"]["args"]["secagg"]["args"][key] == value
    assert components["outbound"]["secagg"]["args"][key] == value
    assert server["workflows"][0]["args"]["about"]["secagg"][key] == value


def test_the_order_of_settings_does_not_matter():
    one = recipes.job("brats_fedavg", ["secagg.bits=16", "privacy=secagg_he", "work=4"])
    other = recipes.job("brats_fedavg", ["work=4", "privacy=secagg_he", "secagg.bits=16"])
    assert folder.job_files(one) == folder.job_files(other)


def test_fewer_sites_than_the_federation_needs_is_the_federations_setting():
    made = recipes.job("brats_fedavg", ["privacy=secagg_ring", "federation.min_clients=4"])
    assert made.secagg["min_clients"] == 4
    assert folder.meta(made)["min_clients"] == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("secagg.bits=16",), "no such setting"),
        (("privacy=secagg_he", "secagg.colour=red"), "no such setting"),
        (("privacy=secagg_he", "secagg.bits"), "a name without a value"),
        (("privacy",), "a name without a value"),
    ],
)
def test_a_setting_that_the_job_does_not_have_is_refused(settings, words):
    with pytest.raises(ConfigRefused, match=words):
        recipes.job("brats_fedavg", settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("privacy=secagg_he", "secagg.bits=17"), "4 to 16 bits"),
        (("privacy=secagg_he", "secagg.bits=null"), "bits"),
        (("privacy=secagg_he", "secagg.weights=dice"), "patients_in_sum"),
        (("privacy=secagg_he", "secagg.sites=2"), "min_clients"),
        (("privacy=secagg_he", "secagg.sites=300"), "256"),
        (("privacy=secagg_he", "federation.min_clients=2"), "a sum of two tells each of them the other's update"),
        (("privacy=secagg_ring", "secagg.masks=false"), "neighbours read each other"),
        (("privacy=secagg_ring", "secagg.encryption=false"), "neighbours read each other"),
        (("privacy=secagg_masks", "secagg.threshold=2"), "threshold"),
        (("privacy=secagg_he", "secagg.reference_patients=0"), "reference_patients"),
    ],
)
def test_a_promise_that_cannot_be_kept_is_refused_before_a_folder_is_written(settings, words, tmp_path, capsys):
    from wardround.cli.main import main

    arguments = [word for setting in settings for word in ("--set", setting)]
    assert main(["jobs", "write", "brats_fedavg", *arguments, "--out", str(tmp_path / "jobs")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "jobs").exists()


def test_the_card_says_who_reads_what():
    cards = {privacy: folder.job_files(recipes.job("brats_fedavg", [f"privacy={privacy}"])) for privacy in SECAGG}
    words = {
        "fixed_point": "the server can read each hospital's update",
        "secagg_masks": "one-time",
        "secagg_he": "the server reads neither updates nor the model",
        "secagg_ring": "a partial sum, masked and encrypted",
    }
    for privacy, said in words.items():
        card = " ".join(cards[privacy]["CARD.md"].split())
        assert said in card
        assert "no differential privacy" in card or privacy == "fixed_point"


def test_the_card_says_where_reports_lie_and_what_is_learnt_in_a_row_of_its_own():
    card = folder.job_files(recipes.job("brats_dp_patient"))["CARD.md"]
    assert "`SITE/simulate_job/wardround/site_report.html`" in card
    assert (
        "| task | inputs (t1; t1ce; t2; flair), outputs (brats (ET 3; TC 1, 3; WT 1, 2, 3); whole_tumour (WT 1)),"
        in card
    )
    assert "task (" not in card


def test_the_card_names_the_record_where_the_network_reads_one_and_shows_its_columns_in_words():
    cards = {name: folder.job_files(recipes.job(name))["CARD.md"] for name in recipes.names()}
    never = {name: text.split("- never: ")[1].split("\n- ")[0] for name, text in cards.items()}
    assert {name for name, words in never.items() if "records" in words} == {"brats_ehr_fedavg", "ehr_fusion_fedavg"}
    words = "columns [age 18 to 90 years; sex f or m; crp 0 to 100 mg/l; ldh 100 to 500 U/l]"
    assert words in cards["brats_ehr_fedavg"]
    assert words in cards["tumour_type_fedavg"]
    settings = [text.split("## Settings")[1] for text in cards.values()]
    assert not [one for text in settings for one in ("{'", "['", "None", "True", "False") if one in text]
    assert all(row.count(" | ") == 1 for text in settings for row in text.splitlines() if row.startswith("| "))


def test_a_file_of_weights_is_a_promise_of_the_job_and_stands_where_people_read_it():
    digest = "0123456789abcdef" * 4
    made = recipes.job("tumour_type_fedavg", [f"model.weights={{file: /models/vit.safetensors, sha256: '{digest}'}}"])
    require_buildable(made)
    files = folder.job_files(made)
    for side in ("server", "client"):
        assert f'"sha256": "{digest}"' in files[f"app/config/config_fed_{side}.json"]
    assert digest in files["CARD.md"]
    about = json.loads(files["app/config/config_fed_server.json"])["workflows"][0]["args"]["about"]
    assert about["model"]["weights"] == f"file /models/vit.safetensors; sha256 {digest}"
    with pytest.raises(ConfigRefused, match="sha256sum"):
        require_buildable(recipes.job("tumour_type_fedavg", ["model.weights=/models/vit.safetensors"]))


def test_what_stays_home_by_its_role_stands_on_the_server_and_masks_do_not():
    for name, home in (("brats_klmask", []), ("tumour_type_klmask", []), ("brats_fedbn", ["norm"])):
        made = recipes.job(name)
        assert folder.server_config(made)["workflows"][0]["args"]["mode"]["args"]["home_roles"] == home
        require_buildable(made)


@pytest.mark.parametrize("privacy", ["secagg_masks", "secagg_he"])
def test_masks_beside_fedavg_in_a_hidden_sum_are_refused_before_a_folder_is_written(privacy, tmp_path, capsys):
    from wardround.cli.main import main

    arguments = ["--set", f"privacy={privacy}", "--out", str(tmp_path / "jobs")]
    assert main(["jobs", "write", "brats_klmask", *arguments]) == 2
    assert "FedAvg beside it" in capsys.readouterr().err
    assert not (tmp_path / "jobs").exists()
    require_buildable(recipes.job("brats_klmask", [f"privacy={privacy}", "fedavg_baseline=false"]))


@pytest.mark.parametrize(
    "setting", ["federation.wait_time_after_min_received=-1", "federation.wait_time_after_min_received=1.5"]
)
def test_a_job_that_treats_stragglers_in_a_way_that_it_cannot_is_refused(setting):
    with pytest.raises(ConfigRefused, match=r"treats stragglers|a whole number"):
        recipes.job("brats_fedavg", [setting])
