"""The cyclic secure aggregation of PPPML-HMI as it was published, written anew, to look at what its neighbours see.

All sites hold ONE CKKS key pair. They stand in a fixed cycle; the round's initiator adds a Gaussian mask to its update in
float32, encrypts and passes it on; each next site adds its own encrypted update; back at the initiator the encrypted
mask is subtracted and the sum decrypted. Encryption hides a hop from outsiders only: every site can open every hop.

Source: Zhou et al. 2023, arXiv:2302.11571 (section on CSAHE) and the authors' program, whose numbers stand below as
DEGREE, MODULI_BITS, SCALE_BITS and MASK_SCALE.
Deviations: 1. updates are flat vectors of one ciphertext each, not a ciphertext per tensor; 2. each hop is serialised and
kept, to be looked at (there, one process adds all in a loop); 3. updates come already weighted by the sites' shares of
the samples; 4. no Galois keys, which addition does not use; 5. the mask comes from a generator that the caller seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tenseal as ts

DEGREE = 8192
MODULI_BITS = (31, 26, 26, 26, 26, 26, 26, 31)
SCALE_BITS = 26
MASK_SCALE = 10_000.0
SLOTS = DEGREE // 2


@dataclass(frozen=True)
class Hop:
    """One message of the cycle: the encrypted partial sum after the sender's addition."""

    sender: int
    receiver: int
    ciphertext: bytes


@dataclass(frozen=True)
class PublishedRing:
    """A group of sites that share one key pair; `context` holds it, secret key included, and each site has a copy."""

    sites: int
    context: ts.Context

    @classmethod
    def open(cls, sites: int) -> PublishedRing:
        """Return a ring with a fresh key.

        fewer than 2 sites: ValueError (two are accepted, as published)
        """
        if sites < 2:
            raise ValueError(f"a ring of {sites} sites, expected at least 2")
        context = ts.context(ts.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(MODULI_BITS))
        context.global_scale = 2.0**SCALE_BITS
        return cls(sites, context)

    def run(self, updates: Sequence[np.ndarray], mask: np.ndarray, initiator: int = 0) -> Run:
        """Pass the updates, float32 vectors of one length, once around the cycle.

        not one update per site, or longer than one ciphertext: ValueError
        """
        if len(updates) != self.sites or any(update.shape != mask.shape for update in updates) or mask.size > SLOTS:
            raise ValueError(f"{len(updates)} updates for {self.sites} sites, of {mask.size} values, at most {SLOTS}")
        order = [(initiator + step) % self.sites for step in range(self.sites)]
        hops, partial = [], None
        for step, site in enumerate(order):
            own = updates[site].astype(np.float32)
            if partial is None:
                partial = self._encrypt(own + mask.astype(np.float32))
            else:
                partial = ts.ckks_vector_from(self.context, partial.serialize()) + self._encrypt(own)
            hops.append(Hop(site, order[(step + 1) % self.sites], partial.serialize()))
        total = ts.ckks_vector_from(self.context, hops[-1].ciphertext) - self._encrypt(mask.astype(np.float32))
        return Run(self, tuple(hops), np.array(total.decrypt()))

    def decrypt(self, hop: Hop) -> np.ndarray:
        """Return what any site reads in a hop."""
        return np.array(ts.ckks_vector_from(self.context, hop.ciphertext).decrypt())

    def _encrypt(self, vector: np.ndarray) -> ts.CKKSVector:
        return ts.ckks_vector(self.context, vector)


@dataclass(frozen=True)
class Run:
    """One finished round: the hops in their order, and the sum that the initiator hands to everybody."""

    ring: PublishedRing
    hops: tuple[Hop, ...]
    total: np.ndarray

    def received(self, site: int) -> np.ndarray:
        """Return the partial sum that `site` gets from its predecessor, which both can read."""
        return self.ring.decrypt(next(hop for hop in self.hops if hop.receiver == site))

    def sent(self, site: int) -> np.ndarray:
        """Return the partial sum that `site` hands to its successor, which both can read."""
        return self.ring.decrypt(next(hop for hop in self.hops if hop.sender == site))


def gaussian_mask(size: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Return the initiator's mask, in float32."""
    return rng.normal(0.0, scale, size).astype(np.float32)


def neighbour_difference(before: np.ndarray, after: np.ndarray, bits: int | None = None) -> np.ndarray:
    """Return what the neighbours of a site learn together: `after`, which it sent, minus `before`, which it received.

    Real numbers: plain difference | words, with `bits` 1..64: difference modulo 2^bits, read as a signed number
    """
    if bits is None:
        return np.asarray(after, np.float64) - np.asarray(before, np.float64)
    shift = np.uint64(64 - bits)
    words = (np.asarray(after).astype(np.uint64) - np.asarray(before).astype(np.uint64)) << shift
    return (words.view(np.int64) >> shift.astype(np.int64)).astype(np.float64)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of all values.

    a constant: 0, it tells nothing | different sizes: ValueError
    """
    x, y = (np.ravel(values).astype(np.float64) for values in (a, b))
    if x.size != y.size:
        raise ValueError(f"{x.size} values beside {y.size}")
    x, y = x - x.mean(), y - y.mean()
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norm) if norm > 0 else 0.0


def ckks_error(ciphertexts: int) -> float:
    """Return the standard deviation of a decrypted slot after adding this many fresh ciphertexts.

    SEAL encrypts one prime higher and divides by it: what remains is rounding, uniform in a unit interval, in both parts
    of the ciphertext, of which one is multiplied by a secret with two thirds of its DEGREE coefficients not zero. A slot
    sums all coefficients with a phase, and its real part has half of the variance. Being a product of two such sums (the
    secret's and the error's), it has the tails of a Laplace distribution.
    """
    coefficient = (1 + 2 * DEGREE / 3) / 12
    return math.sqrt(ciphertexts * coefficient * DEGREE / 2) / 2.0**SCALE_BITS
