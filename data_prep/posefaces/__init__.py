"""PoseFaces: rendered faces of many people, with seven expressions, seen from every side.

Read in this order: `ict` (the morphable model), `expressions` (action units), `people` (who),
`skin` and `hair` (what they look like), `subject` (a person with an expression), `camera`, `rays`
and `render` (one picture), `pictures` (what the set holds), `build` (the zip).
"""

from .build import add_parser, run

__all__ = ["add_parser", "run"]
