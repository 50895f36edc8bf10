"""Run the code of README, docs and docstrings as tests, in parallel page by page."""

import os
from doctest import ELLIPSIS

import pytest
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# Each of the parallel workers computes with its part of the cores: more threads than cores wait for
# each other, and take several times as long. Before torch is imported; processes inherit it.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))

_markdown = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
)
_docstrings = Sybil(
    parsers=[DocTestParser(optionflags=ELLIPSIS)],
    patterns=["src/l1bn/*.py", "src/l1bn/**/*.py"],
    document_types={".py": PythonDocStringDocument},
)

pytest_collect_file = (_markdown + _docstrings).pytest()


class PageScheduling(LoadScopeScheduling):
    """Tests one by one, a page of examples whole: the later ones use names of the earlier."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return nodeid if path.startswith("tests/") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> PageScheduling:
    """Replace the default, which cuts pages anywhere (xdist 3.8 loses groups on pytest 9.2)."""
    return PageScheduling(config, log)
