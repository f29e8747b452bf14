"""Text that may leave this machine: without absolute paths and without secrets."""

import os
import re
from typing import Any

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS|AUTH|CREDENTIAL|_PWD$", re.IGNORECASE)
# of a URL that names user and password, as those of proxies and databases do
URL_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")
# two components or more; neither part of a URL, nor of a relative path, nor of bytes in base64
ABSOLUTE_PATH = re.compile(r"(?<![\w:/.~…+])(?:[A-Za-z]:\\|/)(?:[^\s/\\'\",;:=]+[/\\])+([^\s/\\'\",;:=]*)")


def secrets() -> list[str]:
    """Values, of eight characters or more, of environment variables whose name speaks of a key, token or the like."""
    return [text for name, text in os.environ.items() if len(text) >= 8 and SECRET_NAME.search(name)]


def discreet(text: str, known: list[str] | None = None) -> str:
    """A text without secrets and without the passwords of URLs. known: what `secrets` has found already."""
    for secret in secrets() if known is None else known:
        text = text.replace(secret, "[secret]")
    return URL_PASSWORD.sub(r"\1:[secret]@", text)


def portable(value: Any) -> Any:
    """The same value, every string in it freed of this machine: secrets blotted out, absolute paths cut to their name.

    What is portable already is returned equal.
    """
    known = secrets()
    home = os.environ.get("HOME", "")

    def clean(node: Any) -> Any:
        if isinstance(node, dict):
            return {clean(key): clean(item) for key, item in node.items()}
        if isinstance(node, list):
            return [clean(item) for item in node]
        if not isinstance(node, str):
            return node
        node = discreet(node, known)
        if len(home) > 1:
            node = re.sub(rf"(?<![\w/]){re.escape(home)}(?![\w.-])", "~", node)
        return ABSOLUTE_PATH.sub(r"…/\1", node)

    return clean(value)
