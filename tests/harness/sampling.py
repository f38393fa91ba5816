"""The tests of which `make test` runs a part, because their cells repeat one another; `make soak` runs all.

Which cells are run changes from day to day, and is the same in every process of one run. So a run can be repeated
(`DAY_OF_TESTS`, printed at its start), and within some days all cells have been run. A test belongs here
where its parameters are values, libraries or moments that pass through the same lines; where each parameter is a
case of its own, all are run. A family belongs here where real servers, browsers and proxies go through one kind of
trouble at several places.
"""

import os
import random
from datetime import UTC, datetime
from typing import Final

import pytest

DAY: Final = "DAY_OF_TESTS"

CELLS: Final = {
    "bench/test_process_cleanup::test_no_process_is_left_after_a_signal": 1,
    "cli/test_command_authentication::test_a_revoked_key_ends_what_follows_a_log": 1,
    "cli/test_serve::test_missing_extra_names_the_command_that_installs_it": 1,
    "embedded_postgres/test_crashes::test_next_server_completes_an_interrupted_start": 1,
    "embedded_postgres/test_crashes::test_starting_or_stopping_postgres_is_waited_for": 1,
    "embedded_postgres/test_first_start::test_start_repairs_roles_and_database": 2,
    "eventstore/faults/test_restarts::test_restart_under_load": 1,
    "examples/test_message_parts_shown::test_a_message_of_parts": 1,
    "examples/test_page_modules::test_through_random_cuts": 1,
    "faults/test_people_and_budgets::test_people_who_approve_at_the_same_moment": 1,
    "http/test_tls::test_http_1_1_with_and_without_alpn": 1,
    "http/test_websocket_fragments::test_endless_small_fragments_are_limited": 2,
    "http_conformance/test_connection_ends::test_a_connection_is_gone": 90,
    "http_conformance/test_connection_limits::test_the_limit_of_files_is_never_reached": 1,
    "http_conformance/test_floods::test_heads_without_an_end": 1,
    "limits/test_limits_on_transports::test_requests": 16,
    "limits/test_limits_on_transports::test_the_day": 12,
    "observability/test_server_logs::test_no_line_holds_secrets_or_content": 1,
    "real_clients/test_every_byte::test_frame_cut_at_sampled_bytes": 4,
    "transports/test_all_transports::test_generation_joined_while_it_runs": 12,
    "transports/test_cors::test_cross_origin_page_in_a_browser": 1,
    "transports/test_dispatcher::test_dispatcher_and_framework_give_the_same_response": 14,
    "transports/test_http2::test_reset_streams_do_not_disturb_the_others": 1,
    "transports/test_http2::test_streams_of_one_connection_resume_exactly": 1,
    "transports/test_people_and_workflow::test_two_people_and_a_workflow_write_concurrently": 1,
    "transports/test_stream_limits::test_streams_of_limited_duration_resume_exactly": 1,
    "web/test_commands_refused::test_anything_while_the_database_is_away": 27,
    "workflows/test_module_name_clashes::test_module_with_a_package_name_is_refused": 6,
}
"""How many cells of each test `make test` runs."""

