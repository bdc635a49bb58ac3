"""Write book/_static/faces.png, the picture at the top of README.md, from the embedded faces."""

from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.kdef import load_posefaces

OUT = Path(__file__).resolve().parents[1] / "book" / "_static" / "faces.png"
ROWS = (("F72", "happy"), ("M75", "surprised"), ("F74", "disgusted"))
YAWS = range(-90, 91, 20)


def main() -> None:
    faces = load_posefaces("sweep")
    rows = []
    for person, expression in ROWS:
        mine = (faces.subject == person) & (faces.labels == faces.classes.index(expression))
        rows.append(np.hstack([faces.images[mine & (faces.yaw == yaw)][0] for yaw in YAWS]))
    Image.fromarray(np.vstack(rows)).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
