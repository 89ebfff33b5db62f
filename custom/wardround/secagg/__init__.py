"""Secure aggregation: quantise, mask, encrypt, add, and both ends of the protocol.

It knows nothing of noise.

A site refuses the following, whatever the server says (key_agreement.py):

    - a set of fewer than min_clients sites;
    - a message of another run, round, attempt or job;
    - a key that its owner did not sign;
    - a second set of sites for one moment;
    - more of a job whose sum it refused;
    - to use one mask for two updates or for two sets of sites;
    - to open a round for two different sets of sites, or for another set than it masked
      for: the difference of two such sums is one hospital's update;
    - to prepare a round once more with a site that was not asked before, or after a
      later round, or in a run that it has left: otherwise two groups of sites would
      open one update in two sums.

Sources: Bonawitz et al. 2017, ePrint 2017/281, figure 4 (rounds 0 to 4, signed keys).
Deviations: 1. The mask key and the own mask are made for one round and attempt and
shared with every site that joined. 2. The consistency check (round 3) is the rule
above: a site answers for one set of survivors in a round, and no other. 3. Pair masks
depend on what the round starts from (Pasquini et al. 2022, arXiv:2111.07380): a server
that hands out the sums itself could hand one site another model than all others, whose
updates vanish. With these masks the server reads noise, because they do not cancel.
"""
