"""No secret is committed: looks at every tracked file, names the places, never shows what it found.

Flags files that hold secrets by their nature (``.env``, keys), private keys and tokens, default logins, passwords in
addresses, and values of anything named like a password that stand in the text instead of coming from outside. A line
that ends in ``not a secret: REASON`` is left alone. Example: ``python .ci/secrets_check.py [FOLDER]``
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FILES = re.compile(
    r"\.env(\..+)?|\.netrc|\.pgpass|\.htpasswd|id_(rsa|dsa|ecdsa|ed25519)|.+\.(pem|key|p12|pfx|jks|keystore|kdbx)"
)
"""Names of files that hold secrets."""
IGNORED = (".env", "backups/any")
"""What must be in .gitignore."""
MARK = "not a secret: "
NAMED = (
    r"(?i)(?P<name>[\w.-]*(?:passw(?:or)?d|passphrase|secret|auth[_-]?token"
    r"|(?:access|secret|api|fernet|private|jwt)[_-]?key))"
)
TOKENS = (r"gh[pousr]_\w{36}", r"github_pat_\w{22}", r"glpat-[\w-]{20}", r"xox[abprs]-[\w-]{10}", r"hf_[A-Za-z]{30}")
ANYWHERE = {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "token of a service": rf"\b(?:{'|'.join(TOKENS)})",
    "32 bytes in base64, as a Fernet key": r"(?<![\w+/=-])[\w-]{43}=(?![\w=])",
    "default login": r"\bminioadmin\b|(?<![\w/])(airflow|admin|guest|minio):\1\b",
    "password in an address": r"://[^\s/:@\"'{}$<>]*:[^\s/:@\"'{}$<>*…%]+@",
}
IN_PYTHON = {
    "password in the code": (
        NAMED + r"""["']?(?:\s*:\s*\w+)?\s*[=:,]\s*[rbu]?(?P<q>["'])(?P<value>[^"'\s{}]+)(?P=q)"""
    ),
}
ELSEWHERE = {
    "password in the text": NAMED + r"""["']?\s*[:=](?![-?+=])\s*\\?(?P<value>"[^"]+"|'[^']+'|[^\s#"'`,;)]+)""",
    "default of a password": NAMED + r""":?[-=](?P<value>[^\s}-][^}]*)\}""",
    "password in an image": NAMED.replace("(?i)", r"(?i)^\s*(?:ENV|ARG)\s+") + r"\s+(?P<value>\S+)",
}
PROSE = {".md", ".rst", ".txt", ".lock", ".csv", ".json", ".svg"}
"""Text in which "password: " is followed by words; only the rules for everywhere apply."""
REFERENCE = re.compile(r"[a-z]Secret$")
"""Names such as credentialsSecret: Helm's, for the name of a secret that lies elsewhere."""


def literal(value: str) -> bool:
    """Whether a value stands in the text: it does not come from a variable, and is no placeholder."""
    value = value.strip("\\\"'")
    return not re.match(r"[$<{(\[&*|>%@]|\.\.\.|…|(?:true|false|null|none|yes|no|str|bytes)\b", value, re.IGNORECASE)


def findings(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and rules of what looks like a secret in a file."""
    suffix = Path(path).suffix
    rules = dict(ANYWHERE)
    if suffix == ".py" and not path.startswith("tests/"):  # a test's server takes any password
        rules |= IN_PYTHON
    elif suffix not in PROSE | {".py"}:
        rules |= ELSEWHERE
    for number, line in enumerate(text.splitlines(), start=1):
        if MARK in line:
            continue
        for rule, pattern in rules.items():
            for found in re.finditer(pattern, line):
                groups = found.groupdict()
                if "value" in groups and (not literal(groups["value"]) or REFERENCE.search(groups.get("name") or "")):
                    continue
                yield number, rule
                break


def check(folder: Path) -> list[str]:
    """What is wrong in a checkout, a line each; empty if nothing is."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - fixed words
            ["git", "-C", str(folder), *words],  # noqa: S607 - git of the PATH
            capture_output=True,
            text=True,
            check=False,
        )

    listed = git("ls-files", "-z")
    if listed.returncode:
        raise SystemExit(f"{folder} is no checkout: {listed.stderr.strip()}")
    wrong = [f"{name} is not in .gitignore" for name in IGNORED if git("check-ignore", "-q", name).returncode]
    for path in filter(None, listed.stdout.split("\0")):
        if FILES.fullmatch(Path(path).name):
            wrong.append(f"{path}: a file of this name holds secrets; git rm --cached it, and rotate them")
        file = folder / path
        if file.is_symlink() or not file.is_file() or b"\0" in (content := file.read_bytes()):
            continue
        wrong += [f"{path}:{line}: {rule}" for line, rule in findings(path, content.decode("utf-8", "replace"))]
    return wrong


if __name__ == "__main__":
    if wrong := check(Path(sys.argv[1] if sys.argv[1:] else ".")):
        raise SystemExit("\n".join([*wrong, f'a line that is harmless may end in a comment "{MARK}REASON"']))
    sys.stdout.write("no tracked file holds a secret\n")
