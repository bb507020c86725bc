"""The weights that the original authors publish: loaded by name, downloaded, cached in our format."""

import hashlib
import os
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from nbflows import files, inputs
from nbflows.flow import Flow
from nbflows.storage import download, weights
from nbflows.storage.manifest import sha256
from nbflows.upstream.checkpoint import load_upstream

# Files put here by hand are taken instead of a download.
BY_HAND = Path("data/upstream")


@dataclass(frozen=True)
class Published:
    """A file that the original authors publish.

    Attributes:
        address: URL of the file.
        purpose: model and data in a few words.
        licence: licence of the weights.
        data: name of the training data.
        sha256: hash of the file, if known.
        git_blob: git's hash of the content, the SHA-1 of a header and the bytes, if that is all we know.
        member: name of the checkpoint, if the file is a zip archive.
        num_grey_levels: grey levels of the images.
        published: bits/dim that the authors report, and its M.
    """

    address: str
    purpose: str
    licence: str
    data: str
    sha256: str | None = None
    git_blob: str | None = None
    member: str | None = None
    num_grey_levels: int = 256
    published: str = ""

    @property
    def file(self) -> str:
        """Name of the authors' file."""
        return self.address.rsplit("/", 1)[1]

    def describe(self) -> dict:
        """Returns the entries of a manifest that are known."""
        known = {key: value for key, value in asdict(self).items() if value}
        return {**known, "recipe": {"data": self.data}}


_TUTORIAL = "https://raw.githubusercontent.com/phlippe/saved_models/main/tutorial11/"
_RESIDUAL_FLOWS = "https://github.com/rtqichen/residual-flows/releases/latest/download/"
_MAR_SCF = "https://download.visinf.informatik.tu-darmstadt.de/data/2020-cvpr-mahajan-mar-scf/ckpts.zip"
_TUTORIAL_LICENCE = "MIT (UvA Deep Learning Tutorials, P. Lippe)"
_RESIDUAL_LICENCE = "MIT (R. T. Q. Chen, 2019)"

PUBLISHED = {
    "upstream/uva-mnist-simple": Published(
        f"{_TUTORIAL}MNISTFlow_simple.ckpt",
        "UvA tutorial, uniform noise, MNIST",
        _TUTORIAL_LICENCE,
        "mnist",
        sha256="d5e596723a9c12240f3180615cc76aa29c82dcf3b52bcf03d71f584494ab5e94",
        published="1.078 (M = 8)",
    ),
    "upstream/uva-mnist-variational": Published(
        f"{_TUTORIAL}MNISTFlow_vardeq.ckpt",
        "UvA tutorial, variational dequantization, MNIST",
        _TUTORIAL_LICENCE,
        "mnist",
        sha256="f571031f2fd719b19e6e23fb32c896b581594b4a690e9377be941b0b51a41791",
        published="1.043 (M = 8)",
    ),
    "upstream/uva-mnist-multiscale": Published(
        f"{_TUTORIAL}MNISTFlow_multiscale.ckpt",
        "UvA tutorial, multi-scale, MNIST",
        _TUTORIAL_LICENCE,
        "mnist",
        git_blob="65e431cd0f37ba49d956ae5a2850635dc6a33ce8",
        published="1.020 (M = 8)",
    ),
    "upstream/marscf-cifar10-mixlogcdf-256": Published(
        _MAR_SCF,
        "mAR-SCF with mixture couplings, CIFAR-10",
        "none is stated: ask the authors (github.com/visinf/mar-scf)",
        "cifar10",
        member="marscf_cifar10_mixlogcdf_4_256.pt",
        published="3.22",
    ),
    "upstream/resflow-mnist": Published(
        f"{_RESIDUAL_FLOWS}mnist_resflow_16-16-16.pth",
        "Residual Flow of 48 blocks, MNIST",
        _RESIDUAL_LICENCE,
        "mnist",
        published="0.97",
    ),
    "upstream/resflow-cifar10": Published(
        f"{_RESIDUAL_FLOWS}cifar10_resflow_16-16-16.pth",
        "Residual Flow of 48 blocks, CIFAR-10",
        _RESIDUAL_LICENCE,
        "cifar10",
        published="3.28",
    ),
    "upstream/resflow-celeba-hq": Published(
        f"{_RESIDUAL_FLOWS}celebahq256_resflow_16-16-16-16-16-16.pth",
        "Residual Flow of 96 blocks, 256x256 faces",
        _RESIDUAL_LICENCE,
        "celeba-hq-256-5bit",
        num_grey_levels=32,
    ),
}


