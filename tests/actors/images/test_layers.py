from __future__ import annotations

import contextlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from actors.images.decompress import Slice
from actors.images.layers import Layer, merge, stream
from actors.images.limits import Limits
from actors.images.problems import ImageRefused
from actors.images.rootfs import pack
from tests.actors.images import craft
from tests.actors.images.craft import Entry, directory, file, hardlink, opaque, symlink, tar, whiteout


def write_layers(path: Path, *layers: bytes, how: str = "plain") -> list[Layer]:
    found = []
    for number, layer in enumerate(layers):
        target = path / f"layer{number}"
        data = craft.pressed(layer, how)
        target.write_bytes(data)
        found.append(Layer(Slice(target, 0, len(data)), craft.digest(layer)))
    return found


def merged(layers: list[Layer], limits: Limits | None = None) -> dict[str, craft.Found]:
    bounds = limits or Limits()
    tree = merge(layers, lambda _: None, bounds)
    return craft.read_tar(b"".join(stream(layers, tree, lambda _: None, bounds)))


def names(found: dict[str, craft.Found]) -> set[str]:
    return set(found) - {""}


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd"])
async def test_a_squashfs_keeps_what_the_layers_hold(tmp_path: Path, how: str) -> None:
    capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    base = tar(
        directory("./", mode=0o711, uid=3, mtime=1_600_000_000),
        directory("bin"),
        file("bin/su", b"su", mode=0o4755),
        hardlink("bin/su-again", "bin/su"),
        symlink("sbin", "bin"),
        symlink("absolute", "/bin/su"),
        directory("var"),
        directory("var/tmp", mode=0o1777, uid=1000, gid=100_000),
        file("var/big", b"x" * 1_000_001, uid=4_000_000_000, gid=70_000, mode=0o640, mtime=1_234_567_890),
        file("empty"),
        craft.fifo("pipe"),
        file(
            "ping", b"p", pax_headers={"SCHILY.xattr.user.note": "hi", "SCHILY.xattr.security.capability": capability}
        ),
        file("long/" + "d" * 200 + "/" + "f" * 250, b"long"),
        file("caf\udce9", b"latin-1 name"),
    )
    top = tar(whiteout("empty"), file("bin/new", b"new"), hardlink("bin/across", "bin/su"))
    layers = write_layers(tmp_path, base, top, how=how)
    target = tmp_path / "root.squashfs"
    tree = merge(layers, lambda _: None)
    size = await pack(lambda: stream(layers, tree, lambda _: None), target, deadline=120)

    assert target.stat().st_size == size
    assert target.stat().st_mode & 0o7777 == 0o444
    found = craft.read_squashfs(target)
    assert "empty" not in found
    assert (found[""].mode, found[""].uid, found[""].mtime) == (0o711, 3, 1_600_000_000)
    assert found["bin/su"].mode == 0o4755
    assert {found[name].link for name in ("bin/su", "bin/su-again", "bin/across")} >= {"bin/across"}
    assert sum(found[name].kind == tarfile.LNKTYPE for name in ("bin/su", "bin/su-again", "bin/across")) == 2
    assert found["sbin"].link == "bin"
    assert found["absolute"].link == "/bin/su"
    assert (found["var/tmp"].mode, found["var/tmp"].uid, found["var/tmp"].gid) == (0o1777, 1000, 100_000)
    big = found["var/big"]
    assert (big.data, big.uid, big.gid, big.mode) == (b"x" * 1_000_001, 4_000_000_000, 70_000, 0o640)
    assert big.mtime == 1_234_567_890
    assert found["pipe"].kind == tarfile.FIFOTYPE
    assert dict(found["ping"].xattrs) == {"user.note": "hi", "security.capability": capability}
    assert found["long/" + "d" * 200 + "/" + "f" * 250].data == b"long"
    assert found["caf\udce9"].data == b"latin-1 name"


async def test_odd_names_and_links_survive_packing(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 1500)
    odd = [
        "new\nline",
        'quo"te',
        "back\\slash",
        "spa ce ",
        "-dash",
        "*",
        "\u00fc",
        "\udc80\udcff",
        "\x01",
        "a" * 255,
        deep,
    ]
    layers = write_layers(
        tmp_path,
        tar(
            *(file(name, name.encode("utf-8", "surrogateescape")) for name in odd),
            *(hardlink(f"{number}/hard" + "x" * 200, name) for number, name in enumerate(odd)),
            *(symlink(f"{number}/soft", name) for number, name in enumerate(odd)),
            symlink("far", "y" * 4000),
            *(file(f"many/{number}") for number in range(3000)),
        ),
    )
    target = tmp_path / "root.squashfs"
    tree = merge(layers, lambda _: None)
    await pack(lambda: stream(layers, tree, lambda _: None), target, deadline=120)
    found = craft.read_squashfs(target)
    for number, name in enumerate(odd):
        content = name.encode("utf-8", "surrogateescape")
        other = f"{number}/hard" + "x" * 200
        assert {found[name].data or found[found[name].link].data} == {content}
        assert tarfile.LNKTYPE in (found[name].kind, found[other].kind)
        assert found[f"{number}/soft"].link == name
    assert found["far"].link == "y" * 4000
    assert sum(name.startswith("many/") for name in found) == 3000


