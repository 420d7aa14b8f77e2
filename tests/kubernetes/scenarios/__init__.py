"""The scenarios, by subject. `harness/world.py` has their vocabulary."""

from . import indexed, inputs, interrupted, nights, observed  # noqa: F401
