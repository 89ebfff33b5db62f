"""The one page of the service: a form for one case. It loads nothing from anywhere, and only its own script runs in it."""

from __future__ import annotations

import base64
import hashlib

from wardround.data.layouts import MODALITIES
from wardround.hospital.bundle_words import NOT_A_DEVICE

STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 38rem; margin: 2rem auto; padding: 0 1rem; color: #1b2733; background: #fff }
label { display: block; margin: .6rem 0 } input { display: block; font: inherit; max-width: 100% }
button { font: inherit; padding: .4rem 1rem; margin-top: .6rem } pre { white-space: pre-wrap; background: #eef2f5; padding: .6rem }
strong { color: #8a2b06 }
"""
SCRIPT = """
const form = document.getElementById("case"), said = document.getElementById("said");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new FormData();
  for (const input of form.querySelectorAll("input[type=file]")) if (input.files[0]) body.append(input.name, input.files[0]);
  said.textContent = "computing ...";
  try {
    const headers = { Authorization: "Bearer " + document.getElementById("token").value.trim() };
    const answer = await fetch("predict", { method: "POST", headers, body });
    if (!answer.ok) { said.textContent = JSON.stringify(await answer.json(), null, 1); return; }
    const names = ["Volumes-Ml", "Sequences", "Missing", "Trained-On", "Notice"];
    said.textContent = names.map((name) => name + ": " + (answer.headers.get("X-Wardround-" + name) || "none")).join("\\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = "mask.nii.gz";
    link.click();
  } catch (error) { said.textContent = "no answer: " + error; }
});
"""
_FIELDS = "\n".join(f'<label>{name} <input type="file" name="{name}" accept=".nii,.gz"></label>' for name in MODALITIES)
PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>wardround serve</title><style>{STYLE}</style></head><body>
<h1>wardround serve</h1>
<p><strong>{NOT_A_DEVICE}</strong></p>
<p>One case in, its mask out. Choose the sequences that exist (NIfTI, registered to one grid); any may be missing.</p>
<form id="case"><label>token <input type="password" id="token" autocomplete="off" required></label>
{_FIELDS}
<button>Segment</button></form>
<pre id="said" aria-live="polite"></pre>
<script>{SCRIPT}</script></body></html>
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


POLICY = (
    f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