def test_whiteouts_hide_lower_layers_and_never_their_own(tmp_path: Path) -> None:
    base = tar(directory("a"), file("a/1"), file("a/2"), directory("b"), file("b/1"), directory("b/c"), file("b/c/1"))
    top = tar(file("a/3"), opaque("a"), whiteout("b"), directory("b"), file("b/new"), whiteout("missing/x"))
    found = merged(write_layers(tmp_path, base, top))
    assert names(found) == {"a", "a/3", "b", "b/new"}


def test_kinds_replace_each_other(tmp_path: Path) -> None:
    base = tar(directory("d"), file("d/x"), file("f", b"1"), symlink("s", "d"), file("keep", b"k"))
    top = tar(file("d", b"now a file"), directory("f"), file("f/y"), directory("s"), file("s/z"))
    found = merged(write_layers(tmp_path, base, top))
    assert names(found) == {"d", "f", "f/y", "s", "s/z", "keep"}
    assert found["d"].data == b"now a file"


def test_a_hard_link_outlives_the_name_it_was_made_from(tmp_path: Path) -> None:
    base = tar(file("a", b"content"), hardlink("b", "a"), hardlink("c", "b"))
    found = merged(write_layers(tmp_path, base, tar(whiteout("a"))))
    assert names(found) == {"b", "c"}
    assert {found["b"].data, found["c"].data} >= {b"content"}


def test_paths_through_links_stay_inside_the_root(tmp_path: Path) -> None:
    base = tar(directory("usr/lib"), symlink("lib", "usr/lib"), symlink("root", "/"), symlink("up", "root/root/usr"))
    top = tar(file("lib/x", b"x"), file("up/y", b"y"), file("root/z", b"z"))
    found = merged(write_layers(tmp_path, base, top))
    assert names(found) == {"usr", "usr/lib", "lib", "root", "up", "usr/lib/x", "usr/y", "z"}


HOSTILE: dict[str, list[Entry]] = {
    "absolute path": [file("/etc/passwd")],
    "climbing path": [file("a/../../etc/passwd")],
    "climbing path that comes back": [file("a/../b")],
    "link out by climbing": [symlink("a/b", "../../etc")],
    "link out after going down": [symlink("a", "b/../../etc")],
    "absolute link that climbs": [symlink("a", "/../etc")],
    "empty link": [symlink("a", "")],
    "hard link to an absolute path": [file("a"), hardlink("b", "/etc/shadow")],
    "hard link that climbs": [hardlink("b", "../etc/shadow")],
    "hard link to nothing": [hardlink("b", "a")],
    "hard link to a directory": [directory("a"), hardlink("b", "a")],
    "hard link to the root": [hardlink("b", ".")],
    "character device": [craft.device("dev/null")],
    "block device": [craft.device("dev/sda", tarfile.BLKTYPE)],
    "device behind a whiteout's name": [file("x"), craft.device("y")],
    "file as root": [file("./")],
    "file used as directory": [file("a"), file("a/b")],
    "links in a circle": [symlink("a", "b"), symlink("b", "a"), file("a/x")],
    "whiteout of the parent": [file("a/.wh...")],
    "whiteout of itself": [file("a/.wh..")],
    "whiteout of nothing": [file("a/.wh.")],
    "file name too long": [file("x" * 256)],
    "path too long": [file("/".join(["d" * 200] * 25))],
    "owner out of range": [file("a", pax_headers={"uid": str(2**32)})],
    "negative size": [file("a", pax_headers={"size": "-512"})],
    "size that is no number": [file("a", pax_headers={"size": "1e9"})],
    "PAX sparse file": [file("a", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})],
    "GNU sparse file": [craft.info("a", tarfile.GNUTYPE_SPARSE) and (craft.info("a", tarfile.GNUTYPE_SPARSE), b"")],
    "unknown type": [(craft.info("a", b"Q"), b"")],
    "huge extended header": [file("a", pax_headers={"comment": "x" * 1_100_000})],
    "zero byte in a name": [file("a", pax_headers={"path": "a\0b"})],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_layers_are_refused(tmp_path: Path, case: str) -> None:
    layers = write_layers(tmp_path, tar(*HOSTILE[case]))
    with pytest.raises(ImageRefused) as caught:
        merged(layers)
    assert caught.value.fix


