"""The scenarios, by subject. `harness/world.py` has their vocabulary."""

from . import interrupted, inputs, nights, observed  # noqa: F401
