"""The checks of a party before its first job, in the order in which they are mended."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from wardround.core.errors import ConfigRefused, Refusal
from wardround.core.paths import is_plain
from wardround.core.terminal import counter
from wardround.data.description import is_labelled
from wardround.data.site_config import SiteConfig, read_site_config
from wardround.data.source import BRAIN_MRI, Source
from wardround.dp.budget import FILE as BUDGET
from wardround.dp.budget import read_budget
from wardround.flare import posture
from wardround.flare.kit import ROOT, SERVER, SITE, Kit, read_object
from wardround.jobs import folder, recipes
from wardround.jobs.allow_list import is_class, strangers
from wardround.jobs.building import build
from wardround.jobs.job_classes import classes
from wardround.ops import preflight_data, preflight_job, preflight_kit, preflight_machine, preflight_posture
from wardround.ops.findings import FAIL, Finding, failed, passed, refused, warned
from wardround.ops.kit_keys import Certificate, changed_since_signed
from wardround.ops.preflight_data import Looked, Rehearsed
from wardround.training.opening import SITE_FILE, pick_device

HARDEN = "wardround sites harden"


@dataclass(frozen=True)
class Party:
    """What the checks look at. job: a name or a folder; None for one that fits the
    data.
    """

    kit: Kit
    started: bool
    job: str | None

    @cached_property
    def certificates(self) -> dict[str, Certificate]:
        return preflight_kit.read_certificates(self.kit)

    @cached_property
    def config(self) -> SiteConfig:
        return read_site_config(self.kit.root / SITE_FILE)

    @property
    def source(self) -> Source:
        """Return how the files of the job's task are read; brain MRI without a job."""
        return BRAIN_MRI if self.job is None else preflight_job.source_of(self.job_config[1])

    @cached_property
    def looked(self) -> Looked:
        return preflight_data.data(self.config, counter("read cases"), self.source)

    @property
    def folder(self) -> Path | None:
        """Return the job's folder where `job` names one."""
        place = Path(self.job or "").expanduser()
        return place if self.job is not None and (place / "meta.json").is_file() else None

    @property
    def listed(self) -> list[str]:
        """Return the classes that this kit lists, beside those that wardround ships."""
        return [one for one in posture.listed_classes(self.resources) or () if is_class(one)]

    @cached_property
    def resources(self) -> dict[str, Any]:
        return read_object(self.kit.own("resources.json"))

    @cached_property
    def labelled(self) -> bool:
        """Return whether the data are labelled images, as far as that is known."""
        try:
            return self.kit.role == SITE and is_labelled(self.config.data)
        except Refusal:
            return False

    @cached_property
    def job_config(self) -> tuple[str, Mapping[str, Any]]:
        """Return (name, this side's config) of the job."""
        side = "server" if self.kit.role == SERVER else "client"
        if self.folder is not None:
            return self.folder.resolve().name, read_object(self.folder / "app" / "config" / f"config_fed_{side}.json")
        job = recipes.job(self.job or ("tumour_type_fedavg" if self.labelled else "brats_fedavg"))
        return job.name, (folder.server_config if side == "server" else folder.client_config)(job)


