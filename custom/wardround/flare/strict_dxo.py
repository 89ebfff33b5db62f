"""How a message is read so that nothing unknown passes: one data kind, exactly the keys of a shape, finite numbers, short words.

Every strict reader of this package uses these functions (plaintext_messages.py, secagg_messages.py, secagg_calls.py,
compressed_messages.py, curves.py). What they do not understand they raise as ReleaseRefused, and nothing leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable

from wardround.core.errors import ConfigRefused, ReleaseRefused
from wardround.core.validate import check

NO_CODE = "error"
"""What stands for a return code that cannot be read."""
_WORD_LENGTH = 64
_NAME_LENGTH = 256
_DEPTH = 6
_ENTRIES = 64
_LARGEST = 2**53


def is_reply(message: Shareable) -> bool:
    """Tell whether a message says of itself that all went well; one whose headers are none: False."""
    return bool(return_code(message) == ReturnCode.OK)


def return_code(message: Shareable) -> Any:
    """Return the code in the headers of a message; NO_CODE when there is none that can be read."""
    try:
        return message.get_return_code()
    except (ValueError, TypeError, AttributeError):
        return NO_CODE


def data_of(message: Shareable, kind: str) -> dict[str, Any]:
    """Return the data of a message of this kind; ReleaseRefused unless it is a dictionary of that kind."""
    return dict(read_dxo(message, kind).data)


def meta_of(message: Shareable) -> dict[str, Any]:
    """Return the meta of a message that `data_of` has read."""
    return dict(from_shareable(message).meta)


def kind_of(message: Shareable) -> str:
    """Return the data kind of a message, "" when it holds no DXO."""
    try:
        kind = from_shareable(message).data_kind
    except (ValueError, KeyError, TypeError):
        return ""
    return kind if isinstance(kind, str) else ""


def require_shape(value: Any, shape: Any, what: str) -> None:
    """Raise ReleaseRefused unless value has the shape (core.validate) and holds only small numbers and short words."""
    _require_small(value, what, 0)
    try:
        check(value, shape, what)
    except ConfigRefused as refusal:
        raise unknown(refusal.what, refusal.found, refusal.expected) from refusal


def _require_small(value: Any, what: str, depth: int) -> None:
    if isinstance(value, dict) and depth < _DEPTH and len(value) <= _ENTRIES:
        for key, part in value.items():
            _require_small(key, what, depth + 1)
            _require_small(part, what, depth + 1)
        return
    whole = isinstance(value, int) and abs(value) < _LARGEST
    number = isinstance(value, float) and math.isfinite(value)
    word = isinstance(value, str) and len(value) <= _WORD_LENGTH and value.isprintable()
    if not (value is None or whole or number or word):
        raise unknown(what, f"a value of type {type(value).__name__}", "finite numbers and short words")


def read_dxo(message: Shareable, kind: str) -> DXO:
    """Return the DXO of a message of this kind, with a dictionary as data; anything else: ReleaseRefused."""
    if not is_reply(message):
        raise unknown("a message", "an error reply", f"return code OK and data kind {kind}")
    try:
        dxo = from_shareable(message)
    except (ValueError, KeyError, TypeError) as error:
        raise unknown("a message", f"no readable data ({type(error).__name__})", f"a DXO of kind {kind}") from error
    if dxo.data_kind != kind or not isinstance(dxo.data, dict):
        raise unknown("a message", f"data kind {str(dxo.data_kind)[:_WORD_LENGTH]!r}", f"data kind {kind!r}")
    return dxo


def require_blocks(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return `variable:block` -> finite float32 array; anything else, or no block at all: ReleaseRefused."""
    for name, block in data.items():
        named = isinstance(name, str) and ":" in name and len(name) <= _NAME_LENGTH and name.isprintable()
        if not (named and isinstance(block, np.ndarray) and block.dtype == np.float32):
            raise unknown("a block of weights", f"{type(block).__name__} under {str(name)[:80]!r}", "a float32 array")
        if not np.isfinite(block).all():
            raise unknown(f"block {name!r}", "NaN or inf", "finite numbers")
    if not data:
        raise unknown("a message without blocks", "0 arrays", "at least one `variable:block`")
    return dict(data)


def unknown(what: str, found: str, expected: str) -> ReleaseRefused:
    """Return the refusal of something that this version does not know."""
    fix = "run the same wardround version everywhere; nothing unknown is let through"
    return ReleaseRefused(what, found=found, expected=expected, fix=fix)
