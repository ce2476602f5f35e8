from pathlib import Path

import pytest

from launcher.shm import PREFIX, RegionWatch

LINE = "7f00-7f10 rw-s 00000000 00:1a 42                         /dev/shm/{}\n"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """/dev/shm with two of Triton's regions and another file, /proc with one process."""
    shm, proc = tmp_path / "shm", tmp_path / "proc"
    (proc / "7").mkdir(parents=True)
    shm.mkdir()
    for name in (PREFIX + "ours", PREFIX + "foreign", "other"):
        (shm / name).write_text("")
    maps = "5500-5600 r-xp 00000000 fe:00 11  /usr/bin/stub\n" + LINE.format("other")
    (proc / "7" / "maps").write_text(maps + LINE.format(PREFIX + "ours"))
    return shm, proc


def test_only_regions_seen_mapped_are_removed(folders: tuple[Path, Path]) -> None:
    shm, _ = folders
    watch = RegionWatch(*folders)
    watch.sample([7, 8])  # 8 has ended
    assert watch.remove_leftovers() == [PREFIX + "ours"]
    assert {path.name for path in shm.iterdir()} == {PREFIX + "foreign", "other"}


def test_regions_that_triton_removed_itself_are_no_leftovers(folders: tuple[Path, Path]) -> None:
    shm, _ = folders
    watch = RegionWatch(*folders)
    watch.sample([7])
    (shm / (PREFIX + "ours")).unlink()
    assert watch.remove_leftovers() == []


def test_a_region_unlinked_and_still_mapped_keeps_its_name(folders: tuple[Path, Path]) -> None:
    _, proc = folders
    (proc / "7" / "maps").write_text(LINE.format(PREFIX + "ours (deleted)"))
    watch = RegionWatch(*folders)
    watch.sample([7])
    assert watch.remove_leftovers() == [PREFIX + "ours"]
