"""Download a public evaluation set and verify every file: ``lic data download kodak``."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from rich.progress import track

from lic_train.data.arguments import download_parser
from lic_train.errors import DataError
from lic_train.system import atomic
from lic_train.system.command import command
from lic_train.system.screen import say

TIMEOUT = 30.0  # seconds without an answer
MAX_BYTES = 2**26  # of one file, so that a server cannot fill the disk

# SHA-256 of the files as r0k.us serves them.
KODAK = {
    "kodim01.png": "a56e27cbf5f843c048b6af1d6e090760e9c92fadba88b7dee0205918a37523bd",
    "kodim02.png": "4f4b74a79237e311d72cad958237b5f7088d8bce1c82305ebefe1a70e3022dfd",
    "kodim03.png": "e25ca1ff2f0c0cb5fdfd5f9b0a0bb21ac4c3de3c84a67f35b09a85d3306249db",
    "kodim04.png": "e3b946107c5d3441c022f678d0c3caf1e224d81b1604ba840a4f88e562de61aa",
    "kodim05.png": "10349e963c5c813d327852f82c1795fa4148d69fedffc4c589bee458e3ac3d53",
    "kodim06.png": "363510303b715d4cbc384e1ce227e466b613a09e1b71ae985882bf8e7fbd9b18",
    "kodim07.png": "b77d3f006f42414bb242222e0482e750c0fb9e5ee8d4bed2f6f11c5605fe54a4",
    "kodim08.png": "ba23983c76b4832ee0e8af0592664756841a16779acd69f792e268fb6d13d6e7",
    "kodim09.png": "6a4361c2fc194feb4edaa9f9a4a0620fb9943e460ac7fdf037fb0f6dd6607a7d",
    "kodim10.png": "9dfb70f5867c29ff9ed6313683f19b3d867849e40fbc0c4c54a4a89df341cf23",
    "kodim11.png": "7936814b58b5387fce2e4e2488b4ec830dadd95fa9520f358ddb30990b50f2b6",
    "kodim12.png": "d78c37c2f04f23761ed2367dd77e2db584ddd4c3950833fecf89f199a8126980",
    "kodim13.png": "bc34a3ce58dea09dce1704c997171602de90cb34d0c8503a988b77f473d39b08",
    "kodim14.png": "55a94550ff18f3246c4074fd32b77b0c74447c26b6ad274d564d999c0450ba6e",
    "kodim15.png": "7538cbb80cb9103606c48b806eae57d56c885c7f90b9b3be70a41160f9cbb683",
    "kodim16.png": "a89c7268ccd4718ba424a99fc4643c572cf692ca6eae887185ceb4e9f11d2e54",
    "kodim17.png": "37afcc89fbdcb76d9518e04b2fc011027e2f4cd14b3b2f83cefd721641a47c5b",
    "kodim18.png": "1a9258c365988961d87a0598725b609139c303ad48a5aad6c503c3b1a87849aa",
    "kodim19.png": "b7450b264b1b0a411390d8931b112c27905a992520fc90569dc4b920aa32bbdc",
    "kodim20.png": "3b46c71e3b92a563820ba32936be8330c586c41f938efd94be938386aae4328a",
    "kodim21.png": "ac958597c82073f6bb65129c68f72b651db5b9efd82e11547d07350214bc268b",
    "kodim22.png": "1cee58eb1f2d9c7ebb254d208a03c783ce6cf2c4d8c2cf45e235dd23b4ce1b29",
    "kodim23.png": "e3111a2fd4da24af15d6459ef9eacfe54106b38e27b4a21821b75c3f5d2d5baf",
    "kodim24.png": "1071c68372cc5a01435c2c225a5cf7d4bb803846ec08bb6b3d6721b156d7cb96",
}


class PublicSet(NamedTuple):
    """Base address of a set, and the checksums of its files."""

    base: str
    sums: Mapping[str, str]  # file name -> SHA-256


SETS = {"kodak": PublicSet("http://r0k.us/graphics/kodak/kodak/", KODAK)}


def obtain(sums: Mapping[str, str], to: Path, read: Callable[[str], bytes]) -> int:
    """Store every file of ``sums`` in the folder ``to``; existing files with the right checksum are kept.

    Each file is verified before it appears in the folder, so an interrupted call can be repeated.

    Args:
        sums: file name to SHA-256.
        to: the folder; created if missing.
        read: returns the bytes of a file by name, or raises DataError.

    Returns:
        the number of new files.

    Raises:
        DataError: a file cannot be read, or has another checksum.
    """
    missing = [name for name, digest in sums.items() if _digest(to / name) != digest]
    for name in track(missing, f"{to}: {len(missing)} of {len(sums)} files", disable=not missing):
        data = read(name)
        if (got := sha256(data).hexdigest()) != sums[name]:
            raise DataError(
                f"{name} has a wrong checksum and was discarded.",
                expected=f"SHA-256 {sums[name]}",
                got=f"{got}, {len(data):,} bytes",
                to_do="try again, or use another --base or --from",
            )
        try:
            atomic.replace_bytes(to / name, data)
        except OSError as error:
            raise DataError(f"Cannot write {to / name}: {error.strerror}.", to_do="choose another --to") from error
    return len(missing)


def from_web(base: str) -> Callable[[str], bytes]:
    """Return a function that downloads files below an address."""

    def read(name: str) -> bytes:
        address = f"{base.rstrip('/')}/{name}"
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
                return answer.read(MAX_BYTES)
        except (OSError, ValueError, HTTPException) as error:  # URLError and HTTPError are OSErrors
            reason = getattr(error, "reason", None) or error
            raise DataError(
                f"Cannot download {address}: {reason}.",
                to_do="repeat the command when the network is available (complete files are kept), set another address "
                "with --base, or copy the files from a folder with --from",
            ) from error

    return read


def from_folder(folder: Path) -> Callable[[str], bytes]:
    """Return a function that reads files of a folder."""

    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"Cannot read {folder / name}: {error.strerror}.", to_do="correct --from") from error

    return read


@command("the same command continues after the complete files")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = download_parser().parse_args(argv)
    wanted = SETS[options.set]
    to = options.to or Path("data", options.set)
    fetch = from_folder(options.folder) if options.folder else from_web(options.base or wanted.base)
    count = obtain(wanted.sums, to, fetch)
    say(f"{to}: all {len(wanted.sums)} files are complete and verified ({count} new).")
    return 0


def _digest(path: Path) -> str | None:
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
