"""`python -m tests.zoo`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import zoo.report

if __name__ == "__main__":
    sys.exit(zoo.report.main())
