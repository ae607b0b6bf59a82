from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from actors.images.blobs import Blobs
from actors.images.credentials import Credentials, credentials_for
from actors.images.decompress import Slice
from actors.images.limits import Limits
from actors.images.manifest import Manifest
from actors.images.problems import ImageRefused, RegistryUnavailable
from actors.images.reference import parse_reference
from actors.images.registry import Registry
from actors.images.retry import RetryPolicy
from actors.model.errors import Failed, NotFound, Problem
from tests.actors.images import craft, servers, token_key
from tests.actors.images.craft import Image, file, tar
from tests.actors.images.servers import Answer, Asked, fake
from tests.ports import free_port

QUICK = RetryPolicy(attempts=3, first=0.01, longest=0.05)
SOMEONE = Credentials("someone", "secret")


def some_image(seed: int = 1, size: int = 3_000_000) -> Image:
    noise = random.Random(seed).randbytes(size)
    return Image([tar(file("hello", b"hi")), tar(file("noise", noise))], ["gzip", "plain"])


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    (tmp_path / "blobs").mkdir()
    return Blobs(tmp_path / "blobs")


def client(text: str, credentials: Credentials | None = None, policy: RetryPolicy = QUICK, **more: Limits) -> Registry:
    return Registry(parse_reference(text), randomness=random.Random(1), credentials=credentials, policy=policy, **more)


async def pull(
    text: str, blobs: Blobs, credentials: Credentials | None = None, progress: Callable[[int], None] = lambda _: None
) -> tuple[str, Manifest, list[Slice]]:
    async with client(text, credentials) as registry:
        digest, manifest = await registry.resolve()
        return (
            digest,
            manifest,
            [await registry.blob(item, blobs, progress) for item in (manifest.config, *manifest.layers)],
        )


@asynccontextmanager
async def filled(path: Path, image: Image, auth: str = "", credentials: str = "") -> AsyncIterator[str]:
    async with servers.registry(path / "registry", auth) as host:
        await servers.push(host, "team/app:v1", path, image, credentials=credentials)
        yield host


async def test_pulls_from_a_real_registry(tmp_path: Path, blobs: Blobs) -> None:
    image = some_image()
    done: list[int] = []
    async with filled(tmp_path, image) as host:
        digest, manifest, slices = await pull(f"{host}/team/app:v1", blobs, progress=done.append)
        again, _, _ = await pull(f"{host}/team/app@{digest}", blobs)
    assert digest == again == craft.digest(image.manifest)
    assert [item.read() for item in slices] == [image.config, *(data for _, data in image.stored())]
    assert sum(done) == manifest.size


async def test_chooses_linux_amd64_of_an_index(tmp_path: Path, blobs: Blobs) -> None:
    ours, other = some_image(1, 1000), some_image(2, 1000)
    other.architecture = "arm64"
    async with servers.registry(tmp_path / "registry") as host:
        await servers.push(host, "app:multi", tmp_path, other)
        with pytest.raises(ImageRefused, match="linux/arm64"):
            await check_platform(f"{host}/app:multi", blobs)
        index = json.loads(craft.layout(other, ours)["index.json"])
        await put_index(host, tmp_path, [other, ours], index)
        digest, _, _ = await pull(f"{host}/both:latest", blobs)
        assert digest == craft.digest(ours.manifest)
        await put_index(host, tmp_path, [other], json.loads(craft.layout(other)["index.json"]))
        with pytest.raises(ImageRefused, match="linux/arm64") as caught:
            await pull(f"{host}/both:latest", blobs)
        assert "--platform" in str(caught.value.fix)


async def check_platform(text: str, blobs: Blobs) -> None:
    from actors.images.config import parse_config

    _, _, slices = await pull(text, blobs)
    parse_config(slices[0].read())


async def put_index(host: str, path: Path, images: list[Image], index: dict[str, object]) -> None:
    """Push the images by digest and then an index over them, the way buildx does."""
    import httpx

    kind = "application/vnd.oci.image.index.v1+json"
    for number, image in enumerate(images):
        await servers.push(host, f"both:part{number}", path, image)
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.put(
            f"http://{host}/v2/both/manifests/latest",
            content=json.dumps({**index, "mediaType": kind}),
            headers={"Content-Type": kind},
        )
        assert answer.status_code == 201, answer.text


