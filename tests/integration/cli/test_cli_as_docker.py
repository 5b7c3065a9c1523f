"""The docker client's own compatibility tests, run with `gantry` in its place.

What passes here passes with Docker's client too (tests/compat): the commands, their
output and their exit codes are the same.
"""

from __future__ import annotations

from tests.compat.test_cli_logs import (
    test_both_streams,
    test_details,
    test_follow,
    test_line_without_newline,
    test_long_line_is_whole,
    test_since_and_until,
    test_tail,
    test_terminal_output,
    test_timestamps,
)
from tests.compat.test_cli_run import (
    test_binary_output_goes_through_unchanged,
    test_detached_prints_the_id,
    test_exit_code_125_when_the_engine_refuses,
    test_exit_code_126_when_not_executable,
    test_exit_code_127_when_not_found,
    test_exit_code_137_when_killed,
    test_exit_code_143_when_terminated,
    test_exit_code_is_the_process_s,
    test_foreground_output_and_streams,
    test_large_output_is_whole_and_in_order,
    test_stdin,
    test_stdin_stays_closed_without_i,
    test_unknown_image,
)
from tests.compat.test_cli_terminal import (
    test_control_c,
    test_detach_and_attach_again,
    test_detach_keys_of_choice,
    test_half_a_detach_sequence_is_input,
    test_interactive_shell,
    test_size_at_start_and_resize,
)

__all__ = [
    "test_binary_output_goes_through_unchanged",
    "test_both_streams",
    "test_control_c",
    "test_detach_and_attach_again",
    "test_detach_keys_of_choice",
    "test_detached_prints_the_id",
    "test_details",
    "test_exit_code_125_when_the_engine_refuses",
    "test_exit_code_126_when_not_executable",
    "test_exit_code_127_when_not_found",
    "test_exit_code_137_when_killed",
    "test_exit_code_143_when_terminated",
    "test_exit_code_is_the_process_s",
    "test_follow",
    "test_foreground_output_and_streams",
    "test_half_a_detach_sequence_is_input",
    "test_interactive_shell",
    "test_large_output_is_whole_and_in_order",
    "test_line_without_newline",
    "test_long_line_is_whole",
    "test_since_and_until",
    "test_size_at_start_and_resize",
    "test_stdin",
    "test_stdin_stays_closed_without_i",
    "test_tail",
    "test_terminal_output",
    "test_timestamps",
    "test_unknown_image",
]