def test_a_layer_that_is_not_what_the_configuration_says_is_refused(tmp_path: Path) -> None:
    layers = write_layers(tmp_path, tar(file("a")))
    with pytest.raises(ImageRefused, match="does not match") as caught:
        merged([Layer(layers[0].data, craft.digest(b"other"))])
    assert caught.value.code == "digest-mismatch"


@pytest.mark.parametrize("how", ["plain", "gzip", "zstd"])
def test_truncated_layers_are_refused(tmp_path: Path, how: str) -> None:
    whole = tar(file("a", bytes(range(256)) * 400))
    data = craft.pressed(whole, how)
    for cut in (1, 100, len(data) // 2, len(data) - 1):
        target = tmp_path / "cut"
        target.write_bytes(data[:cut])
        with pytest.raises(ImageRefused):
            merged([Layer(Slice(target, 0, cut), craft.digest(whole))])


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_bombs_are_refused_by_ratio_and_by_size(tmp_path: Path, how: str) -> None:
    layers = write_layers(tmp_path, tar(file("zeros", bytes(20_000_000))), how=how)
    with pytest.raises(ImageRefused, match="bomb"):
        merged(layers, Limits(ratio_floor=1_000_000))
    with pytest.raises(ImageRefused, match="more than 5000000 bytes"):
        merged(layers, Limits(unpacked=5_000_000))
    assert names(merged(layers)) == {"zeros"}


def test_too_many_files_or_names_are_refused(tmp_path: Path) -> None:
    layers = write_layers(tmp_path, tar(*(file(f"f{number}") for number in range(50))))
    with pytest.raises(ImageRefused, match="files"):
        merged(layers, Limits(entries=49))
    with pytest.raises(ImageRefused, match="names"):
        merged(layers, Limits(metadata=100))


def test_several_gzip_members_and_padding_are_one_stream(tmp_path: Path) -> None:
    whole = tar(file("a", b"a" * 5000))
    data = craft.pressed(whole[:3000], "gzip") + craft.pressed(whole[3000:], "gzip") + bytes(512)
    target = tmp_path / "members"
    target.write_bytes(data)
    assert merged([Layer(Slice(target, 0, len(data)), craft.digest(whole))])["a"].data == b"a" * 5000


def test_overlay_attributes_and_acls_are_left_out(tmp_path: Path) -> None:
    headers = {f"SCHILY.xattr.{key}": "y" for key in ("trusted.overlay.opaque", "system.posix_acl_access", "user.ok")}
    found = merged(write_layers(tmp_path, tar(file("a", pax_headers=headers))))
    assert dict(found["a"].xattrs) == {"user.ok": "y"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_is_read(tmp_path: Path, form: int) -> None:
    name = "/".join(["directory-with-a-name"] * 8)
    found = merged(write_layers(tmp_path, tar(file(name, b"x", uid=12345), symlink("s", name[:90]), form=form)))
    assert found[name].uid == 12345
    assert found["s"].link == name[:90]


# --- against a model: a dictionary of paths, changed layer by layer in the plainest way -------------------------------

Path_ = tuple[str, ...]
Model = dict[Path_, list[object]]  # [kind, payload, layer]; hard links share the list


class Refused(Exception):
    pass


def real(model: Model, parts: Path_) -> Path_:
    out: Path_ = ()
    todo = list(parts)
    hops = 0
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            out = out[:-1]
            continue
        entry = model.get((*out, part))
        if entry is not None and entry[0] == "symlink":
            hops += 1
            if hops > 40:
                raise Refused
            target = str(entry[1])
            if target.startswith("/"):
                out = ()
            todo = target.split("/") + todo
            continue
        out = (*out, part)
    return out


def drop(model: Model, path: Path_, *, itself: bool = True) -> None:
    for other in list(model):
        if other[: len(path)] == path and (itself or other != path):
            del model[other]


def is_directory(model: Model, path: Path_) -> bool:
    return not path or (path in model and model[path][0] == "directory")


def apply(model: Model, layer: int, entries: list[tuple[str, str, str]]) -> None:
    for kind, name, _ in entries:
        parts = tuple(name.split("/"))
        if kind == "whiteout" and is_directory(model, parent := real(model, parts[:-1])):
            drop(model, (*parent, parts[-1]))
        if kind == "opaque" and is_directory(model, place := real(model, parts)):
            drop(model, place, itself=False)
    for kind, name, payload in entries:
        if kind in ("whiteout", "opaque"):
            continue
        parts = tuple(name.split("/"))
        parent = real(model, parts[:-1])
        for length in range(1, len(parent) + 1):
            step = parent[:length]
            if not is_directory(model, step):
                if step in model and model[step][2] == layer:
                    raise Refused
                drop(model, step)
                model[step] = ["directory", "", layer]
        path = (*parent, parts[-1])
        if kind == "hardlink":
            target = tuple(payload.split("/"))
            source = (*real(model, target[:-1]), target[-1])
            if source not in model or model[source][0] == "directory":
                raise Refused
            shared = model[source]
            if source != path:
                drop(model, path)
            model[path] = shared
        elif kind == "directory" and is_directory(model, path):
            model[path][1:] = [payload, layer]
        else:
            if kind == "symlink" and payload.startswith("../") and not parent:
                raise Refused
            drop(model, path)
            model[path] = [kind, payload, layer]


SOME_NAMES = st.sampled_from(["a", "b", "c", "a/a", "a/b", "b/a", "b/c", "a/b/c", "c/a/b"])
OPERATIONS = st.one_of(
    st.tuples(st.just("file"), SOME_NAMES, st.text("xyz", max_size=3)),
    st.tuples(st.just("directory"), SOME_NAMES, st.just("")),
    st.tuples(st.just("symlink"), SOME_NAMES, st.sampled_from(["a", "/a", "/b", "/", "../a", "a/b", "/c/a"])),
    st.tuples(st.just("hardlink"), SOME_NAMES, SOME_NAMES),
    st.tuples(st.just("whiteout"), SOME_NAMES, st.just("")),
    st.tuples(st.just("opaque"), SOME_NAMES, st.just("")),
)


def entry_of(kind: str, name: str, payload: str) -> Entry:
    match kind:
        case "file":
            return file(name, payload.encode())
        case "directory":
            return directory(name)
        case "symlink":
            return symlink(name, payload)
        case "hardlink":
            return hardlink(name, payload)
        case "whiteout":
            return whiteout(name)
        case _:
            return opaque(name)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(OPERATIONS, max_size=8), min_size=1, max_size=4))
