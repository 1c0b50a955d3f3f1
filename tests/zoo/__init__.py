"""The zoo: environments that are really broken, each with the check that must name it; and odd ones that are fine.

An entry says what is broken and how that comes about, which good environment it starts from, how it is made, and what the
verdict must say: check, cause, remedy. `test_zoo.py` makes and judges every entry; `python -m tests.zoo` writes the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

# the helpers of the other tests: `breaking`, and `launching` beside the tests of the probes
for _folder in (Path(__file__).parent.parent, Path(__file__).parent.parent / "probes"):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))
