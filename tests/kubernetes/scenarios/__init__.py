"""The scenarios, by subject. They use the methods of `World` in `harness/world.py`."""

from . import indexed, inputs, interrupted, nights, observed  # noqa: F401
