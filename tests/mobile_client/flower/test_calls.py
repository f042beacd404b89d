"""A call: what is tried again, what is not, what is bounded, and the clock."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketfed.core.errors import CallRefused, KeyFileError, MalformedObject, ServerError, Unreachable
from pocketfed.mobile_client.connection import Retry, trust
from pocketfed.mobile_client.flower.calls import Caller, _read_error
from pocketfed.mobile_client.flower.clock import LAG, ServerClock
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.key import PhoneKey
from tests.mobile_client.flower.conftest import Start
from tests.mobile_client.flower.superlink import SuperLink

KEY = PhoneKey(ec.generate_private_key(ec.SECP256R1()))
Answers = list[httpx.Response | Exception]


def caller(answers: Answers, slept: list[float] | None = None, max_answer: int = 1000) -> Caller:
    """Of a server that gives these answers, one a request."""

    def respond(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    sleep = (slept if slept is not None else []).append
    return Caller(
        "http://phone.test", KEY, max_answer=max_answer, transport=httpx.MockTransport(respond), sleep=sleep
    )


def stream(status: int, content: bytes, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))


def test_transport_errors_and_busy_servers_are_tried_again() -> None:
    slept: list[float] = []
    answers: Answers = [httpx.ConnectError("refused"), stream(503, b""), stream(200, b"")]
    with caller(answers, slept) as made:
        assert Fleet(made).heartbeat(1, 60) is False
    assert len(slept) == 2
    assert slept[0] <= 0.5
    assert slept[1] <= 1.0


@pytest.mark.parametrize("make", [lambda: httpx.ReadTimeout("slow"), lambda: stream(502, b"")])
def test_there_is_an_end_to_trying(make: Callable[[], httpx.Response | Exception]) -> None:
    answers: Answers = [make() for _ in range(4)]
    with caller(answers) as made, pytest.raises(Unreachable, match=r"http://phone\.test"):
        Fleet(made).pull_messages(1)
    assert answers == []
    answers = [make() for _ in range(4)]
    with caller(answers) as made, pytest.raises(Unreachable):
        Fleet(made).activate(60)  # may have worked although nothing was heard
    assert len(answers) == 3


def test_waits_are_random_below_a_bound_that_doubles() -> None:
    retry = Retry(first=1.0, most=4.0)
    for attempt, bound in enumerate((1, 2, 4, 4)):
        waits = [retry.wait(attempt) for _ in range(200)]
        assert 0 <= min(waits) < bound / 10
        assert 0.9 * bound < max(waits) <= bound


@pytest.mark.parametrize(
    ("answer", "error", "expected"),
    [
        (stream(404, b"{}"), ServerError, "no Flower server"),
        (stream(307, b"", location="http://elsewhere.test"), ServerError, "no Flower server"),
        (stream(200, b"<html>"), ServerError, "no Flower server"),
        (stream(200, b"\n" * 2000), MalformedObject, "more than 1000 bytes"),
        (stream(500, b"x" * 10_000), CallRefused, "HTTP 500, code 0"),
        (stream(412, b'{"code": 2004, "detail": "no"}'), CallRefused, "no .HTTP 412, code 2004"),
        (stream(401, b'{"detail": "who?"}'), CallRefused, r"who\?"),
    ],
)
def test_other_answers_are_told_apart(answer: httpx.Response, error: type[Exception], expected: str) -> None:
    with caller([answer]) as made, pytest.raises(error, match=expected):
        Fleet(made).pull_messages(1)


@pytest.mark.parametrize("status", [404, 405, 302, 200])
def test_a_server_that_was_one_before_is_waited_for(status: int) -> None:
    with caller([stream(status, b"<html>")]) as made:
        made.met = True
        with pytest.raises(Unreachable, match="is no Flower server"):
            Fleet(made).pull_messages(1)


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.sampled_from([b"[" * 100_000, b"[]", b'{"detail": 3}', b'{"code": "x", "detail": ""}'])
)
def test_any_error_body_is_read(content: bytes) -> None:
    code, detail = _read_error(content)
    assert isinstance(code, int)
    assert detail


def test_the_clock_goes_by_the_server_only_where_that_matters() -> None:
    clock = ServerClock(lambda: 1_000_000.0)
    date = datetime.fromtimestamp(1_000_600, UTC)
    came = clock.here()
    assert not clock.correct(None, came)
    assert not clock.correct("yesterday", came)
    assert not clock.correct(format_datetime(date - timedelta(seconds=598), usegmt=True), came)
    assert clock.now() == 1_000_000.0
    assert clock.correct(format_datetime(date, usegmt=True), came)
    assert clock.here() == came == 1_000_000.0
    assert (clock.now(), clock.local(1_000_600.0)) == (1_000_600.0, 1_000_000.0)
    earlier = format_datetime(date - timedelta(seconds=20), usegmt=True)
    assert not clock.correct(earlier, came, LAG)
    assert not clock.correct(format_datetime(date, usegmt=True), came)  # a refusal has another reason then


@pytest.mark.parametrize(
    ("slow", "corrected"), [(2, False), (10, True), (25, True), (-25, False), (-35, True)]
)
def test_a_slow_clock_is_corrected_before_it_misses_a_deadline(slow: int, corrected: bool) -> None:
    """Servers take signatures that are old, so nothing but the `Date` of a success says so."""

    def respond(request: httpx.Request) -> httpx.Response:
        date = format_datetime(datetime.fromtimestamp(1_000_000 + slow, UTC), usegmt=True)
        return httpx.Response(200, headers={"date": date}, stream=httpx.ByteStream(b""))

    clock = ServerClock(lambda: 1_000_000.0)
    with Caller("http://phone.test", KEY, clock, transport=httpx.MockTransport(respond)) as made:
        Fleet(made).pull_messages(1)
    assert clock.offset == (slow if corrected else 0)


def test_a_slow_download_is_no_wrong_clock() -> None:
    now = 1_000_000.0

    class Slow(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            nonlocal now
            now += 45.0
            yield b""

    def respond(request: httpx.Request) -> httpx.Response:
        date = format_datetime(datetime.fromtimestamp(now, UTC), usegmt=True)
        return httpx.Response(200, headers={"date": date}, stream=Slow())

    clock = ServerClock(lambda: now)
    with Caller("http://phone.test", KEY, clock, transport=httpx.MockTransport(respond)) as made:
        assert Fleet(made).pull_object(1, 1, "x") is None
    assert (now, clock.offset) == (1_000_045.0, 0.0)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_phone_whose_clock_is_wrong_works(
    minutes: int, superlink: SuperLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    phone = start(superlink.url, now=lambda: time.time() + 60 * minutes)
    phone.agent.step()
    (seconds,) = re.findall(r"clock is ([+-]\d+) s off", caplog.text)
    assert abs(int(seconds) - 60 * minutes) < 4
    question = superlink.ask(phone.agent.node or 0, {"x": 1})
    phone.wire.calls.clear()
    assert phone.agent.step()
    assert len(phone.wire.calls) == 8
    answer = superlink.answer(question)
    assert answer is not None
    assert dict(answer.content["update"]) == {"x": 1}
    assert caplog.text.count("clock is") == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    import ipaddress

    folder = tmp_path_factory.mktemp("tls")
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


def test_tls_works_with_the_right_authority_and_says_what_is_wrong_otherwise(
    certificate: tuple[Path, Path], launch: Callable[..., SuperLink], tmp_path: Path
) -> None:
    server = launch(certificate=certificate)
    with Caller(server.url, KEY, verify=trust(certificate[0])) as made:
        assert Fleet(made).register() > 0
    for address, expected in (
        (server.url, "does not trust .*--ca"),
        (server.url.replace("127.0.0.1", "localhost"), "--ca"),
    ):
        with Caller(address, KEY, verify=trust(None)) as made:
            with pytest.raises(ServerError, match=expected):
                Fleet(made).register()
            made.met = True
            with pytest.raises(Unreachable, match=expected):
                Fleet(made).register()
    (tmp_path / "no.pem").write_text("none")
    for path in (tmp_path / "no.pem", tmp_path / "absent.pem"):
        with pytest.raises(KeyFileError, match=path.name):
            trust(path)


def test_https_to_a_server_without_tls_says_so(superlink: SuperLink) -> None:
    address = superlink.url.replace("http:", "https:")
    with Caller(address, KEY, verify=trust(None)) as made, pytest.raises(ServerError, match="speak TLS"):
        Fleet(made).register()
