"""A test run fails on a skip that nothing explains."""

import pytest

from tests.examples.page_checks import NO_AXE
from tests.examples.programs import NO_NODE, NO_PHP
from tests.harness.browser import NO_CHROMIUM
from tests.harness.expected_skips import LIMITS, unexpected
from tests.topology.nginx import NO_NGINX


@pytest.mark.parametrize("reason", LIMITS)
def test_limit_of_the_machine_is_expected(reason: str) -> None:
    assert unexpected([f"Skipped: {reason}"], missing=(), is_root=False) == []


@pytest.mark.parametrize(
    ("reason", "package"),
    [
        (NO_CHROMIUM, "chromium"),
        (NO_NGINX, "nginx-light"),
        (NO_AXE, "npm"),
        (NO_PHP, "php-cli"),
        (NO_NODE, "nodejs"),
        ("tesseract is not installed (tools/test-needs installs it as root)", "tesseract-ocr"),
    ],
)
def test_program_that_could_not_be_installed_is_expected(reason: str, package: str) -> None:
    assert unexpected([reason], missing=[package], is_root=True) == []
    assert unexpected([reason], missing=[], is_root=True) == [reason]


def test_root_may_not_skip_tests_for_root() -> None:
    reason = "only root can become somebody else"
    assert unexpected([reason], missing=(), is_root=True) == [reason]


def test_any_other_reason_fails_the_run(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from tests.conftest import pytest_sessionfinish")
    pytester.makepyfile("import pytest\n\ndef test_one():\n    pytest.skip('today is a bad day')\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*unexpected skip: today is a bad day"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED
