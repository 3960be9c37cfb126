"""Images in files: folders, lists of paths, zip and tar archives, npz and npy arrays; a few bytes of table an image."""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch

from fidfast.decode import ImagesError, Unreadable, array_images, decode_bytes, decode_file, reason_of

# What pytorch-fid reads; torch-fidelity reads fewer, clean-fid also .npy.
SUFFIXES = ("bmp", "jpeg", "jpg", "pgm", "png", "ppm", "tif", "tiff", "webp")
# Suffixes of images that no peer takes from a folder: left out, but not in silence.
UNREAD_SUFFIXES = frozenset(
    ("apng", "avif", "gif", "heic", "heif", "jfif", "jp2", "jpe", "jxl", "npy", "pbm", "pnm", "tga")
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
MAX_ENCODED_BYTES = 1 << 30  # one member of an archive; a compressed archive can declare anything
ZIP_STORED, ZIP_DEFLATED, TAR = 0, 8, 255


class Names:
    """Byte strings in one buffer: their length + 8 bytes each, where a list of str costs 60 more."""

    def __init__(self, names: Iterable[bytes] = ()) -> None:
        self._bytes = bytearray()
        self._ends = array("q")
        self.extend(names)

    def extend(self, names: Iterable[bytes]) -> None:
        for name in names:
            self._bytes += name
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self._ends):
            raise IndexError(f"name {index} of {len(self._ends)}")
        return bytes(self._bytes[self._ends[index - 1] if index else 0 : self._ends[index]])

    def order(self) -> np.ndarray:
        """(n,) the indices that sort the names by their bytes."""
        longest = int(np.diff(self._ends, prepend=0).max(initial=1))
        if longest * len(self) > 1 << 30:  # one freak of a name among millions
            return np.array(sorted(range(len(self)), key=self.__getitem__))
        table = np.zeros(len(self), dtype=f"S{longest}")
        for index in range(len(self)):
            table[index] = self[index]
        return np.argsort(table, kind="stable")


class FileReader:
    """Image files by path: a root and names relative to it."""

    def __init__(self, root: bytes, names: Names, others: Counter[str] | None = None) -> None:
        self.root, self.names = root, names
        self.others = others or Counter()  # the files that were left out, by suffix

    def __len__(self) -> int:
        return len(self.names)

    def label(self, index: int) -> str:
        return os.fsdecode(os.path.join(self.root, self.names[index]))

    def read(self, index: int) -> torch.Tensor:
        return decode_file(self.label(index))


class Member(NamedTuple):
    """Where an image stands in an archive: offset of its header (zip) or data (tar), bytes there, bytes unpacked."""

    name: bytes
    offset: int
    size: int
    unpacked: int
    crc: int
    method: int


class ArchiveReader:
    """Images in a zip or an uncompressed tar, sorted by name, read by position: any process may read any image."""

    def __init__(self, path: str, members: list[Member], others: Counter[str], repeated: int) -> None:
        names = Names(member.name for member in members)
        order = names.order()
        self.path, self.others, self.repeated = path, others, repeated
        self.names = Names(names[index] for index in order)
        fields = (("offset", "i8"), ("size", "i8"), ("unpacked", "i8"), ("crc", "u4"), ("method", "u1"))
        self.places = np.array([tuple(members[index][1:]) for index in order], dtype=list(fields))
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def label(self, index: int) -> str:
        return f"{self.path}/{os.fsdecode(self.names[index])}"

    def read(self, index: int) -> torch.Tensor:
        offset, size, unpacked, crc, method = self.places[index].tolist()
        if max(size, unpacked) > MAX_ENCODED_BYTES:
            raise ValueError(f"refused: {max(size, unpacked)} bytes for one image")
        if method == TAR:
            return decode_bytes(self._bytes(offset, size))
        header = self._bytes(offset, 30)
        if header[:4] != b"PK\x03\x04":
            raise ValueError("the archive is damaged: no file header here")
        data = self._bytes(offset + 30 + sum(struct.unpack("<HH", header[26:30])), size)
        if method == ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, unpacked + 1)
        elif method != ZIP_STORED:
            raise ValueError(f"expected a stored or deflated file, got zip compression method {method}")
        if len(data) != unpacked or zlib.crc32(data) != crc:
            raise ValueError("the archive is damaged: wrong checksum")
        return decode_bytes(data)

    def _bytes(self, offset: int, size: int) -> bytes:
        if self._file is None:
            self._file = open(self.path, "rb")  # noqa: SIM115 - held for the next image
        # pread has no shared file position: a handle that was inherited by fork stays correct.
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise ValueError("the archive is truncated")
        return data