def find_published(name: str) -> Published:
    """Returns an entry of ``PUBLISHED``; an unknown name is a ValueError that lists all names."""
    if name not in PUBLISHED:
        hint = inputs.did_you_mean(name, PUBLISHED)
        raise ValueError(f"no published weights named {name!r}; {hint}available: {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def load_published(name: str, cache: Path, progress: bool = True) -> Flow:
    """Loads a model of ``PUBLISHED``, in eval mode.

    The first call downloads the authors' file, compares its hash if one is known, reads it without running any code in
    it, converts it and prints its licence. Later calls load the converted file from the cache.

    Args:
        name: a key of ``PUBLISHED``.
        cache: folder for the converted file.
        progress: show a bar while downloading.

    Raises:
        DownloadError: the file cannot be downloaded; the message says why, and what to try.
        ValueError: the name is unknown, or the file is not the published one, or is unreadable.
    """
    published = find_published(name)
    converted = _converted(name, cache)
    flow = _load_converted(converted)
    if flow is not None:
        return flow
    # A folder for this process alone, because another one may be loading the same model.
    folder = cache / f"{converted.stem}.{os.getpid()}"
    try:
        original = BY_HAND / published.file
        if not original.exists():
            original = _fetch(name, folder, progress)
        _check(original, published)
        checkpoint = _extract(original, published.member, folder) if published.member else original
        flow = load_upstream(checkpoint, num_grey_levels=published.num_grey_levels)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        weights.save_flow(flow, converted, **published.describe())
    except OSError as error:
        print(f"{name} could not be stored in {cache}: {error}")
    print(f"{name}: {published.purpose}. Licence of the weights: {published.licence}")
    return flow


def is_here(name: str, cache: Path) -> bool:
    """Tells whether a model loads without a download: from the cache, or from a file in ``BY_HAND``."""
    return _converted(name, cache).exists() or (BY_HAND / find_published(name).file).exists()


def _converted(name: str, cache: Path) -> Path:
    return cache / f"{name.replace('/', '-')}.safetensors"


def _fetch(name: str, folder: Path, progress: bool) -> Path:
    published = PUBLISHED[name]
    try:
        return download.fetch(published.address, folder / published.file, published.sha256, progress=progress)
    except download.DownloadError as error:
        raise download.DownloadError(
            f"{name} is not in {folder.parent} and could not be downloaded: {error}.\n"
            f"Put {published.file} into {BY_HAND}/, or try again where {published.address} can be reached, or use a "
            "model trained here: list_pretrained() names them"
        ) from error


def _check(file: Path, published: Published) -> None:
    """Raises ValueError if the hash of the file is known and differs."""
    if published.sha256:
        found, wanted = sha256(file.read_bytes()), published.sha256
    elif published.git_blob:
        content = file.read_bytes()
        found, wanted = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), published.git_blob
    else:
        return
    if found != wanted:
        raise ValueError(f"{file} is not what its authors published: its hash is {found}, but should be {wanted}")


def _extract(archive: Path, member: str, folder: Path) -> Path:
    """Extracts a file, from any folder of a zip archive, to ``folder``."""
    try:
        with zipfile.ZipFile(archive) as content:
            found = [record for record in content.infolist() if record.filename.rsplit("/", 1)[-1] == member]
            if len(found) != 1:
                raise ValueError(f"{archive} has no {member}; it has {', '.join(content.namelist())}")
            # Weights do not compress: a member much larger than the archive is not a checkpoint.
            if found[0].file_size > 2 * archive.stat().st_size:
                raise ValueError(f"{archive}: {member} would unpack to {found[0].file_size} bytes")
            unpacked = content.read(found[0])
    # A damaged archive can raise almost anything.
    except Exception as error:
        if isinstance(error, ValueError) and str(archive) in str(error):
            raise
        raise ValueError(f"{archive} is not a zip archive, or is damaged: {error}") from error
    file = folder / member
    folder.mkdir(parents=True, exist_ok=True)
    files.write(file, unpacked)
    return file


def _load_converted(converted: Path) -> Flow | None:
    """Returns None if the converted file is missing or incomplete; it is then converted again."""
    description = converted.with_suffix(".json")
    if not converted.exists() or not description.exists():
        return None
    try:
        known, content = inputs.json_object(description), converted.read_bytes()
    except (ValueError, OSError):
        return None
    # Each file is written atomically, but not both together; caches of earlier versions have the second name.
    if known.get("weights_sha256", known.get("converted_sha256")) != sha256(content):
        return None
    return weights.rebuild(weights.parse(content, converted), known, converted)
