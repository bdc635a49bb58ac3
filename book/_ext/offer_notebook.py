"""Sphinx extension: the download button of a chapter also offers its executed notebook."""

import shutil
from pathlib import Path


def offer_notebook(app, pagename, templatename, context, doctree):
    """Put the notebook beside the page's source, where the theme's button looks for it."""
    executed = Path(app.srcdir, "_build", "executed", "quick", f"{pagename}.ipynb")
    if executed.is_file():
        target = Path(app.outdir, "_sources", f"{pagename}.ipynb")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(executed, target)
        context["ipynb_source"] = f"{pagename}.ipynb"


def setup(app):
    """Register the extension; the theme makes its buttons at Sphinx's default priority."""
    app.connect("html-page-context", offer_notebook, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
