"""How what is bounded is shared where there are several principals: the keys of a server.

Each may hold fewer than ``SHARE`` times what is left (a dynamic threshold, as switches share their
buffers): one alone gets four fifths of all, two four ninths each. So whoever comes finds capacity,
however much another sends, and no share must be set aside for those who do not.
"""

SHARE = 4


def exceeds_share(own: int, left: int) -> bool:
    """Whether ``own``, of a principal, is more than its share where so much is left for all."""
    return own > SHARE * left