async def test_basic_authentication_from_docker_config(tmp_path: Path, blobs: Blobs) -> None:
    (tmp_path / "htpasswd").write_text(servers.HTPASSWD)
    auth = f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}\n"
    async with filled(tmp_path, some_image(), auth, "someone:secret") as host:
        config = tmp_path / "config.json"
        pair = base64.b64encode(b"someone:secret").decode()
        config.write_text(json.dumps({"auths": {host: {"auth": pair}}}))
        await pull(f"{host}/team/app:v1", blobs, credentials_for(host, config))
        for wrong in (None, Credentials("someone", "wrong")):
            with pytest.raises(Problem) as caught:
                await pull(f"{host}/team/app:v1", blobs, wrong)
            assert (caught.value.code, caught.value.field) == ("registry-denied", "reference")
            assert "credentials" in str(caught.value.fix)


async def test_bearer_tokens_from_the_realm_that_the_registry_names(tmp_path: Path, blobs: Blobs) -> None:
    def realm(asked: Asked) -> Answer:
        pair = base64.b64encode(b"someone:secret").decode()
        if asked.headers.get("authorization") != f"Basic {pair}":
            return Answer(401)
        token = token_key.token("team/app", service="test-registry", issuer="test-realm")
        return Answer(200, {"Content-Type": "application/json"}, json.dumps({"token": token}).encode())

    (tmp_path / "roots.pem").write_text(token_key.certificate_pem())
    async with fake(realm) as here:
        auth = (
            f'auth: {{token: {{realm: "http://{here.host}/token", service: test-registry, issuer: test-realm, '
            f"rootcertbundle: {tmp_path}/roots.pem}}}}\n"
        )
        async with filled(tmp_path, some_image(), auth, "someone:secret") as host:
            here.asked.clear()
            await pull(f"{host}/team/app:v1", blobs, SOMEONE)
            assert len(here.asked) == 1, "one token serves the whole pull"
            assert "service=test-registry" in here.asked[0].target
            assert "scope=repository%3Ateam%2Fapp%3Apull" in here.asked[0].target
            with pytest.raises(Problem) as caught:
                await pull(f"{host}/team/app:v1", blobs, Credentials("someone", "wrong"))
            assert caught.value.code == "registry-denied"


@pytest.mark.parametrize("name", ["team/app:v2", "team/nothing"])
async def test_wrong_names_say_so(tmp_path: Path, blobs: Blobs, name: str) -> None:
    async with filled(tmp_path, some_image(1, 10)) as host:
        with pytest.raises(NotFound) as caught:
            await pull(f"{host}/{name}", blobs)
    assert caught.value.field == "reference"
    assert name in caught.value.detail
    assert caught.value.fix


async def test_an_unreachable_registry_says_so_after_a_few_tries(blobs: Blobs) -> None:
    for host in (f"127.0.0.1:{free_port()}", "registry.invalid"):
        with pytest.raises(RegistryUnavailable, match="can't be reached: [A-Z]") as caught:
            await pull(f"{host}/app", blobs)
        assert (caught.value.field, caught.value.status) == ("reference", 503)
        assert host in caught.value.detail


async def test_a_broken_download_is_resumed(tmp_path: Path, blobs: Blobs) -> None:
    image = some_image(3, 6_000_000)
    async with filled(tmp_path, image) as host, servers.cutter(host, after=2_000_000, times=2) as proxy:
        _, _, slices = await pull(f"{proxy.host}/team/app:v1", blobs)
    assert slices[-1].read() == image.layers[-1]
    assert proxy.times == 0
    assert proxy.requests.lower().count(b"range: bytes=") >= 2


async def test_a_download_is_resumed_by_the_next_pull(tmp_path: Path, blobs: Blobs) -> None:
    image = some_image(4, 6_000_000)
    impatient = RetryPolicy(attempts=1)
    async with filled(tmp_path, image) as host, servers.cutter(host, after=3_000_000, times=1) as proxy:
        async with client(f"{proxy.host}/team/app:v1", policy=impatient) as registry:
            _, manifest = await registry.resolve()
            with pytest.raises(RegistryUnavailable):
                await registry.blob(manifest.layers[-1], blobs, lambda _: None)
        begun = blobs.partial(manifest.layers[-1].digest).stat().st_size
        assert begun > 0
        proxy.requests = b""
        await pull(f"{proxy.host}/team/app:v1", blobs)
        assert f"range: bytes={begun}-".encode() in proxy.requests.lower()
    assert not list(blobs.directory.glob("*.partial"))


