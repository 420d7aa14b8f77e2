"""A Kubernetes control plane on 127.0.0.1, and the tools with which scenarios test `deploy/` on it."""

from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
