"""Sphinx extension: the table of executed chapters has its signs from the fonts of text."""

from docutils import nodes

SIGNS = {"✅": "✓", "❌": "✗"}  # a machine without a font of emoji shows the first as boxes


def use_plain_signs(app, doctree, docname):
    """Replace the signs that MyST-NB writes."""
    for text in list(doctree.findall(nodes.Text)):
        if text in SIGNS:
            text.parent.replace(text, nodes.Text(SIGNS[text]))


def setup(app):
    """Register the extension; the table is filled just before its event."""
    app.connect("doctree-resolved", use_plain_signs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
