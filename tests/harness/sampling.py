"""The tests of which `make test` runs a part, because their cells repeat one another; `make soak` runs all.

Which cells are run changes from day to day, and is the same in every process of one run. So a run can be repeated
(`DAY_OF_TESTS`, printed at its start), and within some days all cells have been run. A test belongs here
where its parameters are values, libraries or moments that pass through the same lines; where each parameter is a
case of its own, all are run.
"""

import os
import random
from datetime import UTC, datetime
from typing import Final

import pytest

DAY: Final = "DAY_OF_TESTS"

CELLS: Final = {
    "bench/test_benchmarks::test_benchmark_runs_and_writes_its_report": 3,
    "bench/test_process_cleanup::test_no_process_is_left_after_a_signal": 1,
    "cli/test_command_authentication::test_a_revoked_key_ends_what_follows_a_log": 1,
    "cli/test_serve::test_missing_extra_names_the_command_that_installs_it": 1,
    "embedded_postgres/test_crashes::test_next_server_completes_an_interrupted_start": 1,
    "embedded_postgres/test_crashes::test_starting_or_stopping_postgres_is_waited_for": 1,
    "embedded_postgres/test_first_start::test_start_repairs_roles_and_database": 2,
    "eventstore/faults/test_restarts::test_restart_under_load": 1,
    "faults/test_carried_fields::test_carried_fields_reach_the_provider_after_a_kill": 1,
    "faults/test_people_and_budgets::test_people_who_approve_at_the_same_moment": 1,
    "http/test_tls::test_http_1_1_with_and_without_alpn": 1,
    "http/test_websocket_fragments::test_endless_small_fragments_are_limited": 2,
    "http_conformance/test_connection_ends::test_a_connection_is_gone": 90,
    "http_conformance/test_connection_limits::test_the_limit_of_files_is_never_reached": 1,
    "http_conformance/test_floods::test_heads_without_an_end": 1,
    "http_conformance/test_slow_readers::test_unread_http1_streams_hold_little_of_the_log": 1,
    "http_conformance/test_slow_readers::test_unread_http2_pages_are_held_up_to_the_limit_and_then_refused": 1,
    "http_conformance/test_slow_readers::test_unread_http2_streams_hold_little_of_the_log": 1,
    "limits/test_limits_on_transports::test_requests": 16,
    "limits/test_limits_on_transports::test_the_day": 12,
    "observability/test_scraped_metrics::test_database_outage_is_shown_and_logged_once": 1,
    "observability/test_server_logs::test_no_line_holds_secrets_or_content": 1,
    "openapi/test_schemathesis::test_it_finds_no_breach_where_keys_are_needed": 1,
    "real_clients/test_end_of_log::test_heartbeats_are_not_shown_and_cause_no_reconnect": 1,
    "real_clients/test_end_of_log::test_libraries_documented_to_reconnect_forever_after_the_end": 1,
    "real_clients/test_end_of_log::test_library_stops_at_204_after_a_cut_before_done": 1,
    "real_clients/test_end_of_log::test_library_stops_at_404": 1,
    "real_clients/test_every_byte::test_frame_cut_at_sampled_bytes": 10,
    "real_clients/test_keys::test_every_library_signs_in": 1,
    "real_clients/test_restarts::test_libraries_resume_after_a_kill": 1,
    "real_clients/test_restarts::test_libraries_resume_after_a_stop": 1,
    "transports/test_all_transports::test_generation_joined_while_it_runs": 12,
    "transports/test_cors::test_cross_origin_page_in_a_browser": 1,
    "transports/test_dispatcher::test_dispatcher_and_framework_give_the_same_response": 14,
    "transports/test_http2::test_reset_streams_do_not_disturb_the_others": 1,
    "transports/test_http2::test_streams_of_one_connection_resume_exactly": 1,
    "transports/test_people_and_workflow::test_two_people_and_a_workflow_write_concurrently": 1,
    "transports/test_resume_after_cuts::test_fast_run_cut_at_random": 2,
    "transports/test_resume_after_cuts::test_live_run_cut_around_each_frame": 1,
    "transports/test_stream_limits::test_streams_of_limited_duration_resume_exactly": 1,
    "web/test_commands_refused::test_anything_while_the_database_is_away": 27,
    "workflows/test_module_name_clashes::test_module_with_a_package_name_is_refused": 6,
}
"""How many cells of each test `make test` runs."""


def day() -> str:
    """The day of this run; the first process of a run sets it for all that it starts."""
    return os.environ.setdefault(DAY, datetime.now(UTC).date().isoformat())


def leave_to_soak(items: list[pytest.Item]) -> None:
    """Marks as `soak` what `make test` does not run today, of the tests that `CELLS` names."""
    cells: dict[str, list[pytest.Item]] = {}
    for item in items:
        path, _, name = item.nodeid.removeprefix("tests/").partition("::")
        test = f"{path.removesuffix('.py')}::{name.partition('[')[0]}"
        if test in CELLS and item.get_closest_marker("soak") is None:
            cells.setdefault(test, []).append(item)
    for test, found in cells.items():
        found.sort(key=lambda item: item.nodeid)
        rng = random.Random(f"{day()} {test}")
        for item in rng.sample(found, max(0, len(found) - CELLS[test])):
            item.add_marker(pytest.mark.soak)
