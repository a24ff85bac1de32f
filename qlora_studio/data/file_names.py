"""Which names data files have: what a name promises, below a compression too."""

from __future__ import annotations

from pathlib import Path

EXPECTED = {
    ".json": "a JSON list",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
}
DATA_SUFFIXES = frozenset(EXPECTED)
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
CSV_SUFFIXES = (".csv", ".tsv")
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")


def data_suffix(path: Path) -> str:
    """`.jsonl` of rows.jsonl and of rows.jsonl.gz; empty where the name says nothing about data."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in DATA_SUFFIXES else ""


def may_be_data(path: Path) -> bool:
    """Whether a person who shows this file to the window means data."""
    return bool(data_suffix(path)) or path.suffix.lower() in COMPRESSED_SUFFIXES


def name_filter() -> str:
    """For a dialog that asks for a data file."""
    suffixes = [*EXPECTED, *COMPRESSED_SUFFIXES]
    return f"Data ({' '.join(f'*{suffix}' for suffix in suffixes)});;All files (*)"
