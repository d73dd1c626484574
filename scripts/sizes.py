"""Lines of each folder of the library, and what is larger than it should be: a report, never a failure."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

# Lines of a file, and modules in a folder, beyond which a reader gets lost.
LINES, MODULES = 600, 12
ROOT = Path(__file__).parent.parent


def main() -> None:
    files = [
        path.relative_to(ROOT)
        for top in ("src", "studies")
        for path in sorted((ROOT / top).rglob("*.py*"))
        if path.suffix in (".py", ".pyi")
    ]
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in files}
    rows: Counter[str] = Counter()
    for path, count in lines.items():
        if path.parts[0] == "src":
            rows[path.parts[2]] += count
    print(f"src/unrelu: {sum(rows.values()):,} lines")
    print("  " + ", ".join(f"{name} {count:,}" for name, count in rows.most_common()))
    for path, count in lines.items():
        if count > LINES:
            print(f"warning: {path} has {count} lines; {LINES} are enough for one subject")
    modules = Counter(path.parent for path in files if path.name != "__init__.py")
    for folder, count in modules.items():
        if count > MODULES:
            print(f"warning: {folder} has {count} modules; {MODULES} are enough for one folder")


if __name__ == "__main__":
    main()
