"""Hardware: a generator of L1BN and L2BN training units, their verification, and what they cost.

Built on ``l1bn.fixed_point``, which judges every bit. Needs the extra ``rtl``; synthesis and
gate-level simulation need the system packages that docs/silicon/unit.md names.
"""