FAMILIES: Final = {
    # An app in a browser, over a network that breaks.
    (
        "examples/test_biz_chat::test_a_call_alone_over_a_network_that_breaks",
        "examples/test_content_forge::test_the_desk_shows_what_the_log_says",
        "examples/test_diabe_check::test_its_page_on_a_phone_shows_the_log",
        "examples/test_doc_summ::test_its_page_shows_the_log_through_a_bad_network",
        "examples/test_service_bot::test_through_random_cuts",
        "examples/test_smart_exam::test_a_batch_is_polled_over_a_network_that_breaks",
        "examples/test_smart_exam::test_a_lesson_over_a_network_that_breaks",
    ): 2,
    # Several people at one app.
    (
        "examples/test_biz_chat::test_two_people_tell_the_coach_while_it_answers",
        "examples/test_biz_chat::test_what_comes_too_late_is_returned",
        "examples/test_operators::test_two_people_approve",
        "examples/test_service_bot::test_two_operators_modify_reject_and_approve",
        "examples/test_service_bot::test_two_people_approve",
        "examples/test_smart_exam::test_the_slider_changes_the_feedback_while_it_is_written",
    ): 2,
    # An app whose server dies.
    (
        "examples/test_biz_chat::test_marks_stay_in_their_places_when_the_server_dies",
        "examples/test_doc_summ::test_no_page_is_asked_twice_whoever_polls_and_whatever_is_killed",
        "examples/test_service_bot::test_a_decision_through_a_cut_and_a_killed_server",
        "examples/test_smart_exam::test_a_batch_outlives_its_server",
        "examples/test_smart_exam::test_a_grading_outlives_its_server",
        "examples/test_smart_exam::test_an_answer_outlives_its_server",
    ): 2,
    # A browser that signs in.
    (
        "examples/test_signing_in::test_a_revoked_key_ends_four_open_streams",
        "examples/test_signing_in::test_a_ticket_that_was_stolen_after_use_is_refused",
        "examples/test_signing_in::test_an_example_signs_in_from_another_origin",
        "examples/test_signing_in::test_streams_of_another_origin_by_ticket",
        "examples/test_signing_in::test_the_front_page_of_a_server_without_keys",
        "examples/test_signing_in::test_the_front_page_signs_in_by_cookie",
        "topology/test_keys::test_browser_signs_in_through_nginx",
    ): 2,
    # A page of the server in a browser, cut and resumed.
    (
        "faults/test_browser::test_eventsource_from_now_cut_before_its_first_event",
        "openapi/test_front_page::test_a_network_that_breaks_and_a_server_that_is_killed",
        "openapi/test_front_page::test_a_visitor_cuts_and_reconnects_and_has_the_whole_log",
        "real_clients/test_browser::test_cuts_and_a_kill",
        "transports/test_http2_failures::test_browser_page_with_thirty_event_streams",
    ): 2,
    # All libraries of a runtime through one kind of end.
    (
        "real_clients/test_connection_cuts::test_every_library_gets_the_whole_answer_despite_cuts",
        "real_clients/test_end_of_log::test_heartbeats_are_not_shown_and_cause_no_reconnect",
        "real_clients/test_end_of_log::test_libraries_documented_to_reconnect_forever_after_the_end",
        "real_clients/test_end_of_log::test_library_stops_at_204_after_a_cut_before_done",
        "real_clients/test_end_of_log::test_library_stops_at_404",
        "real_clients/test_keys::test_every_library_signs_in",
        "real_clients/test_restarts::test_libraries_resume_after_a_kill",
        "real_clients/test_restarts::test_libraries_resume_after_a_stop",
    ): 4,
    # Two servers, one of which is taken away.
    (
        "faults/test_interactive_runs::test_second_server_takes_over_the_runs_of_a_killed_one",
        "topology/test_failures::test_reader_continues_after_its_server_is_killed",
        "topology/test_failures::test_readers_continue_after_a_database_restart",
        "topology/test_failures::test_rolling_restart",
        "topology/test_failures::test_streams_survive_an_nginx_reload",
        "topology/test_failover::test_synchronous_failover_under_load_loses_nothing",
        "topology/test_failover::test_synchronous_reader_keeps_its_cursor",
    ): 3,
    # Random histories of runs.
    (
        "runtime/test_interleavings::test_every_run_ends_exactly_once",
        "runtime/test_messages_simulated::test_no_message_is_lost",
        "runtime/test_tool_decisions_simulated::test_tools_run_only_with_approved_arguments",
    ): 2,
    # Clients that do not read.
    (
        "http_conformance/test_slow_readers::test_http1_websockets_that_send_large_commands_without_reading",
        "http_conformance/test_slow_readers::test_http2_websockets_that_send_large_commands_without_reading",
        "http_conformance/test_slow_readers::test_unread_http1_pages_are_held_up_to_the_limit_and_then_refused",
        "http_conformance/test_slow_readers::test_unread_http1_streams_hold_little_of_the_log",
        "http_conformance/test_slow_readers::test_unread_http2_pages_are_held_up_to_the_limit_and_then_refused",
        "http_conformance/test_slow_readers::test_unread_http2_streams_hold_little_of_the_log",
        "transports/test_http2_failures::test_sigterm_ends_reading_streams_cleanly_despite_stalled_ones",
        "transports/test_http2_failures::test_stalled_streams_hold_little_memory_beside_one_that_reads",
    ): 4,
    # The tools that measure.
    (
        "bench/test_benchmarks::test_benchmark_runs_and_writes_its_report",
        "bench/test_comparison::test_two_revisions_are_measured_in_one_run",
        "cli/test_bench::test_bench_counts_every_token_on_every_transport",
        "cli/test_bench::test_readers_resume_after_cuts",
    ): 3,
    # A run that is read through many cuts.
    (
        "transports/test_resume_after_cuts::test_fast_run_cut_at_random",
        "transports/test_resume_after_cuts::test_finished_run_cut_around_each_frame",
        "transports/test_resume_after_cuts::test_finished_run_cut_around_each_frame_on_websocket",
        "transports/test_resume_after_cuts::test_live_run_cut_around_each_frame",
        "transports/test_resume_after_cuts::test_polls_of_random_size_and_time_read_the_whole_log",
    ): 4,
    # A command whose server goes and comes back.
    (
        "cli/test_chat_restarts::test_chat_survives_a_killed_server",
        "cli/test_chat_restarts::test_cut_connections_leave_no_trace_in_the_answer",
        "cli/test_chat_restarts::test_json_output_of_a_stopped_server_is_the_log",
        "cli/test_replay::test_replay_waits_for_a_restarted_server",
        "cli/test_tail::test_tail_follows_through_a_kill_and_a_stop",
        "cli/test_tail::test_terminal_shows_that_tail_reconnects",
    ): 3,
    # A server whose database goes and comes back.
    (
        "faults/test_database_outages::test_embedded_database_survives_a_killed_server",
        "faults/test_database_outages::test_run_survives_a_postgres_restart",
        "faults/test_database_outages::test_server_stays_ready_while_a_table_is_locked",
        "faults/test_database_outages::test_stopped_database_gives_503_until_it_is_back",
        "faults/test_long_outage::test_runs_after_an_outage_longer_than_the_retries",
        "observability/test_scraped_metrics::test_database_outage_is_shown_and_logged_once",
        "observability/test_scraped_metrics::test_hanging_database_is_shown",
    ): 2,
    # A server that dies, and what it was at.
    (
        "faults/test_carried_fields::test_carried_fields_reach_the_provider_after_a_kill",
        "faults/test_interactive_runs::test_restarted_server_runs_what_was_decided_once",
        "faults/test_interactive_runs::test_stopped_server_hands_over_its_waiting_runs",
        "faults/test_people_and_budgets::test_a_paused_run_outlasts_its_server",
        "faults/test_server_kill::test_two_kills",
        "webhooks/test_real_servers::test_webhook_survives_its_server",
        "webhooks/test_waiting_servers::test_the_server_is_killed_while_runs_wait",
    ): 3,
    # A program that knows plain JSON, over a network that breaks.
    (
        "examples/test_content_forge::test_apps_script_has_one_row_for_each_job",
        "examples/test_content_forge::test_n8n_walks_every_node",
        "examples/test_content_forge::test_wordpress_has_one_post_for_each_topic",
        "examples/test_content_forge::test_wordpress_repeats_what_was_lost_and_asks_for_what_is_new",
        "examples/test_diabe_check::test_a_scan_over_a_network_that_drops_requests",
    ): 3,
    # Requests made up from the API's document.
    (
        "openapi/test_schemathesis::test_it_finds_no_breach",
        "openapi/test_schemathesis::test_it_finds_no_breach_where_keys_are_needed",
    ): 1,
    # Memory that stays bounded.
    (
        "faults/test_stalled_readers::test_stalled_readers_hold_bounded_memory_and_catch_up",
        "files/test_uploads_served::test_a_large_file_takes_little_memory",
        "files/test_uploads_served::test_a_slow_reader_of_a_large_file_takes_little_memory",
        "runtime/test_cache_memory::test_full_caches_do_not_grow",
    ): 2,
    # `make examples`, and how it ends.
    (
        "examples/test_run_all::test_a_killed_one_leaves_no_server",
        "examples/test_run_all::test_a_server_that_ends_is_told",
        "examples/test_run_all::test_in_the_background_until_sigterm",
    ): 1,
    # Connections of every kind that end.
    (
        "http_conformance/test_refused_connection_ends::test_nothing_is_left_of_who_is_refused",
        "http_conformance/test_server_stop::test_every_kind_of_reader_ends_cleanly",
        "http_conformance/test_server_stop::test_readers_end_cleanly_beside_stalled_and_silent_clients",
        "http_conformance/test_server_stop::test_stalled_clients_alone_do_not_delay_the_stop",
    ): 2,
    # A module of the pages, given bad answers.
    (
        "examples/test_page_modules::test_a_poll_asks_again_when_it_is_told_to",
        "examples/test_page_modules::test_a_poll_of_what_is_gone_ends",
        "examples/test_page_modules::test_an_event_log_resumes_behind_what_it_gave_out",
        "examples/test_page_modules::test_an_event_log_that_is_over",
        "examples/test_tape::test_an_end_is_one",
        "examples/test_tape::test_repeats_holes_and_cuts",
        "examples/test_upload::test_it_is_sent_until_there_is_an_answer",
    ): 6,
}
"""Tests that do one thing in several places, and how many of all their cells `make test` runs."""


