"""Switch to the Python of .venv and the code of this checkout. Imported first by every command."""

import importlib.util
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("torch", "pytorch_lightning", "hydra", "wandb", "numba", "safetensors", "scipy", "matplotlib", "rich")

called = Path(sys.argv[0]).is_file() and Path(sys.argv[0]).resolve().parent == ROOT / "scripts"
if called:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends the command without a trace

missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
if missing or sys.version_info < (3, 11):
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix) != ROOT / ".venv":
        os.execv(str(python), [str(python), *sys.argv])
    lacks = "has no " + missing[0] if missing else "is older than 3.11"
    print(f"{sys.argv[0]}: {sys.executable} {lacks}; hint: make setup creates .venv with everything", file=sys.stderr)
    sys.exit(2)

lra = importlib.util.find_spec("lra")
if called and (lra is None or Path(lra.origin).parent.parent != ROOT):  # not installed, or from another checkout
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.execv(sys.executable, [sys.executable, *sys.argv])


def run(main):
    """Run a command and exit with its status; Ctrl-C, a closed pipe (`| head`) and a full disk leave no stack trace."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to flush at exit
        status = 141
    except OSError as error:
        status = f"{sys.argv[0]}: {error.filename or 'output'}: {error.strerror or error}"
    sys.exit(status)
