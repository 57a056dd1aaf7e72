#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# bench/log.sh [SECONDS]: the log service beside SQLite and bare fdatasync (`make bench-log`).
#
# On a fresh ext4 volume in a loop device.  SECONDS of each run (default 2); 45 runs, then recoveries
# of logs of 10 MB to 1 GB.  Needs root and 3 GB.

set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../tests/lib/common.sh
. "$(dirname "$0")/../tests/lib/common.sh"
test_begin 1800 "$@"
require_root
program=$TESTS_TOP/${BUILD:-build}/bench/log
[ -x "$program" ] || skip "needs '$program'"

volume_make bench ext4 2500M
"$program" commits "$T/bench" "${1:-2}"
"$program" recovery "$T/bench"