def test_merging_agrees_with_a_plain_model(
    tmp_path_factory: pytest.TempPathFactory, operations: list[list[tuple[str, str, str]]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "model"
    path.mkdir(exist_ok=True)
    layers = write_layers(path, *(tar(*(entry_of(*one) for one in layer)) for layer in operations))
    model: Model = {}
    try:
        for number, layer in enumerate(operations):
            apply(model, number, layer)
    except Refused:
        with pytest.raises(ImageRefused):
            merged(layers)
        return
    found = merged(layers)
    expected = {"/".join(name): entry for name, entry in model.items()}
    assert names(found) == set(expected)
    for name, entry in expected.items():
        here = found[name]
        if entry[0] == "directory":
            assert here.kind == tarfile.DIRTYPE
        elif entry[0] == "symlink":
            assert (here.kind, here.link) == (tarfile.SYMTYPE, entry[1])
        else:
            same = {other for other, candidate in expected.items() if candidate is entry}
            content = here if here.kind == tarfile.REGTYPE else found[here.link]
            assert content.data == str(entry[1]).encode()
            assert here.kind == tarfile.REGTYPE or here.link in same


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 4000), st.integers(0, 255))
def test_damaged_archives_are_refused_or_read_but_never_crash(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, value: int
) -> None:
    whole = bytearray(tar(directory("d"), file("d/f", b"x" * 700), symlink("s", "d" * 150), hardlink("h", "d/f")))
    whole[at % len(whole)] = value
    whole[at % len(whole) : at % len(whole)] = noise[: len(noise) - len(noise) % 512]
    assume(whole)
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(whole)
    with contextlib.suppress(ImageRefused):
        merged([Layer(Slice(path, 0, len(whole)), craft.digest(bytes(whole)))])


def test_the_reader_agrees_with_the_standard_library(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add("/etc/apt", "etc/apt")
        archive.add("/usr/share/doc/base-files", "usr/share/doc/base-files")
    data = buffer.getvalue()
    ours, theirs = merged(write_layers(tmp_path, data)), craft.read_tar(data)
    for name, expected in theirs.items():
        assert (ours[name].data, ours[name].mode, ours[name].mtime) == (expected.data, expected.mode, expected.mtime)
