"""Measures what half precision in the conditioner networks changes: bits/dim and the round trip of pretrained models.

    python -m benchmarks.precision [NAME ...] [--images 256] [--device cpu] [--write]

Both precisions see the same test images, at equal distances in the test set, with the same noise, so that the changes
scatter far less than bits/dim do. With --write the rows go into the table of docs/precision.md.
"""

import argparse
import sys

from benchmarks import pages

PAGE, MARK = pages.DOCS / "precision.md", "table: python -m benchmarks.precision --write"
TITLES = [
    "model",
    "images",
    "bits/dim, float32",
    "change in bf16",
    "largest change",
    "wrong, float32",
    "wrong, bf16",
    "largest error, bf16",
]


def measure(name: str, num_images: int, device: str) -> tuple:
    """A row of the table. Raises FileNotFoundError where the model's test images are not here."""
    from nbflows import load_pretrained, metrics, pretrained
    from tools import publish

    flow = load_pretrained(name, device)
    data = publish.training_data(pretrained.describe(name))
    images, contexts = publish.subset(flow, data, max(1, len(data.test) // num_images))
    images, contexts = images[:num_images], None if contexts is None else contexts[:num_images]
    score = metrics.evaluate(flow, images, contexts)
    change = metrics.precision_change(flow, images, contexts)
    exact, half = (metrics.round_trip(flow, images, contexts, precision=p) for p in metrics.PRECISIONS)
    return (
        name,
        len(images),
        f"{score.mean:.4f}",
        f"{change.mean:+.5f} ± {change.standard_error:.5f}",
        f"{change.largest:.4f}",
        *(f"{1e6 * trip.wrong / trip.total:.0f}" for trip in (exact, half)),
        half.largest,
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of nbflows list (default: all in the manifest)")
    parser.add_argument(
        "--images", type=int, default=256, metavar="N", help="largest number of test images (default: 256)"
    )
    parser.add_argument("--device", default="cpu", help="device of the measurement (default: cpu)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.parent.name}/{PAGE.name}")
    options = parser.parse_args()
    if options.images < 2:
        parser.error(f"a standard error needs at least 2 images, got {options.images}")

    from tabulate import tabulate

    from nbflows import pretrained

    known = pretrained.find_manifest()
    try:
        names = [name for name in options.names or known.models if known.entry(name)]
    except ValueError as error:
        parser.error(str(error))
    rows, missing = [], []
    for name in names:
        try:
            rows.append(measure(name, options.images, options.device))
        except FileNotFoundError as error:
            missing.append(f"{name}: {error}")
            continue
        print(f"{name}: {rows[-1][3]}", file=sys.stderr)
    print(
        "\nwrong: pixel values that are not the same after encoding and decoding, in a million; errors in grey levels\n"
    )
    print(tabulate(rows, TITLES, disable_numparse=True))
    if missing:
        raise SystemExit("\nnot measured:\n" + "\n".join(missing))
    if options.write:
        pages.write(PAGE, MARK, rows, TITLES, sorted(known.models))


if __name__ == "__main__":
    main()
