"""How Python's collector of cycles is set in a server: seldom, and not over what was there from the start.

As it comes, it walks over every object of the process after some allocations, which with a hundred answers under
way held all of them up for a tenth of a second, several times a minute. Hardly anything here is a cycle: tasks
and exceptions make a few.
"""

import gc

YOUNG, MIDDLE, OLD = 50_000, 20, 100
"""Containers made between two looks at the young ones; looks at those before one at the middle ones; and so on."""


def settle() -> None:
    """Call it once, when all that stays has been made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
