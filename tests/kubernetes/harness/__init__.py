"""A Kubernetes control plane on 127.0.0.1, and what scenarios need to try `deploy/` on it."""

from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