def run(party: Party, wanted: Callable[[str], bool]) -> list[Finding]:
    """Run the checks that apply and are wanted; after a refusal the others go on."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        if not wanted(name) or name in (SITE_ONLY if party.kit.role == SERVER else SERVER_ONLY):
            continue
        try:
            found += check(party)
        except Refusal as refusal:
            found.append(_once(refused(name, refusal), found))
    return found


def _once(new: Finding, before: list[Finding]) -> Finding:
    """Return the finding, or a line that points to an earlier one of this reason."""
    for one in before:
        if (one.found, one.fix) == (new.found, new.fix):
            return warned(new.check, f"not checked, because of what stands under {one.check}", "mend that first")
    return new


def _kit(party: Party) -> list[Finding]:
    kit, wrong = party.kit, []
    if not is_plain(kit.root.resolve()):
        words = f"the path {str(kit.root.resolve())!r} holds a blank, a quote, a backslash or #"
        return [
            failed("kit", words, "move the kit to a path without them: NVFlare's scripts split command lines there")
        ]
    for place in (kit.startup, kit.local):
        changed = changed_since_signed(place, kit.startup / ROOT)
        wrong += [f"{place.name}/{name}" for name in changed]
    if wrong:
        again = "put the provisioned files back; own settings belong into local/, under the name without .default"
        return [failed("kit", f"changed since it was signed: {', '.join(wrong)}", again)]
    return [passed("kit", f"{party.certificates[kit.certificate.name].name}, a {kit.role}, as the project signed it")]


def _certificates(party: Party) -> list[Finding]:
    return preflight_kit.certificates(party.certificates, preflight_machine.utc_now())


def _clock(party: Party) -> list[Finding]:
    made = {f"{file} (valid from)": one.not_before for file, one in party.certificates.items()}
    return [preflight_machine.clock(preflight_machine.utc_now(), made, preflight_machine.kernel_synchronised())]


def _versions(party: Party) -> list[Finding]:
    needed = preflight_machine.requirements_of("wardround")
    if not needed:
        words = "wardround runs from a checkout: what it needs is not known here"
        return [warned("versions", words, "pip install it, so that its pins can be checked")]
    return preflight_machine.versions(needed, preflight_machine.installed_version)


def _disk(party: Party) -> list[Finding]:
    place = party.kit.root
    voxels = 0
    unknown = ""
    if party.kit.role == SITE:
        try:
            cache = party.config.cache
            place = next(one for one in (cache, *cache.parents) if one.exists()) if cache else place
            voxels = party.looked.voxels
        except Refusal:
            unknown = "without decoded cases: see data"
    return [preflight_machine.disk(str(place), shutil.disk_usage(place).free, voxels, unknown)]


def _gpu(party: Party) -> list[Finding]:
    import torch

    try:
        wish = party.config.device
    except Refusal:
        wish = "auto"  # what a site's file that says nothing asks for
    return [preflight_machine.gpu(wish, pick_device, lambda device: torch.cuda.get_device_name(device))]


def _scope(party: Party) -> list[Finding]:
    name = party.certificates[party.kit.certificate.name].name
    default, names = posture.scopes(party.kit.root, name)
    if not names:
        return [
            warned("scope", "no local/privacy.json: jobs alone decide", "read each job, or poc_workspace/README.md")
        ]
    streamed = party.resources.get("allow_log_streaming") is not False
    if streamed and set(names) - {"open"}:
        words = (
            f"scopes {', '.join(names)}, and NVFlare may stream this site's log: nothing runs under patient, hospital"
        )
        return [failed("scope", words, f'"allow_log_streaming": false in local/resources.json (`{HARDEN}` sets it)')]
    if default in ("patient", "hospital"):
        units = [limit.unit for limit in read_budget(party.kit.local / BUDGET).limits]
        if default == "hospital" and default not in units:
            words = (
                f"the default scope is hospital, and the budget has limits per {', '.join(units)} only: nothing runs"
            )
            return [failed("scope", words, f'add "hospital": {{"epsilon": ..., "delta": ...}} to local/{BUDGET}')]
    return [passed("scope", f"{', '.join(names)}; default {default or 'none'}")]


def _code(party: Party) -> list[Finding]:
    """Say who may bring code, and whether the job and its classes are accepted."""
    kit = party.kit
    roles = posture.may_bring_code(read_object(kit.own("authorization.json")))
    listed = posture.listed_classes(party.resources)
    found = preflight_job.folder(party.folder, hardened=not roles) if party.folder else []
    if any(one.status == FAIL for one in found):
        return found
    name, config = party.job_config
    if roles:
        words = f"jobs may bring code here ({', '.join(roles)})"
        found.append(warned("code", words, f"read it, or `{HARDEN} {kit.root}`"))
    elif not posture.takes_plain_jobs_only(party.resources):
        words = "a job without code may be HOCON or YAML here, which read files, addresses and the environment"
        found.append(failed("code", words, f"`{HARDEN} {kit.root}`, and restart it"))
    found += preflight_job.strangers(name, config, kit.role, party.listed)
    if listed is None:
        found.append(warned("code", "any class may be named by a job without code", f"`{HARDEN} {kit.root}`"))
        return found
    if wide := [one for one in listed if not is_class(one)]:
        words = f"lines that allow more than one class: {', '.join(wide[:3])}"
        found.append(warned("code", words, f"name whole classes in {posture.CLASSES} in local/resources.json"))
    if others := strangers({kit.role: [one for one in posture.own_classes(party.resources) if is_class(one)]}):
        words = f"jobs may have these built here, with any arguments, and wardround does not ship them: {', '.join(others[:5])}"
        found.append(
            warned("code", words, f"read their code, or delete them from {posture.CLASSES} in local/resources.json")
        )
    missing = sorted({path for path in classes(config) if not _listed(path, listed)})
    if missing:
        words = f"{name} without code is refused here, {len(missing)} of its classes are not listed: {', '.join(missing[:3])}"
        mend = f"add them to {posture.CLASSES} in local/resources.json, or `{HARDEN} {kit.root}`"
        found.append((warned if roles else failed)("code", words, mend))
    return found or [passed("code", f"no code from jobs; {len(listed)} classes listed, with all of {name}")]


def _listed(path: str, listed: list[str]) -> bool:
    return any(path == one or path.startswith(one.rstrip(".") + ".") for one in listed)


def _round(party: Party) -> list[Finding]:
    """Train a few steps, once all classes of the job are on a list."""
    if party.folder and (wrong := preflight_job.folder(party.folder, hardened=False)):
        return [failed("round", f"not tried: {one.found}", one.fix) for one in wrong]
    name, config = party.job_config
    if wrong := preflight_job.strangers(name, config, party.kit.role, party.listed):
        return [failed("round", f"not tried: {one.found}", one.fix) for one in wrong]
    try:
        args = config["executors"][0]["executor"]["args"]
        parts = {
            part: build(args[part], part, party.listed)
            for part in ("algorithm", "sharing", "model", "sampling", "schedule")
        }
        job = Rehearsed(
            name,
            parts["algorithm"],
            parts["sharing"],
            parts["model"],
            parts["sampling"],
            parts["schedule"].steps(0),
            args["seed"],
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ConfigRefused(
            f"the job {name}",
            found=f"a client's config of another structure ({type(error).__name__})",
            expected="a job of wardround",
            fix="print it again with `wardround jobs write`",
        ) from error
    return [preflight_data.dummy_round(job, party.config, party.looked.some, peak_memory)]


def peak_memory() -> int:
    """Return the most memory that this process has used, in bytes."""
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


CHECKS: Mapping[str, Callable[[Party], list[Finding]]] = {
    "kit": _kit,
    "certificates": _certificates,
    "keys": lambda party: preflight_kit.keys(party.kit),
    "clock": _clock,
    "server": lambda party: [preflight_kit.server(party.kit, started=party.started)],
    "versions": _versions,
    "data": lambda party: party.looked.findings,
    "disk": _disk,
    "memory": lambda party: [preflight_machine.memory(psutil.virtual_memory().available)],
    "gpu": _gpu,
    "budget": lambda party: preflight_data.budget(party.kit.local, preflight_machine.utc_now()),
    "remote": lambda party: preflight_posture.remote(party.kit),
    "private": lambda party: preflight_posture.private(party.kit),
    "storage": lambda party: preflight_posture.storage(party.kit),
    "scope": _scope,
    "code": _code,
    "round": _round,
}
SITE_ONLY, SERVER_ONLY = ("data", "gpu", "budget", "scope", "round"), ("storage",)