def day() -> str:
    """The day of this run; the first process of a run sets it for all that it starts."""
    return os.environ.setdefault(DAY, datetime.now(UTC).date().isoformat())


def leave_to_soak(items: list[pytest.Item]) -> None:
    """Marks as `soak` what `make test` does not run today, of the tests that the tables name."""
    for group, found in _cells(items).items():
        wanted = FAMILIES[group] if group in FAMILIES else CELLS[group[0]]
        rng = random.Random(f"{day()} {group[0]}")
        for item in rng.sample(found, max(0, len(found) - wanted)):
            item.add_marker(pytest.mark.soak)


def take_all(items: list[pytest.Item]) -> None:
    """Marks as `soak` all cells of the tests that the tables name: `make soak` runs what it finds marked."""
    for found in _cells(items).values():
        for item in found:
            item.add_marker(pytest.mark.soak)


def _cells(items: list[pytest.Item]) -> dict[tuple[str, ...], list[pytest.Item]]:
    """The tests that have a day, in the order of their names, by the group that shares a number."""
    group_of = {test: (test,) for test in CELLS} | {test: family for family in FAMILIES for test in family}
    cells: dict[tuple[str, ...], list[pytest.Item]] = {}
    for item in items:
        path, _, name = item.nodeid.removeprefix("tests/").partition("::")
        group = group_of.get(f"{path.removesuffix('.py')}::{name.partition('[')[0]}")
        if group is not None and item.get_closest_marker("soak") is None:
            cells.setdefault(group, []).append(item)
    for found in cells.values():
        found.sort(key=lambda item: item.nodeid)
    return cells
