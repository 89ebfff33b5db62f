"""What a report says about a job's settings, compared with the two configs that the
server and the sites are built from.

The settings are written into the server's config when a job is printed, because the
server never sees a site's objects. A config can be edited afterwards. So the server,
and every site, compute all of them again from both configs (flare/reported_settings.py)
and compare before they work: either a report names what ran, or nothing runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext

from wardround.algorithms.train_only import TrainOnly
from wardround.core.errors import ConfigRefused, Refusal
from wardround.flare.reported_privacy import dp_of, privacy_of
from wardround.flare.reported_settings import Json, of_parts
from wardround.models import weights_words
from wardround.training.class_inputs import INPUTS

NONE = "none"
# Words of a report that no object is built from: they are in app_configs/ alone.
WORDS = ("job", "algorithm", "score")
# Beside the settings; NVFlare needs it to read a dictionary.
CONFIG_TYPE = "config_type"
# What ends a run where a config does not say it (algorithms/schedule.py).
LAST = "last"
_CONFIGS = ("config_fed_server.json", "config_fed_client.json")


def require_told(fl_ctx: FLContext) -> None:
    """Raise ConfigRefused where this party's copy of the job states other settings than
    its sites and its server are built with.
    """
    folder = Path(fl_ctx.get_engine().get_workspace().get_app_config_dir(fl_ctx.get_job_id()))
    if folder.is_dir():
        require_same(*(_read(folder / name) for name in _CONFIGS))


def require_same(server: Json, client: Json) -> None:
    """Raise ConfigRefused where the two configs list different names that may leave,
    where their halves are of different jobs, or where the one `about` of the server's
    config is not, in every setting and with nothing beside, what they build.
    """
    _require_same_names(server, client)
    try:
        halves = _Halves(server, client)
        told = halves.about
        for name, at_server, at_sites in halves.pairs():
            if not _equal(at_server, at_sites):
                raise _refused(
                    f"{name}: {at_server!r} in the server's config, {at_sites!r} in that of the sites", "the same"
                )
        runs = halves.runs()
        wordless = [word for word in WORDS if not isinstance(told.get(word), str)]
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, StopIteration) as error:
        raise _refused(f"a config of another structure ({type(error).__name__})", "a job of wardround") from error
    if told.get("dp") and "dp" not in runs:
        raise _refused("a report that tells of differential privacy, and a job that promises none", "the same")
    if wordless:
        raise _refused(f"no {', '.join(wordless)}", "what `wardround jobs write` prints")
    for key in sorted({*runs, *told} - {*WORDS, CONFIG_TYPE}):
        if not _equal(told.get(key), runs.get(key)):
            found, said = _difference(runs.get(key), told.get(key))
            raise _refused(f"{key}: the job runs {found!r}, the report would say {said!r}", "the same")


class _Halves:
    """The two configs of one job, with each part looked up where it is built from.

    A part that is missing or there twice is a KeyError, a TypeError or a ConfigRefused.
    """

    def __init__(self, server: Json, client: Json) -> None:
        executors = [one["executor"]["args"] for one in client["executors"]]
        self.executor = _only([one for one in executors if "algorithm" in one], "executor with an algorithm")
        outbounds = [one["args"] for one in client["components"] if one.get("id") == "outbound"]
        self.outbound = _only(outbounds, "component `outbound`")
        controllers = [one["args"] for one in server["workflows"]]
        self.controller = _only([one for one in controllers if "mode" in one], "controller with a mode")
        self.mode = self.controller["mode"]["args"]
        # Wherever it stands: a second one could be the one that a report prints.
        self.about = _only(list(_valued(server, "about")), "`about` at the server")
        if self.controller.get("about") is not self.about or not isinstance(self.about, dict):
            raise _refused("settings that are not those of the controller", "`about` among the controller's arguments")

    @property
    def secagg(self) -> Json | None:
        return _part(self.outbound["secagg"])

    def pairs(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield (name, at the server, at the sites) for what both halves state."""
        mode, executor, schedule = self.mode, self.executor, self.executor["schedule"]["args"]
        yield "num_rounds", self.controller["num_rounds"], schedule["num_rounds"]
        yield "model", mode["model"], executor["model"]
        yield "compression", mode["compression"], self.outbound["compression"]
        sharing = executor["sharing"]
        if sharing["path"].startswith("wardround."):
            # A sharing of somebody else has its roles in its code.
            yield "home_roles", list(mode["home_roles"]), _home(sharing["args"])
        yield "secagg", mode.get("secagg", NONE), self.outbound["secagg"]
        # A list elsewhere in the config must not stand for the one that is read.
        yield "allowed_names", sorted(map(str, mode["allowed_names"])), sorted(map(str, self.outbound["allowed_names"]))
        if self.secagg is not None:
            yield "variables", mode["variables"], executor["variables"]
            return
        yield "seed", mode["seed"], executor["seed"]
        yield "final_model", mode.get("final_model", LAST), schedule.get("final_model", LAST)
        sampling = executor["sampling"]["args"]
        keys = [key for key in (INPUTS if "classes" in sampling else ("task",)) if key in sampling]
        described = {key: value for key, value in (mode.get("inputs") or {}).items() if key != CONFIG_TYPE}
        yield "inputs", described, {key: sampling[key] for key in keys}

    def runs(self) -> Json:
        """Return what a report must say, less its WORDS."""
        promised = _part(self.outbound["privacy"])
        dp = None if promised is None else dp_of(promised, self.about.get("dp") or {})
        hidden = self.secagg is not None
        found = of_parts(
            self.executor,
            server_optimizer=(self.executor if hidden else self.mode)["server_optimizer"],
            aggregation=None if hidden else self.mode["aggregation"],
            compression=_part(self.outbound["compression"]),
            secagg=self.secagg,
            dp=dp,
            min_clients=None if hidden else self.mode["min_clients"],
        )
        found["privacy"] = privacy_of(dp, self.secagg)
        try:
            begins = weights_words.words(self.executor["model"])
        except Refusal as error:
            raise _refused(f"first weights that nobody can name ({error.found})", "those of the job") from error
        return found | ({"first weights": begins} if begins else {})


