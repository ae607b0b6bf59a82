"""Bugs that can be planted, to see that the simulation finds them."""

from __future__ import annotations

from enum import StrEnum


class Bug(StrEnum):
    """One thing that is wrong. Those of the store are switches of the double, others are patches of real code."""

    # --- of the store
    NO_FENCE = "no-fence"  # a leader's transaction asks nothing about the lease
    NO_EPOCH_CHECK = "no-epoch-check"  # it asks whether a lease is valid, not whose it is
    DOUBLE_PLACEMENT = "double-placement"  # nobody looks whether an instance is placed already
    CAPACITY_IGNORED = "capacity-ignored"  # placements are counted by nobody
    CAPACITY_TWICE = "capacity-twice"  # each placement is counted twice
    LEASE_LEAKED = "lease-leaked"  # a removed placement keeps its addresses
    NO_REST = "no-rest"  # a released address is given away at once
    BLIND_WRITE = "blind-write"  # an observation is written whatever was there before
    STOP_FORGOTTEN = "stop-forgotten"  # a host is told that everything is wanted
    SINGLETON_TWICE = "singleton-twice"  # one that must be alone is replaced although its host may still run it
    KEPT_FOR_EVER = "kept-for-ever"  # what serves until its successor runs goes on beside it
    EARLY_END = "early-end"  # what should serve until its successor runs ends when that is wanted
    RAISED_BY_BEAT = "raised-by-beat"  # a sign of life is taken from whoever gives one, removed or not
    REMOVED_BLINDLY = "removed-blindly"  # a host is removed whatever runs there
    REMOVED_ALIVE = "removed-alive"  # a host that is said to be dead is believed to be
    LEFT_FOR_LOST = "left-for-lost"  # what ran on a host that was removed is wanted nowhere else
    INVITED_TWICE = "invited-twice"  # who asks for a host once more gets another one
    # --- of actors
    NO_SLOW_TIMER = "no-slow-timer"  # every notification is taken to arrive
    OUTCOME_ASSUMED = "outcome-assumed"  # what was sent is taken to be committed
    NO_INTENT = "no-intent"  # a monitor is started before its intent is on disk
    ADOPTED_BLINDLY = "adopted-blindly"  # whatever runs is taken over, wanted or not
    NEVER_GIVEN_UP = "never-given-up"  # nobody looks at how long a host has been waited for
    # --- of what is between hosts
    LATE_COMMAND = "late-command"  # a host heeds whatever command comes, of whatever leader
    WRONG_REPLY = "wrong-reply"  # an answer is taken for that to the request that waits longest
    NEVER_SOUGHT = "never-sought"  # nobody tries whether one that is believed dead lives behind a partition
    NO_GRACE = "no-grace"  # whoever can't reach the database is done without at once, although others reach it
    RAISED_BY_GOSSIP = "raised-by-gossip"  # who has heard nothing of a death yet raises the dead
