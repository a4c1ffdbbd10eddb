"""The generated parts of documents: what stands between `<!-- generated: NAME -->` and `<!-- end -->`."""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
END = "<!-- end -->"


def put(document, part, text, check, command):
    """Puts `text` into a part of `document`, or, to `check`, ends the run where something else stands there, with the lines that
    are new and the `command` that writes them."""
    path = ROOT / document
    content, begin = path.read_text(), f"<!-- generated: {part} -->\n"
    if content.count(begin) != 1:
        sys.exit(f"{document} has no part '{part}'")
    before, rest = content.split(begin)
    found, after = rest.split(END, 1)
    new = f"\n{text}\n\n"
    if not check:
        path.write_text(f"{before}{begin}{new}{END}{after}")
    elif found != new:
        changed = sorted(set(text.splitlines()) - set(found.strip().splitlines()))
        sys.exit(f"{document}, part '{part}', is stale: run {command}; now:\n" + "\n".join(changed))
