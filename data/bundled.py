"""A handful of photos that come with scikit-image, as a miniature image set: enough to try everything, no download."""

import shutil
from pathlib import Path

import skimage.data

from data.images import read_rgb
from data.jpeg import encode

# Photographs among the files inside scikit-image's own package; the others it would have to download.
PHOTOS = {
    "train": ("coffee.png", "rocket.jpg", "motorcycle_left.png", "brick.png", "grass.png", "gravel.png", "coins.png"),
    "val": ("camera.png",),
    "test": ("astronaut.png", "chelsea.png"),
}
DAMAGED_QUALITIES = (10, 30)


def make_bundled(root: str | Path) -> list[str]:
    """Write `<root>/bundled/{train,val,test}` and, of the test photos, JPEGs of low quality into `<root>/damaged`.

    Returns:
        Lines that say what was made.

    Raises:
        FileNotFoundError: if this scikit-image does not bring one of the photos.
    """
    source, root = Path(skimage.data.__file__).parent, Path(root)
    missing = [name for names in PHOTOS.values() for name in names if not (source / name).is_file()]
    if missing:
        raise FileNotFoundError(f"scikit-image {skimage.__version__} does not bring {', '.join(missing)}; update it")
    for split, names in PHOTOS.items():
        folder = root / "bundled" / split
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(source / name, folder / name)
    damaged = root / "damaged"
    damaged.mkdir(parents=True, exist_ok=True)
    for name in PHOTOS["test"]:
        for quality in DAMAGED_QUALITIES:
            photo = read_rgb(source / name)
            (damaged / f"{Path(name).stem}_q{quality}.jpg").write_bytes(encode(photo, quality))
    counts = ", ".join(f"{len(names)} {split}" for split, names in PHOTOS.items())
    return [f"{root / 'bundled'}: {counts} photos of scikit-image", f"{damaged}: test photos as JPEGs of low quality"]
