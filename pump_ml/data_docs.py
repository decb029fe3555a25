"""Makes Great Expectations' Data Docs readable without a network; they ask seven hosts for styles and scripts."""

import os
import re
from pathlib import Path

STYLE = (Path(__file__).parent / "conf" / "data_docs.css").read_text(encoding="utf-8")
REMOTE = re.compile(r'<(?:link|script|img)\b[^>]*(?:href|src)="https?://[^"]*"[^>]*>(?:\s*</script>)?', re.DOTALL)
SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL)


def make_self_contained(docs: Path) -> Path:
    """Put the style into every page of the docs, and make the index lead to the newest validation.

    Pages without their remote scripts lose the filter and the folding, nothing else; the index was a scripted table.

    Args:
        docs: folder of the docs, with at least one validation.

    Returns:
        The index.
    """
    for page in docs.rglob("*.html"):
        text = SCRIPT.sub("", REMOTE.sub("", page.read_text(encoding="utf-8")))
        page.write_text(text.replace("</head>", f"<style>\n{STYLE}</style>\n</head>", 1), encoding="utf-8")
    newest = max((docs / "validations").rglob("*.html"), key=lambda page: page.stat().st_mtime)
    index = docs / "index.html"
    address = os.path.relpath(newest, docs)
    index.write_text(
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">'
        f'<a href="{address}">the newest validation</a>\n',
        encoding="utf-8",
    )
    return index