def has_image_suffix(name: bytes, suffixes: Iterable[str]) -> bool:
    """By suffix in any case; never the resource forks (``._*``, ``__MACOSX``) that macOS leaves beside images."""
    if os.path.basename(name).startswith(b"._") or name.startswith(b"__MACOSX/"):
        return False
    return suffix_of(name).lower() in suffixes


def suffix_of(name: bytes) -> str:
    return os.fsdecode(os.path.splitext(name)[1][1:])


def scan_folder(root: str, recursive: bool, suffixes: tuple[str, ...]) -> FileReader:
    """The image files below ``root``, sorted by relative path.

    Symbolic links are images of their own; links to folders are followed, but not into a folder they stand in.
    """
    found, others = Names(), Counter[str]()

    def walk(relative: bytes, above: tuple[tuple[int, int], ...]) -> None:
        folder = os.path.join(os.fsencode(root), relative)
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        folders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                name = os.path.join(relative, entry.name)
                if _holds(entry.is_dir):
                    folders.append(name)
                elif not has_image_suffix(name, suffixes):
                    others[suffix_of(name).lower()] += 1
                elif _holds(entry.is_file) or not os.path.exists(entry.path):  # a dead link is an unreadable image
                    found.extend((name,))
        if recursive:
            for name in folders:
                walk(name, (*above, here))

    try:
        walk(b"", ())
    except OSError as error:
        raise ImagesError(f"cannot list {error.filename!r}: {error.strerror}") from error
    return FileReader(os.fsencode(root), Names(found[index] for index in found.order()), others)


