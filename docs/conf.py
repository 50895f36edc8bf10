"""How Sphinx makes the site: `make docs`. Nothing on a page is loaded from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

import l1bn

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "l1bn"
author = "The l1bn authors"
copyright = "2026, The l1bn authors"
version = release = l1bn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",
    "offline",
    "fields",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_custom_sections = [("Shape", "notes_style"), ("Source", "notes_style")]
add_module_names = False
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"l1bn {release}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
