"""Results of `evaluate`, read back from their JSON files."""

import json
from pathlib import Path


def read_result(path: str | Path) -> dict:
    """The result in a file that `evaluate --json` wrote, or in one that `docs/results` keeps.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no such result.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}; name one that `evaluate --json` wrote")
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        complete = result["results"] and all(
            {"psnr", "gain", "jpeg"} <= scores.keys() and num_images(scores)
            for qualities in result["results"].values()
            for scores in qualities.values()
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete or not {"method", "channels"} <= result.keys():
        raise ValueError(f"{path} is not a result of `evaluate`; give the JSON file of one")
    return result


def num_images(scores: dict) -> int:
    """The number of images of a set, from its scores at one quality."""
    return len(scores["images"]) if "images" in scores else scores["num_images"]


def num_worse(scores: dict) -> int:
    """The number of these images whose PSNR is lower than that of their JPEG."""
    if "images" not in scores:
        return scores["num_worse"]
    gains = (image["gain"] for image in scores["images"].values())
    return sum(gain is not None and gain < 0 for gain in gains)  # JSON has null for an infinite gain