def _home(args: Json) -> list[str]:
    """Return the roles that stay at home, from the settings of a sharing of wardround."""
    return list(TrainOnly(tuple(args["train"])).home_roles) if "train" in args else args.get("home", [])


def _part(value: Any) -> Json | None:
    """Return a part of the component `outbound`; None for the word "none"."""
    if value == NONE:
        return None
    if not (isinstance(value, dict) and isinstance(value["path"], str) and isinstance(value["args"], dict)):
        raise TypeError("no part")
    return value


def _only(found: list[Any], what: str) -> Any:
    if len(found) != 1:
        raise _refused(f"{len(found) or 'no'} times: {what}", "exactly one")
    return found[0]


def _difference(runs: Any, said: Any) -> tuple[Any, Any]:
    """Return both values; of two groups only the settings in which they differ."""
    if not (isinstance(runs, dict) and isinstance(said, dict)):
        return runs, said
    keys = [key for key in sorted(runs.keys() | said.keys()) if not _equal(runs.get(key), said.get(key))]
    return {key: runs.get(key) for key in keys}, {key: said.get(key) for key in keys}


def _require_same_names(server: Json, client: Json) -> None:
    """Raise ConfigRefused unless the server accepts exactly the names that a site may say.

    A longer list at the server would be asked for by nobody, and one at the sites would
    stop a hospital's replies only after it had trained; either is a list that somebody
    has changed at one side.
    """
    accepted, said = _names(server), _names(client)
    if accepted != said:
        found = ", ".join(sorted(str(name) for name in accepted ^ said))
        raise ConfigRefused(
            "the names that may leave (allowed_names)",
            found=f"names that stand in the config of one side only: {found}",
            expected="one list, in the server's config and in the component `outbound` of the sites",
            fix="do not edit a printed config: print the job again with `wardround jobs write JOB`",
        )


def _names(config: Any) -> frozenset[str]:
    """Return all names that a config lists as `allowed_names`, at any depth."""
    if isinstance(config, dict):
        listed = config.get("allowed_names", [])
        # A list that is none is refused when the config is built.
        here = map(str, listed) if isinstance(listed, list) else [repr(listed)]
        return frozenset(here).union(*(_names(value) for key, value in config.items() if key != "about"))
    return frozenset().union(*map(_names, config)) if isinstance(config, list) else frozenset()


def _equal(told: Any, runs: Any) -> bool:
    """Compare two settings, numbers by value: NVFlare may write 1 as 1.0."""
    if isinstance(told, dict) and isinstance(runs, dict):
        return told.keys() == runs.keys() and all(_equal(told[key], runs[key]) for key in told)
    if isinstance(told, list) and isinstance(runs, list):
        return len(told) == len(runs) and all(map(_equal, told, runs))
    # A switch is no number: true would pass for 1.
    if isinstance(told, bool) or isinstance(runs, bool):
        return told is runs
    if isinstance(told, int | float) and isinstance(runs, int | float):
        return float(told) == float(runs)
    return bool(told == runs)


def _valued(config: Any, name: str) -> Iterator[Any]:
    """Yield every value under this key, at any depth, except inside such a value."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == name:
                yield value
            else:
                yield from _valued(value, name)
    for part in config if isinstance(config, list) else ():
        yield from _valued(part, name)


def _read(path: Path) -> Json:
    try:
        found: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refused(f"{path.name}: {type(error).__name__}", "both configs of the job, in one app") from error
    return found


def _refused(found: str, expected: str) -> ConfigRefused:
    return ConfigRefused(
        "what the report would say about this job",
        found=found,
        expected=f"{expected}: a report and the weights name what ran",
        fix="do not edit a printed config: print it with `wardround jobs write JOB --set "
        "...` (an algorithm of your own: --set algorithm.path=...)",
    )