def _holds(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself
        return False


def scan_zip(path: str, suffixes: tuple[str, ...]) -> ArchiveReader:
    """The images of a zip archive; of members with one name the last, as when it is unpacked."""
    members: dict[str, Member] = {}
    others, seen = Counter[str](), 0
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.encode("utf-8", "surrogateescape")
                if info.is_dir():
                    continue
                if not has_image_suffix(name, suffixes):
                    others[suffix_of(name).lower()] += 1
                    continue
                seen += 1
                if info.flag_bits & 1:
                    raise ImagesError(f"{path}: {info.filename} is encrypted")
                members[info.filename] = Member(
                    name, info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type
                )
    except (zipfile.BadZipFile, OSError, NotImplementedError, struct.error, EOFError) as error:
        raise ImagesError(f"{path}: expected a zip archive, but it cannot be read: {error}") from error
    return ArchiveReader(path, list(members.values()), others, seen - len(members))


def scan_tar(path: str, suffixes: tuple[str, ...]) -> ArchiveReader | None:
    """The images of an uncompressed tar archive, links included; None when it is compressed."""
    members: dict[str, Member] = {}
    links: dict[str, str] = {}
    others, seen = Counter[str](), 0
    try:
        with tarfile.open(path, "r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined] # else a kilobyte for every member stays
                if info.isdir():
                    continue
                if not has_image_suffix(os.fsencode(info.name), suffixes):
                    others[suffix_of(os.fsencode(info.name)).lower()] += 1
                    continue
                seen += 1
                links.pop(info.name, None)
                if info.isreg() and not info.issparse():
                    members[info.name] = Member(os.fsencode(info.name), info.offset_data, info.size, info.size, 0, TAR)
                elif info.issym() or info.islnk():
                    base = os.path.dirname(info.name) if info.issym() else ""
                    links[info.name] = os.path.normpath(os.path.join(base, info.linkname))
    except tarfile.ReadError as error:
        if _is_compressed(path):
            return None
        raise ImagesError(f"{path}: expected a tar archive, but it cannot be read: {error}") from error
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise ImagesError(f"{path}: expected a tar archive, but it cannot be read: {error}") from error
    targets = {os.path.normpath(name): member for name, member in members.items()} if links else {}
    for name, target in links.items():
        for _ in range(40):  # a link to a link; links in a circle end here too
            target = links.get(target, target)
        place = targets.get(target, Member(b"", 0, 0, 0, 0, TAR))  # a dead link reads as an empty file
        members[name] = place._replace(name=os.fsencode(name))
    return ArchiveReader(path, list(members.values()), others, seen - len(members))


def _is_compressed(path: str) -> bool:
    try:
        with tarfile.open(path, "r|*") as archive:
            return archive.next() is not None
    except (tarfile.TarError, OSError, EOFError, zlib.error):
        return False


class TarStream:
    """The images of a compressed tar, in its own order: it can only be read from the front."""

    def __init__(self, path: str, suffixes: tuple[str, ...]) -> None:
        self.path, self.suffixes = path, suffixes

    def __iter__(self) -> Iterator[torch.Tensor | Unreadable]:
        try:
            with tarfile.open(self.path, "r|*") as archive:
                while (info := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]
                    if (info.isreg() or info.issym() or info.islnk()) and has_image_suffix(
                        os.fsencode(info.name), self.suffixes
                    ):
                        yield self._read(archive, info)
        except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
            yield Unreadable(self.path, f"the archive is damaged or truncated: {error}", fatal=True)

    def _read(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> torch.Tensor | Unreadable:
        label = f"{self.path}/{info.name}"
        if not info.isreg():
            return Unreadable(label, "a link inside a compressed tar cannot be followed; unpack the archive")
        if info.size > MAX_ENCODED_BYTES:
            return Unreadable(label, f"refused: {info.size} bytes for one image")
        file = archive.extractfile(info)
        data = file.read() if file is not None else b""
        try:
            return decode_bytes(data)
        except Exception as error:
            return Unreadable(label, reason_of(error), cause=error)


class ArrayStream:
    """An image array in an .npy file or as arr_0 in an .npz, read block by block and never whole.

    Blocks are read, not mapped: the pages of a map count as memory of the process until the kernel takes them back, and
    a file that shrinks while it is mapped kills the process.
    """

    def __init__(self, path: str, batch_size: int) -> None:
        self.path, self.batch_size = path, batch_size
        self.compressed = False
        try:
            with self._open() as file:
                shape, fortran_order, dtype = _array_header(file)
                available = self._size - file.tell()
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, zlib.error) as error:
            if isinstance(error, ImagesError):
                raise
            raise ImagesError(f"{path}: expected a numpy file, but it cannot be read: {error}") from error
        self.shape, self.dtype = shape, dtype
        if dtype.hasobject or dtype.kind not in "uf" or (dtype.kind == "u" and dtype.itemsize != 1):
            raise ImagesError(f"{path}: expected uint8 or floating-point images, got an array of {dtype} {shape}")
        if len(shape) not in (3, 4):
            raise ImagesError(f"{path}: expected an array of images (N, H, W, 3), got shape {shape}")
        if fortran_order and len(shape) > 1:
            raise ImagesError(
                f"{path}: expected an array in C order, got Fortran order; save np.ascontiguousarray of it"
            )
        if available < self._image_bytes * shape[0]:
            raise ImagesError(
                f"{path}: truncated: expected {self._image_bytes * shape[0]} bytes of images {shape}, got {available}"
            )

    @property
    def _image_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def _open(self) -> BinaryIO:
        file = open(self.path, "rb")  # noqa: SIM115 - the caller closes it
        if file.read(6) == b"\x93NUMPY":
            self._size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return file
        file.close()
        with zipfile.ZipFile(self.path) as archive:
            names = archive.namelist()
            if "arr_0.npy" not in names:
                keys = ", ".join(name.removesuffix(".npy") for name in names[:8]) or "none"
                raise ImagesError(
                    f"{self.path}: expected the key arr_0 with images (N, H, W, 3), got the keys {keys}"
                    + (": these are statistics, not images" if "mu.npy" in names else "")
                )
            info = archive.getinfo("arr_0.npy")
            self._size = info.file_size
            self.compressed = info.compress_type != zipfile.ZIP_STORED
            return archive.open(info)  # type: ignore[return-value]

    def __iter__(self) -> Iterator[torch.Tensor | Unreadable]:
        with self._open() as file:
            _array_header(file)
            for start in range(0, self.shape[0], self.batch_size):
                count = min(self.batch_size, self.shape[0] - start)
                data = bytearray(count * self._image_bytes)
                try:
                    complete = _read_into(file, data)
                except (zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
                    yield Unreadable(self.path, f"the file is damaged: {error}", fatal=True)
                    return
                if not complete:
                    yield Unreadable(self.path, "the file is truncated", fatal=True)
                    return
                block = np.frombuffer(data, dtype=self.dtype).reshape(count, *self.shape[1:])
                yield from array_images(block)


def _array_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version} of the .npy format holds no images")


def _read_into(file: BinaryIO, data: bytearray) -> bool:
    view = memoryview(data)
    while view:
        read = file.readinto(view)  # type: ignore[attr-defined]
        if not read:
            return False
        view = view[read:]
    return True
