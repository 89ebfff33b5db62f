"""`wardround serve` offers one model as a small HTTP service."""

from __future__ import annotations

import argparse
import ipaddress
import os
from typing import Any

from wardround.cli.cmd_predict import describe, require_whole
from wardround.core.errors import ConfigRefused, ModelRefused
from wardround.core.terminal import DONE, command, existing, folder, positive, say

TEXT = """
Serve one model over HTTP for programs on this machine. Every user must show a token; the service does not start without one.

  umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > token
  wardround serve bundles/site-1 --token-file token
  printf 'Authorization: Bearer %s' "$(cat token)" > header        a file, because everybody can see the words of a command (ps)
  curl -H @header localhost:8765/version
  curl -H @header -F t1=@x_t1.nii.gz -F flair=@x_flair.nii.gz localhost:8765/predict -o mask.nii.gz

GET /         without a token: a page with a form for one case
GET /health   without a token: {"status": "ok"}
GET /version  fingerprint, version, sequences, labels, what the model was trained on
POST /predict one case, as a form with one file for each sequence (t1, t1ce, t2, flair; any may be missing). The reply is the
              mask as .nii.gz in the geometry of the case's first image; headers say which sequences were used
              (X-Wardround-Sequences: t1,flair) and which are missing

Cases are held in memory and never written to disk, and nothing about them is logged. The service computes one case at a time,
--waiting more may wait, and others get the reply 503. A refusal is JSON that says what to do. This is research software and
not a medical device.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = command(commands, "serve", "serve one model over HTTP", TEXT, run)
    parser.add_argument(
        "model",
        type=existing,
        metavar="MODEL_OR_BUNDLE",
        help="weights (.npz) or bundle of wardround",
    )
    parser.add_argument(
        "--token-file",
        type=folder,
        metavar="FILE",
        help="mode 600; default: variable WARDROUND_TOKEN",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="IP address to listen on; default 127.0.0.1",
    )
    parser.add_argument(
        "--open-to-network",
        action="store_true",
        help="allow an address other than this machine's own: put TLS in front",
    )
    parser.add_argument(
        "--port",
        type=port,
        default=8765,
        help="default 8765; 0: a free one, which is printed",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda or cuda:N; default auto",
    )
    parser.add_argument(
        "--enhancing",
        type=int,
        choices=(3, 4),
        default=4,
        help="value of enhancing tumour; default 4",
    )
    parser.add_argument(
        "--synthetic-model-ok",
        action="store_true",
        help="serve a model that was trained on invented patients, to try out the program",
    )
    parser.add_argument(
        "--waiting",
        type=int,
        default=2,
        metavar="N",
        help="requests that may wait; default 2",
    )
    parser.add_argument(
        "--upload-mib",
        type=positive,
        default=256,
        metavar="N",
        help="a request, as sent; default 256",
    )
    parser.add_argument(
        "--unpacked-mib",
        type=positive,
        default=512,
        metavar="N",
        help="decompressed; default 512",
    )
    parser.add_argument(
        "--megavoxels",
        type=positive,
        default=32,
        metavar="N",
        help="of one image; default 32",
    )
    parser.add_argument(
        "--upload-s",
        type=positive,
        default=120,
        metavar="S",
        help="to receive a case; default 120",
    )
    parser.add_argument(
        "--work-s",
        type=positive,
        default=600,
        metavar="S",
        help="to wait and compute; default 600",
    )


def run(args: argparse.Namespace) -> int:
    """Serve the model until a signal ends the service."""
    require_address(args.host, args.open_to_network)
    say(f"reading {args.model} (the first start takes half a minute)")
    from wardround.export.bundle_text import NOT_A_DEVICE
    from wardround.models import bundle_files
    from wardround.serving.app import Service
    from wardround.serving.inference import Model, Queue
    from wardround.serving.limits import MIB, Limits, read_token
    from wardround.serving.running import serve
    from wardround.training import class_prediction, origin
    from wardround.training.prediction import kind_of, read_weights

    token = read_token(args.token_file, os.environ)
    limits = Limits(
        args.upload_mib * MIB,
        args.unpacked_mib * MIB,
        args.megavoxels * 10**6,
        args.waiting,
        args.upload_s,
        args.work_s,
    )
    _, meta = bundle_files.load_any(args.model)
    if class_prediction.is_classifier(meta):
        raise ModelRefused(
            f"the model {args.model}",
            found="one that tells classes",
            expected="one that segments: the service answers with masks",
            fix="use `wardround predict` for classes",
        )
    weights = read_weights(args.model)
    require_whole(weights.meta, args.model)
    if weights.table.columns:
        raise ModelRefused(
            f"the model {args.model}",
            found=f"one that reads {len(weights.table.columns)} columns of a record beside the images",
            expected="one that reads images alone: an uploaded case has no record",
            fix="use `wardround predict --record` for it",
        )
    origin.require_real(weights.meta, args.model, args.synthetic_model_ok, "a service")
    model = Model(weights, kind_of(weights, None), args.device, args.enhancing)
    say(f"serving {describe(weights.meta)}: {origin.words(weights.meta)}")
    say(NOT_A_DEVICE)
    serve(
        Service(model, Queue(limits.waiting), token, limits),
        args.host,
        args.port,
        say,
    )
    return DONE


def require_address(host: str, opened: bool) -> None:
    """Raise ConfigRefused for an address that other machines can reach, unless the user
    asked for it; then print a warning.
    """
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigRefused(
            f"--host {host}",
            found="no IP address",
            expected="for example 127.0.0.1 or ::1",
            fix="write the address",
        ) from error
    if not local and not opened:
        raise ConfigRefused(
            f"--host {host}",
            found="an address that other machines may reach",
            expected="127.0.0.1: images and the token would travel readable",
            fix="put a server with TLS in front of 127.0.0.1; if it is on another machine, add --open-to-network",
        )
    if not local:
        say(
            f"WARNING: {host} is open to the network, and this service speaks no TLS: put a server with TLS in front of it"
        )


def port(text: str) -> int:
    """Return the port that an argument names; argparse reports anything else."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port (0 to 65535)")
    return int(text)
