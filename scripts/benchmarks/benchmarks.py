"""One line for a benchmark that is called as a script: `import benchmarks` then finds this file."""

import sys
from pathlib import Path

name = Path(sys.argv[0]).stem
sys.exit(f"{name}.py: is no command; hint: python scripts/bench.py {name} --help")
