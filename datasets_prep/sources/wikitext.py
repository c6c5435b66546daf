"""WikiText-2 (Merity et al. 2016, arXiv:1609.07843): the test split, a paragraph of an encyclopaedia a row.

It is read from its parquet file on the hub.
"""

from __future__ import annotations

from typing import Any

from datasets_prep import hub, local_files
from datasets_prep.sources.base import Request, Source

HUB_ID = "Salesforce/wikitext"
HUB_FILE = "wikitext-2-raw-v1/test-00000-of-00001.parquet"


def read_rows(request: Request) -> list[dict[str, Any]]:
    """Returns all rows; DataError where the file is neither in the local cache nor to be had from the hub."""
    return local_files.read_rows(hub.file_path(HUB_ID, HUB_FILE, request.revision, request.key), request.key)


plugin = Source(read_rows, frozenset({"texts"}), hub_id=HUB_ID)
