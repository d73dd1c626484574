"""The examples of the documentation's pages give what they show."""

from __future__ import annotations

import pytest

from tests.test_docs import PAGES, check_page

WITH_EXAMPLES = [page for page in PAGES if "```pycon" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_examples(page):
    check_page(page)
