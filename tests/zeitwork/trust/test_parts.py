"""Tokens, certificates, files, the words of a join: what can be tried without a connection."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.model.errors import Failed, InvalidInput, Problem
from runtime.links.transport import Untrusted
from zeitwork.trust import certificates, exchange
from zeitwork.trust.attempts import Attempts
from zeitwork.trust.exchange import JoinRequest, Welcome
from zeitwork.trust.files import Credentials, TrustFiles
from zeitwork.trust.join import join_address
from zeitwork.trust.token import Token, new_token, parse_token

CLUSTER, HOST = UUID(int=5), UUID(int=6)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
AUTHORITY = certificates.new_authority(CLUSTER, NOW)
KEY = certificates.new_key()
REQUEST = certificates.request(KEY)
SIGNED = certificates.sign(AUTHORITY, certificates.request(KEY), cluster=CLUSTER, host=HOST, now=NOW)


# ---- tokens


@given(st.uuids(), st.binary(min_size=24, max_size=24), st.binary(min_size=32, max_size=32))
def test_tokens_are_read_as_they_were_written(identifier: UUID, secret: bytes, fingerprint: bytes) -> None:
    token = Token(identifier, secret, fingerprint)
    assert parse_token(f" {token}\n") == token


@given(st.data())
def test_a_token_with_anything_changed_is_refused(data: st.DataObject) -> None:
    text = str(new_token(bytes(range(32)), lambda count: bytes(range(count))))
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.text(max_size=2)) + text[at + data.draw(st.integers(0, 2)) :]
    if changed.strip() == text:
        return
    with pytest.raises(InvalidInput) as caught:
        parse_token(changed)
    assert (caught.value.field, bool(caught.value.fix)) == ("token", True)


@given(st.text(max_size=120))
def test_any_text_as_a_token_is_refused(text: str) -> None:
    for candidate in (text, "zwt1_" + text):
        with pytest.raises(InvalidInput):
            parse_token(candidate)


# ---- certificates


def test_a_certificate_names_cluster_and_host(tmp_path: Path) -> None:
    files = TrustFiles(tmp_path / "trust")
    files.save(Credentials(KEY, SIGNED, AUTHORITY.certificate))
    decoded = ssl._ssl._test_decode_cert(_only(tmp_path, SIGNED))  # type: ignore[attr-defined]
    assert certificates.host_of(decoded) == (CLUSTER, HOST)
    proof = certificates.prove(decoded, CLUSTER)
    assert (proof.host, proof.until) == (HOST, (NOW + certificates.HOST_LIFE).timestamp())
    with pytest.raises(Untrusted):
        certificates.prove(decoded, UUID(int=9))


def _only(directory: Path, pem: str) -> str:
    path = directory / "one.pem"
    path.write_text(pem)
    return str(path)


@pytest.mark.parametrize(
    "names",
    [
        (),
        (("DNS", "zeitwork://x/y"),),
        (("URI", "https://x"),),
        (("URI", f"zeitwork://{CLUSTER}"),),
        (("URI", f"zeitwork://{CLUSTER}/{HOST}/more"),),
        (("URI", f"zeitwork://{CLUSTER}/nobody"),),
        (("URI", f"zeitwork://{CLUSTER}/{HOST}"), ("URI", f"zeitwork://{CLUSTER}/{CLUSTER}")),
    ],
)
def test_a_certificate_that_names_no_host_proves_nothing(names: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(Untrusted):
        certificates.host_of({"subjectAltName": names})


def test_only_the_key_of_a_request_counts() -> None:
    assert certificates.belongs(SIGNED, KEY)
    assert not certificates.belongs(SIGNED, certificates.new_key())
    assert certificates.public_key_hash(certificates.request(KEY)) == certificates.public_key_hash(
        certificates.request(KEY)
    )
    assert "BEGIN" not in repr(AUTHORITY)


@given(st.binary(max_size=300))
def test_any_bytes_as_a_request_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        certificates.sign(AUTHORITY, data, cluster=CLUSTER, host=HOST, now=NOW)


def test_a_changed_request_is_refused_or_for_the_same_key() -> None:
    for at in range(len(REQUEST)):
        changed = REQUEST[:at] + bytes([REQUEST[at] ^ 1]) + REQUEST[at + 1 :]
        try:
            signed = certificates.sign(AUTHORITY, changed, cluster=CLUSTER, host=HOST, now=NOW)
        except InvalidInput:
            continue
        # Some bits mean nothing.
        assert certificates.belongs(signed, KEY)


# ---- files


def test_files_are_private_and_replaced_as_a_whole(tmp_path: Path) -> None:
    files = TrustFiles(tmp_path / "data" / "trust")
    assert files.load() is None
    with pytest.raises(Failed):
        files.contexts()
    mine = Credentials(KEY, SIGNED, AUTHORITY.certificate)
    files.save(mine)
    assert files.load() == mine
    assert files.path.stat().st_mode & 0o777 == 0o600
    assert files.directory.stat().st_mode & 0o777 == 0o700
    assert files.contexts().client.verify_mode == ssl.CERT_REQUIRED
    with pytest.raises(OSError):
        TrustFiles(files.path).save(mine)
    assert [item.name for item in files.directory.iterdir()] == ["host.pem"]
    assert "BEGIN" not in repr(mine)
    files.remove()
    files.remove()
    assert files.load() is None


def test_a_file_of_no_use_is_said_to_be_so(tmp_path: Path) -> None:
    files = TrustFiles(tmp_path)
    other = certificates.new_key()
    broken = SIGNED.replace("M", "N")
    for text in ("", "x", KEY + SIGNED, other + SIGNED + AUTHORITY.certificate, KEY + broken + AUTHORITY.certificate):
        files.path.write_text(text)
        with pytest.raises(Failed) as caught:
            files.load()
        assert str(files.path) in str(caught.value.fix)
    files.path.write_bytes(b"\xff\xfe")
    with pytest.raises(Failed):
        files.load()


# ---- the words of a join


def asked(**more: object) -> JoinRequest:
    values: dict[str, object] = {
        "token": UUID(int=7),
        "secret": b"s" * 24,
        "host": HOST,
        "hostname": "h2",
        "request": certificates.request(KEY),
    }
    return JoinRequest(**{**values, **more})  # type: ignore[arg-type]


def test_words_are_read_as_they_were_said() -> None:
    request = asked()
    assert exchange.decode_request(exchange.encode_request(request)) == request
    for database in (None, "postgresql://db/zeitwork"):
        welcome = Welcome(SIGNED, AUTHORITY.certificate, CLUSTER, database, uuid4())
        read = exchange.decode_welcome(exchange.encode_welcome(welcome), key=KEY, authority=AUTHORITY.certificate)
        assert read == welcome
    assert "secret" not in repr(request)


def test_only_the_authority_of_the_token_is_believed() -> None:
    token = new_token(certificates.fingerprint(AUTHORITY.certificate), os.urandom)
    said = exchange.encode_authority(AUTHORITY.certificate)
    assert exchange.check_authority(said, token) == AUTHORITY.certificate
    other = certificates.new_authority(CLUSTER, NOW).certificate
    for wrong in (exchange.encode_authority(other), exchange.encode_authority("no certificate"), b"", b"\x80", b"\xa0"):
        with pytest.raises(Failed):
            exchange.check_authority(wrong, token)


def test_a_refusal_arrives_as_the_problem_it_was() -> None:
    problem = InvalidInput("used already", field="token", fix="make another")
    with pytest.raises(Problem) as caught:
        exchange.decode_welcome(exchange.encode_problem(problem), key=KEY, authority=AUTHORITY.certificate)
    assert str(caught.value) == str(problem)
    assert (caught.value.code, caught.value.status) == (problem.code, problem.status)


def test_an_answer_for_another_key_or_of_another_authority_is_refused() -> None:
    welcome = exchange.encode_welcome(Welcome(SIGNED, AUTHORITY.certificate, CLUSTER, None, HOST))
    with pytest.raises(Failed):
        exchange.decode_welcome(welcome, key=certificates.new_key(), authority=AUTHORITY.certificate)
    with pytest.raises(Failed):
        exchange.decode_welcome(
            welcome, key=KEY, authority=certificates.new_authority(CLUSTER, NOW + timedelta(1)).certificate
        )


@pytest.mark.parametrize(
    "wrong", [{"hostname": ""}, {"hostname": "x" * 300}, {"hostname": "a\nb"}, {"secret": b"x" * 100}]
)
def test_a_wrong_request_names_the_field(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as caught:
        exchange.decode_request(exchange.encode_request(asked(**wrong)))
    assert caught.value.field in wrong


@given(st.binary(max_size=300))
def test_any_bytes_raise_problems_only(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        exchange.decode_request(data)
    with pytest.raises(Problem):
        exchange.decode_welcome(data, key=KEY, authority=AUTHORITY.certificate)


@given(st.data())
def test_changed_words_raise_problems_only(data: st.DataObject) -> None:
    good = exchange.encode_request(asked(request=REQUEST))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(max_size=3)) + good[at + data.draw(st.integers(0, 3)) :]
    try:
        exchange.decode_request(bad)
    except InvalidInput as error:
        assert error.field


# ---- attempts


def test_attempts_are_few_and_come_back_with_time() -> None:
    attempts = Attempts(each=3, all_=5, addresses=10)
    assert [attempts.allow("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert [attempts.allow("b", 0.0) for _ in range(4)] == [True, True, False, False], "all together have a limit, too"
    assert attempts.allow("a", 61.0)
    for number in range(1000):
        attempts.allow(str(number), 61.0)
    assert len(attempts._buckets) == 10


@pytest.mark.parametrize("url", ["", "h", "http://h:1", "https://", "https://h:x", "https://h:99999", "https://h/x", "https://u@h"])  # fmt: skip  # noqa: E501
def test_join_addresses_are_checked(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        join_address(url)
    assert caught.value.field == "join"
    assert str(join_address("https://[2001:db8::1]:7000/")) == "[2001:db8::1]:7000"
    assert join_address("https://h").port == 7946
