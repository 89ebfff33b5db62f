"""What hiding the sum costs: our secure sums beside NVFlare's own homomorphic encryption and plain float32, in one run.

Every message of a round is built, serialised (FOBS, as NVFlare's cells encode it) and read as in a job: bytes are those of
ALL messages of one site and round, signed statements and one-time keys with them, divided by the number of parameters.

    encrypt_s   one site: float update -> integers -> packed, tagged, masked, encrypted -> serialised message (median)
    hold_s      the same site: writing the integers down, so that a repeated attempt sends the same ones (median)
    add_s       the server, per site: deserialise, check the signature, add     reveal_s   a site: the sum -> mean update
    server_rss_mb   peak memory of a server process that adds so many sites' updates      exact   the mean equals, bit for
                    bit, the one of the readable fixed-point sum
    nvflare_*   the same for NVFlare's stock filter, aggregator and generator (secure_sum_rival.py), plain_*: float32

    python benchmarks/secure_sum.py --json
    python benchmarks/secure_sum.py --bits 16 --models unet-1.2m --json
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import secure_sum_rival
from common import Part, Table, arguments, command, finish, kept, one_settings, say, show, table
from overhead_data import in_own_process, median, peak_rss_mb

MODES = {
    "masked": {"masks": True, "encryption": False, "ring": False},
    "he": {"masks": False, "encryption": True, "ring": False},
    "he with masks": {"masks": True, "encryption": True, "ring": False},
    "ring": {"masks": True, "encryption": True, "ring": True},
}
READABLE = {"masks": False, "encryption": False, "ring": False}
RUN, MOST_SITES = "ab" * 16, 16
GOAL_MODEL = "unet-1.2m"


def promise(mode: dict[str, bool], bits: int, sites: int) -> Any:
    """Return the protection of a job for up to `sites` hospitals."""
    from wardround.secagg.spec import SecAggSpec

    return SecAggSpec(sites, 3, bits, "patients_in_sum", 32, **mode, threshold=0)


def fields_of_update(weights: dict[str, Any], secagg: Any) -> int:
    """Return how many integers an update of these blocks has."""
    from wardround.core.arrays import Layout
    from wardround.secagg.fixed_point import fields_of

    return fields_of(Layout.of(weights), secagg.bits, weighted=secagg.weighted)


class Round:
    """One round of one mode among `names`: real sites, a real server, real messages."""

    def __init__(self, secagg: Any, names: list[str], folder: Path, weights: dict[str, Any]) -> None:
        from wardround.messages.identity import Authority, Identity
        from wardround.messages.statements import Moment
        from wardround.secagg import encryption_key, simulated_kits
        from wardround.secagg.client import SecAggClient
        from wardround.secagg.key_agreement import KeyAgreement
        from wardround.secagg.server import SecAggServer

        self.secagg, self.names, self.moment = secagg, names, Moment(RUN, 0, 0)
        self.sites: dict[str, Any] = {}
        for name in names:
            kit = folder.parent / "kits" / name
            simulated_kits.site_kit(folder.parent / "kits" / "common", name, kit)
            key = encryption_key.read_site(kit) if secagg.encryption else None
            agreement = KeyAgreement(
                secagg,
                Identity.load(kit, name),
                Authority.load(kit),
                encryption_key.key_id(key) if key else "",
                folder / name,
                "0b" * 32,
            )
            self.sites[name] = SecAggClient(secagg, agreement, key, folder / name, seed=0)
        self.secagg_server = SecAggServer(secagg, Authority.load(kit), fields_of_update(weights, secagg))
        self.up, self.down = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        self.seconds: dict[str, list[float]] = {"encrypt_s": [], "hold_s": [], "add_s": [], "reveal_s": []}
        self.joins: tuple[Any, ...] = ()
        self.prepares: tuple[Any, ...] = ()

    def agree(self) -> None:
        """Join (once per job, not counted) and prepare (every round, counted)."""
        self.joins = tuple(site.agreement.join(RUN) for site in self.sites.values())
        if self.secagg.masks:
            self._call(self.names, joins=self.joins)
            prepares = []
            for name, site in self.sites.items():
                prepares.append(site.agreement.prepare(self.moment, self.joins))
                self.up[name] += len(self._reply(prepares[-1], b"", {}))
            self.prepares = tuple(prepares)
        else:
            self.prepares = self.joins
        self.secagg_server.begin(self.moment, self.prepares)

    def train(self, weights: dict[str, Any], updates: dict[str, Any], meta: dict[str, Any]) -> None:
        """Every site codes and hides its update; the server (star) or the next site (ring) adds it."""
        from wardround.core.rng import stream
        from wardround.secagg.fixed_point import encode, first_grid

        grid = first_grid(weights, self.secagg.bits, weighted=True)
        for patients, (name, site) in enumerate(self.sites.items(), start=5):
            begun = time.perf_counter()
            encode(grid, updates[name], None, patients / 32, patients, stream(0, "rounding", name, 0))
            coded = time.perf_counter() - begun
            begun = time.perf_counter()
            site.hold(0, updates[name], patients, weights, {})
            self.seconds["hold_s"].append(max(0.0, time.perf_counter() - begun - coded))
            self.seconds["encrypt_s"].append(coded)
        if self.secagg.ring:
            self._around(meta)
            return
        self._call(self.names, joins=self.joins, prepares=self.prepares)
        for place, (name, site) in enumerate(self.sites.items()):
            begun = time.perf_counter()
            statement, payload = site.submit(self.moment, self.prepares, "00" * 32)
            message = self._reply(statement, payload, meta)
            self.seconds["encrypt_s"][place] += time.perf_counter() - begun
            self.up[name] += len(message)
            self._add(name, message, "train", self.secagg_server.submit)

    def finish(self) -> tuple[Any, int]:
        """Open the masks, send the sum down, let every site read it; return (mean, bytes of the sum)."""
        from wardround.flare.secagg_messages import Revealed

        added = list(self.secagg_server.added)
        if self.secagg.masks:
            self._call(self.names, joins=self.joins, prepares=self.prepares, survivors=tuple(sorted(added)))
            answers = {}
            for name, site in self.sites.items():
                answers[name] = site.agreement.unmask(self.moment, self.joins, self.prepares, added)
                self.up[name] += len(self._reply(answers[name], b"", {}))
            self.secagg_server.unmask(answers)
        payload = self.secagg_server.payload()
        self._call(self.names, revealed=(Revealed(self.moment, tuple(added), len(added), 0.5, payload),))
        means = []
        for site in self.sites.values():
            begun = time.perf_counter()
            means.append(site.reveal(self.moment, added, payload, 1.0)[0])
            self.seconds["reveal_s"].append(time.perf_counter() - begun)
        return means[0], len(payload)

    def _around(self, meta: dict[str, Any]) -> None:
        from wardround.secagg.incoming_hop import Incoming
        from wardround.secagg.roster import ring_order

        self._call(self.names, joins=self.joins, prepares=self.prepares)
        for name, site in self.sites.items():
            self.up[name] += len(self._reply(site.ready(self.moment, self.prepares, "00" * 32), b"", meta))
        last, payload, done = None, b"", ()
        for name in ring_order(self.names, self.prepares):
            self._call([name], prepares=self.prepares, ready=tuple(self.names), done=done, hop=last, payload=payload)
            begun = time.perf_counter()
            last, payload = self.sites[name].hop(
                self.moment, self.prepares, Incoming(tuple(self.names), done, last, payload)
            )
            message = self._reply(last, payload, {})
            self.seconds["encrypt_s"][self.names.index(name)] += time.perf_counter() - begun
            self.up[name] += len(message)
            self._add(name, message, "hop", self.secagg_server.hop)
            done = (*done, name)

    def _add(self, name: str, message: bytes, task: str, add: Any) -> None:
        from nvflare.fuel.utils import fobs

        from wardround.flare import secagg_messages

        begun = time.perf_counter()
        reply = secagg_messages.read_reply(fobs.loads(message), task)
        add(name, reply.statement, reply.payload)
        self.seconds["add_s"].append(time.perf_counter() - begun)

    def _reply(self, statement: Any, payload: bytes, meta: dict[str, Any]) -> bytes:
        from nvflare.fuel.utils import fobs

        from wardround.flare import secagg_messages

        return bytes(fobs.dumps(secagg_messages.reply_message(secagg_messages.Reply(statement, payload, meta))))

    def _call(self, names: list[str], **parts: Any) -> None:
        from nvflare.fuel.utils import fobs

        from wardround.flare import secagg_calls, secagg_messages

        size = len(fobs.dumps(secagg_calls.call_message(secagg_messages.Call(self.moment, 3, **parts))))
        for name in names:
            self.down[name] += size


def play(mode: dict[str, bool], bits: int, weights: dict[str, Any], names: list[str], folder: Path) -> dict[str, Any]:
    """Return bytes per parameter, seconds and a digest of the mean of one round."""
    from wardround.core.arrays import digest

    register()
    rng, round_ = np.random.default_rng(1), Round(promise(mode, bits, MOST_SITES), names, folder, weights)
    updates = {
        name: {block: rng.normal(0, 0.005, array.shape).astype(np.float32) for block, array in weights.items()}
        for name in names
    }
    round_.agree()
    round_.train(weights, updates, meta_of_a_site())
    mean, size = round_.finish()
    parameters = sum(array.size for array in weights.values())
    found = {"parameters": parameters, "digest": digest(mean), "sum_bytes_per_param": size / parameters}
    found |= {"up_bytes_per_param": median(list(round_.up.values())) / parameters}
    found |= {"down_bytes_per_param": median(list(round_.down.values())) / parameters}
    return found | {key: median(values) for key, values in round_.seconds.items() if values}


def server(mode: dict[str, bool], bits: int, sites: int, model: str) -> dict[str, float]:
    """Return the peak memory of a process that adds `sites` updates (run in a process of its own).

    The sites' half happens in another process, which leaves every message in a file; masks need everybody's keys.
    """
    from nvflare.fuel.utils import fobs

    from wardround.flare import secagg_calls, secagg_messages
    from wardround.messages.identity import Authority
    from wardround.messages.statements import Moment
    from wardround.secagg.server import SecAggServer

    register()
    with tempfile.TemporaryDirectory(prefix="secure-sum-") as place:
        folder = Path(place)
        written = in_own_process(
            "secure_sum", "write_messages", mode=mode, bits=bits, sites=sites, model=model, place=place
        )
        secagg = promise(mode, bits, max(MOST_SITES, sites))
        secagg_server = SecAggServer(secagg, Authority.load(folder / "kits" / "s1"), int(written["fields"]))
        call = secagg_calls.read_call(fobs.loads((folder / "prepares").read_bytes()))
        before = peak_rss_mb()
        secagg_server.begin(Moment(RUN, 0, 0), call.prepares)
        begun = time.perf_counter()
        for number in range(1, sites + 1):
            reply = secagg_messages.read_reply(fobs.loads((folder / f"update-{number}").read_bytes()), "train")
            secagg_server.submit(f"s{number}", reply.statement, reply.payload)
        return {"peak_rss_mb": peak_rss_mb(), "start_rss_mb": before, "seconds": time.perf_counter() - begun}


def write_messages(mode: dict[str, bool], bits: int, sites: int, model: str, place: str) -> dict[str, float]:
    """Write one hidden update per site into files; every site sends the same update under its own masks and signature."""
    from nvflare.fuel.utils import fobs

    from wardround.flare import secagg_calls, secagg_messages

    register()
    folder, names = Path(place), [f"s{number}" for number in range(1, sites + 1)]
    weights = secure_sum_rival.models()[model]
    round_ = Round(promise(mode, bits, max(MOST_SITES, sites)), names, folder / "run", weights)
    (folder / "run").mkdir(exist_ok=True)
    round_.agree()
    call = secagg_messages.Call(round_.moment, 3, (), round_.prepares)
    (folder / "prepares").write_bytes(bytes(fobs.dumps(secagg_calls.call_message(call))))
    for name, site in round_.sites.items():
        site.hold(0, weights, 7, weights, {})
        statement, payload = site.submit(round_.moment, round_.prepares, "00" * 32)
        message = secagg_messages.reply_message(secagg_messages.Reply(statement, payload, meta_of_a_site()))
        (folder / f"update-{name[1:]}").write_bytes(bytes(fobs.dumps(message)))
    return {"fields": fields_of_update(weights, round_.secagg)}


def register() -> None:
    """Make NVFlare's serialisation know its own types."""
    from nvflare.apis.utils.decomposers import flare_decomposers
    from nvflare.app_common.decomposers import common_decomposers

    flare_decomposers.register()
    common_decomposers.register()