def serve(image: Image, **overrides: Answer) -> Callable[[Asked], Answer]:
    """A registry of one image that answers parts of paths as ``overrides`` say."""
    everything = image.blobs()

    def handler(asked: Asked) -> Answer:
        for part, answer in overrides.items():
            if part in asked.target:
                return answer
        kind = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        if "/manifests/" in asked.target:
            return Answer(200, kind, image.manifest)
        return Answer(200, {}, everything[asked.target.rpartition("/")[2]])

    return handler


async def test_what_does_not_match_its_digest_is_refused_and_not_kept(blobs: Blobs) -> None:
    image = some_image(5, 1000)
    layer = craft.digest(image.layers[-1])
    wrong = bytes(len(image.layers[-1]))
    for body in (wrong, wrong + b"more", wrong[:-1]):
        async with fake(serve(image, **{layer: Answer(200, {}, body)})) as here:
            with pytest.raises(Problem) as caught:
                await pull(f"{here.host}/app", blobs)
        if len(body) >= len(wrong):
            assert caught.value.code == "digest-mismatch"
        assert blobs.find(layer, len(wrong)) is None
        blobs.discard([layer])
    async with fake(serve(image)) as here:
        with pytest.raises(ImageRefused, match="does not match"):
            await pull(f"{here.host}/app@sha256:{'0' * 64}", blobs)


async def test_a_server_without_ranges_sends_it_all_again(blobs: Blobs) -> None:
    image = some_image(6, 500_000)
    layer = craft.digest(image.layers[-1])
    blobs.partial(layer).write_bytes(image.layers[-1][:1000])
    counted: list[int] = []
    async with fake(serve(image)) as here:
        _, manifest, slices = await pull(f"{here.host}/app", blobs, progress=counted.append)
        assert any(asked.headers.get("range") == "bytes=1000-" for asked in here.asked)
    assert slices[-1].read() == image.layers[-1]
    assert sum(counted) == manifest.size


async def test_a_partial_that_is_damaged_is_noticed(blobs: Blobs) -> None:
    image = some_image(7, 5000)
    layer = craft.digest(image.layers[-1])
    blobs.partial(layer).write_bytes(b"x" * len(image.layers[-1]))
    async with fake(serve(image)) as here:
        with pytest.raises(ImageRefused):
            await pull(f"{here.host}/app", blobs)
        await pull(f"{here.host}/app", blobs)


async def test_passing_failures_are_retried_with_an_end(blobs: Blobs) -> None:
    image = some_image(8, 1000)
    good, left = serve(image), [2]

    def flaky(asked: Asked) -> Answer:
        if left[0]:
            left[0] -= 1
            return Answer(503, {"Retry-After": "0"})
        return good(asked)

    async with fake(flaky) as here:
        await pull(f"{here.host}/app", blobs)
    async with fake(lambda _: Answer(500)) as here:
        with pytest.raises(RegistryUnavailable, match="status 500"):
            await pull(f"{here.host}/app", blobs)
        assert len(here.asked) == QUICK.attempts
    async with fake(lambda _: Answer(418)) as here:
        with pytest.raises(RegistryUnavailable, match="status 418"):
            await pull(f"{here.host}/app", blobs)
        assert len(here.asked) == 1


async def test_redirects_do_not_take_credentials_along(blobs: Blobs) -> None:
    image = some_image(9, 1000)
    async with fake(serve(image)) as storage:

        def front(asked: Asked) -> Answer:
            if "authorization" not in asked.headers:
                return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
            if "/blobs/" in asked.target:
                return Answer(307, {"Location": f"http://{storage.host}/somewhere/{asked.target.rpartition('/')[2]}"})
            return serve(image)(asked)

        async with fake(front) as here:
            await pull(f"{here.host}/app", blobs, SOMEONE)
        assert len(storage.asked) == 3
        assert not any("authorization" in asked.headers for asked in storage.asked)


@pytest.mark.parametrize("location", ["http://10.0.0.1/x", "ftp://127.0.0.1/x", "file:///etc/passwd", ""])
async def test_redirects_elsewhere_are_refused(blobs: Blobs, location: str) -> None:
    async with fake(lambda _: Answer(302, {"Location": location})) as here:
        with pytest.raises(RegistryUnavailable, match="redirects to"):
            await pull(f"{here.host}/app", blobs)
        assert len(here.asked) == 1


async def test_redirects_in_a_circle_end(blobs: Blobs) -> None:
    async with fake(lambda asked: Answer(302, {"Location": asked.target})) as here:
        with pytest.raises(RegistryUnavailable, match="more than"):
            await pull(f"{here.host}/app", blobs)


