"""A small image set of photos that come with scikit-image. It is enough to try everything without a download."""

import shutil
from pathlib import Path

import skimage.data

from data.images import read_rgb
from data.jpeg import encode

# Photos inside the scikit-image package itself. It downloads its other photos.
PHOTOS = {
    "train": ("coffee.png", "rocket.jpg", "motorcycle_left.png", "brick.png", "grass.png", "gravel.png", "coins.png"),
    "val": ("camera.png",),
    "test": ("astronaut.png", "chelsea.png"),
}
DAMAGED_QUALITIES = (10, 30)


def make_bundled(root: str | Path) -> list[str]:
    """Write photos to `<root>/bundled/{train,val,test}`, and low-quality JPEGs of the test photos to `<root>/damaged`.

    Returns:
        Lines that say what was made.

    Raises:
        FileNotFoundError: if this version of scikit-image lacks one of the photos.
    """
    source, root = Path(skimage.data.__file__).parent, Path(root)
    missing = [name for names in PHOTOS.values() for name in names if not (source / name).is_file()]
    if missing:
        raise FileNotFoundError(f"scikit-image {skimage.__version__} lacks {', '.join(missing)}; update it")
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