def meta_of_a_site() -> dict[str, Any]:
    """Return what a train reply says beside the payload."""
    from wardround import __version__
    from wardround.data.layouts import MODALITIES

    facts = {
        "label": "generated",
        "cases": None,
        "modalities": dict.fromkeys(MODALITIES, 1),
        "label_kind": "brats",
        "device": "cpu",
        "phantoms": True,
        "version": __version__,
        "fingerprint": hashlib.sha256(b"generated").hexdigest()[:16],
    }
    return {"numbers": {"loss": 1.0, "val_score": 0.5, "seconds": 1.0}, "facts": facts}


def one_model(name: str, weights: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return mode -> figures for one network, NVFlare's and plain float32's in each."""
    names = [f"s{number}" for number in range(1, args.sites + 1)]
    say(f"{name}: NVFlare's own encryption, then float32")
    rival, plain = secure_sum_rival.measure(weights, args.sites), secure_sum_rival.plain(weights, args.sites)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="secure-sum-") as place:
        readable = play(READABLE, args.bits, weights, names, Path(place) / "fixed")
        for mode, flags in MODES.items():
            say(f"{name}: {mode}")
            found = play(flags, args.bits, weights, names, Path(place) / mode)
            found["exact"] = found.pop("digest") == readable["digest"]
            others = ("up_bytes_per_param", "down_bytes_per_param", "encrypt_s", "add_s", "decrypt_s")
            found |= {f"nvflare_{key}": rival[key] for key in others}
            found |= {f"plain_{key}": plain[key] for key in others[:3]}
            rows[mode] = found
    for mode in ("masked", "he") if not args.no_memory else ():
        numbers = (4,) if args.quick else (4, 16, 64)
        say(f"{name}: {mode}: memory of the server at {numbers} sites")
        found = {
            n: in_own_process("secure_sum", "server", mode=MODES[mode], bits=args.bits, sites=n, model=name)
            for n in numbers
        }
        rows[mode]["server_rss_mb"] = {str(n): one["peak_rss_mb"] for n, one in found.items()}
        rows[mode]["server_start_rss_mb"] = {str(n): one["start_rss_mb"] for n, one in found.items()}
    return rows


def cells(name: str, mode: str, row: Mapping[str, Any]) -> list[str]:
    """Return one row of the table of bytes and seconds."""
    both = row["up_bytes_per_param"] + row["down_bytes_per_param"]
    clear = row["plain_up_bytes_per_param"] + row["plain_down_bytes_per_param"]
    return [
        name,
        mode,
        f"{row['up_bytes_per_param']:.2f}",
        f"{row['down_bytes_per_param']:.2f}",
        f"{both / clear:.2f}",
        f"{row['nvflare_up_bytes_per_param'] / row['up_bytes_per_param']:.0f}",
        f"{1e3 * row['encrypt_s']:.0f} ms",
        f"{row['encrypt_s'] / row['nvflare_encrypt_s']:.3f}",
        f"{1e3 * row['add_s']:.0f} / {1e3 * row['reveal_s']:.0f} ms",
        "yes" if row["exact"] else "**NO**",
    ]


def goals(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[list[str]]:
    """Return goal, found, met or missed; found: (model, bits) -> mode -> figures. A goal whose part is missing has no row."""
    rows = []

    def judged(words: str, value: float, most: float) -> None:
        rows.append([words, f"{value:.3g}", "met" if value <= most else "**missed**"])

    for bits, most in ((8, 2.8), (16, 5.1)):
        if one := found.get((GOAL_MODEL, bits)):
            judged(f"upload at most {most} bytes per parameter, {bits} bits", one["he"]["up_bytes_per_param"], most)
    if one := found.get((GOAL_MODEL, 8)):
        he, masked = one["he"], one["he with masks"]
        plain = he["plain_up_bytes_per_param"] + he["plain_down_bytes_per_param"]
        both = (he["up_bytes_per_param"] + he["down_bytes_per_param"]) / plain
        judged("upload + download at most 1.1 x float32, 8 bits", both, 1.1)
        for words, row in (("", he), (", with masks", masked)):
            share = row["encrypt_s"] / row["nvflare_encrypt_s"]
            judged(f"encrypt + serialise at most a tenth of NVFlare's time, 8 bits{words}", share, 0.1)
    for bits in (8, 16):
        mine = [rows_["he"] for (_, bits_), rows_ in found.items() if bits_ == bits]
        if mine:
            share = max(row["up_bytes_per_param"] / row["nvflare_up_bytes_per_param"] for row in mine)
            judged(f"at most 1/14 = 0.0714 of NVFlare's upload on every model, {bits} bits", share, 1 / 14)
    return rows


def tables(parts: Sequence[Part]) -> dict[str, Table]:
    """Return bytes and seconds for each payload, and the memory of a server."""
    one_settings(parts)
    ordered = sorted(parts, key=lambda part: (part.key["bits"], secure_sum_rival.MODELS.index(part.key["model"])))
    heads = ["model", "sum", "up", "down", "up + down / float32", "NVFlare's up / ours", "encrypt + serialise"]
    heads += ["/ NVFlare's", "add / reveal", "bit-exact"]
    made = {}
    for bits in sorted({part.key["bits"] for part in parts}):
        mine = [part for part in ordered if part.key["bits"] == bits]
        rows = [cells(part.key["model"], mode, row) for part in mine for mode, row in part.numbers.items()]
        made[f"bits-{bits}"] = table(heads, rows, mine)
    found = {(part.key["model"], part.key["bits"]): part.numbers for part in ordered}
    made["goals"] = table([f"goal, `he`; the first four at {GOAL_MODEL}", "found", ""], goals(found), ordered)
    measured = [part for part in ordered if any("server_rss_mb" in row for row in part.numbers.values())]
    if measured:
        modes = [(part, mode, row) for part in measured for mode, row in part.numbers.items() if "server_rss_mb" in row]
        counts = list(modes[0][2]["server_rss_mb"])
        rows = [
            [part.key["model"], mode, part.key["bits"], *(f"{row['server_rss_mb'][n]:.0f} MB" for n in counts)]
            for part, mode, row in modes
        ]
        made["memory"] = table(["model", "sum", "bits", *(f"{n} sites" for n in counts)], rows, measured)
    return made


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = arguments(__doc__ or "")
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument(
        "--models", nargs="+", choices=secure_sum_rival.MODELS, default=None, help="default: all; quick: the first"
    )
    found.add_argument("--bits", type=int, default=8, help="payload per value (8 or 16)")
    found.add_argument("--sites", type=int, default=4, help="hospitals in the round (there is room for 16)")
    found.add_argument("--no-memory", action="store_true", help="leave out the server's memory")
    return found


def main() -> None:
    """Measure what is missing, print the tables, and the JSON line if asked for."""
    args = parser().parse_args()
    chosen = args.models or (secure_sum_rival.MODELS[:1] if args.quick else secure_sum_rival.MODELS)
    settings = {"sites": args.sites, "room_for_sites": MOST_SITES, "quick": args.quick}
    with kept("secure_sum", args) as parts:
        for name in () if args.show else chosen:
            weights = secure_sum_rival.models()[name]
            parts.measure({"model": name, "bits": args.bits}, settings, partial(one_model, name, weights, args))
        done = parts.read()
    show(tables(done))
    finish({part.name: part.numbers for part in done}, as_json=args.json)


if __name__ == "__main__":
    command(main)
