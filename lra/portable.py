"""Text that may leave this machine: without absolute paths and without secrets."""

import os
import re
from typing import Any

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
# two components or more; neither part of a URL, nor of a relative path, nor of bytes in base64
ABSOLUTE_PATH = re.compile(r"(?<![\w:/.~…+])(?:[A-Za-z]:\\|/)(?:[^\s/\\'\",;:=]+[/\\])+([^\s/\\'\",;:=]*)")


def portable(value: Any) -> Any:
    """The same value, every string in it freed of this machine: secrets blotted out, absolute paths cut to their name.

    A secret is the value of an environment variable whose name speaks of a key, token, secret, password or credential.
    What is portable already is returned equal.
    """
    secrets = [text for name, text in os.environ.items() if SECRET_NAME.search(name) and len(text) >= 8]
    home = os.environ.get("HOME", "")

    def clean(node: Any) -> Any:
        if isinstance(node, dict):
            return {clean(key): clean(item) for key, item in node.items()}
        if isinstance(node, list):
            return [clean(item) for item in node]
        if not isinstance(node, str):
            return node
        for secret in secrets:
            node = node.replace(secret, "[secret]")
        if len(home) > 1:
            node = re.sub(rf"(?<![\w/]){re.escape(home)}(?![\w.-])", "~", node)
        return ABSOLUTE_PATH.sub(r"…/\1", node)

    return clean(value)