@pytest.mark.parametrize(
    "realm", ["http://192.0.2.1/token", "", "http://[::", "file:///etc/passwd", "ftp://127.0.0.1/"]
)
async def test_a_realm_that_is_not_https_gets_no_credentials(blobs: Blobs, realm: str) -> None:
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}
    async with fake(lambda _: Answer(401, challenge)) as here:
        with pytest.raises(RegistryUnavailable, match="no HTTPS"):
            await pull(f"{here.host}/app", blobs, SOMEONE)


async def test_documents_are_bounded(blobs: Blobs) -> None:
    for handler, limits, words in (
        (lambda _: Answer(200, {}, b"x" * 200_000), Limits(manifest=100_000), "more than 100000 bytes"),
        (serve(some_image(1, 50_000)), Limits(download=10_000), "to download"),
    ):
        async with fake(handler) as here, client(f"{here.host}/app", limits=limits) as registry:
            with pytest.raises(ImageRefused, match=words):
                await registry.resolve()


@pytest.mark.parametrize(
    "document",
    [
        b"", b"[]", b"{}", b"[" * 100_000, b'{"schemaVersion": 1, "fsLayers": []}', b'{"layers": [], "config": {}}',
        b'{"layers": 7}', b'{"manifests": [{}]}', b'{"manifests": []}', b"\xff\xfe",
        json.dumps({"layers": [], "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "size": 1,
                                             "digest": "sha256:" + "0" * 64}}).encode(),
        json.dumps({"layers": [], "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 1,
                                             "digest": "sha256:../../../../etc/passwd"}}).encode(),
    ],
)  # fmt: skip
async def test_documents_that_are_no_manifests_are_refused(blobs: Blobs, document: bytes) -> None:
    async with fake(lambda _: Answer(200, {}, document)) as here:
        with pytest.raises(ImageRefused) as caught:
            await pull(f"{here.host}/app", blobs)
    assert caught.value.fix


async def test_cancelling_a_download_ends_it_at_once_and_keeps_what_came(blobs: Blobs) -> None:
    image = some_image(10, 3_000_000)
    layer = craft.digest(image.layers[-1])
    stuck = Answer(200, {}, image.layers[-1], cut=2_500_000, hang=True)
    came = trio.Event()

    def progress(count: int) -> None:
        if count >= 1_000_000:
            came.set()

    async with fake(serve(image, **{layer: stuck})) as here, trio.open_nursery() as nursery:

        async def run() -> None:
            with scope:
                await pull(f"{here.host}/app", blobs, progress=progress)

        scope = trio.CancelScope()
        nursery.start_soon(run)
        with trio.fail_after(90):
            await came.wait()
            scope.cancel()
    assert blobs.partial(layer).stat().st_size >= 1_000_000


def test_docker_config(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert credentials_for("ghcr.io", None) is None
    assert credentials_for("ghcr.io", path) is None
    pair = base64.b64encode(b"me:pass:word").decode()
    hub = {"https://index.docker.io/v1/": {"auth": pair}}
    path.write_text(json.dumps({"auths": {**hub, "r.example": {"identitytoken": "t"}}, "credHelpers": {"gcr.io": "x"}}))
    assert credentials_for("docker.io", path) == Credentials("me", "pass:word")
    assert credentials_for("r.example", path) == Credentials("", "", "t")
    assert credentials_for("ghcr.io", path) is None
    with pytest.raises(Failed, match="helper"):
        credentials_for("gcr.io", path)
    path.write_text("not json")
    with pytest.raises(Failed, match="can't be read"):
        credentials_for("ghcr.io", path)
    assert "pass:word" not in repr(Credentials("me", "pass:word"))


def test_blobs_are_bounded_by_least_recent_use(blobs: Blobs) -> None:
    digests = [craft.digest(bytes([number])) for number in range(4)]
    for age, digest in enumerate(digests):
        blobs.path(digest).write_bytes(bytes(100))
        os.utime(blobs.path(digest), (1000 - age, 1000 - age))
    blobs.partial(digests[0]).write_bytes(b"x")
    os.utime(blobs.partial(digests[0]), (900, 900))
    with blobs.hold([digests[3]]):
        found = blobs.superfluous(250, now=1000.0)
        assert found == [blobs.path(digests[2]), blobs.path(digests[3]), blobs.partial(digests[0])]
        assert [blobs.is_held(path) for path in found] == [False, True, False]
    assert not blobs.is_held(blobs.path(digests[3]))
    assert blobs.superfluous(10_000, now=9000.0) == [blobs.partial(digests[0])]
