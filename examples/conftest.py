"""The tests import `spaces` as the demo does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
