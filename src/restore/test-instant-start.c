/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starts shell scripts in place of the filter. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "restore/instant-private.h"

#define BACKUP_ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define READY                                                               \
    "{\"ready\": true, \"files\": 3, \"directories\": 2, \"bytes\": 4096, " \
    "\"problems\": 1, \"seconds\": 0.25}"

static char script_path[4200];

/* The script sees $target, $config and $report. */
static void write_script(const char *body)
{
    (void)snprintf(script_path, sizeof(script_path), "%s/filterd", test_tmpdir());
    FILE *file = fopen(script_path, "we");
    ASSERT_TRUE(file);
    ASSERT_TRUE(fprintf(file,
                        "#!/bin/sh\nset -eu\n"
                        "[ \"$1 $3 $5 $7 $9\" = '--target --restore-id --config-fd --report-fd "
                        "--deadline' ]\n"
                        "target=$2 id=$4 config=$6 report=$8\n"
                        "[ \"${11} ${12}\" = '-- /the/hydrator' ]\n%s\n",
                        body) > 0);
    ASSERT_EQ(fclose(file), 0);
    ASSERT_EQ(chmod(script_path, 0700), 0);
}

static int start(const char *body, struct progress *progress, struct instant_report *ret_report)
{
    char hydrator[] = "/the/hydrator", target[] = "/the/target";
    char repo[] = "/repo", backup[] = BACKUP_ID, secret[] = "s3cret";
    write_script(body);
    const struct instant_programs programs = {.filterd = script_path, .hydrator = hydrator};
    const struct instant_config config = {
        .restore_id = 0x1234,
        .repo_url = repo,
        .backup_id = backup,
        .target = target,
        .deadline_s = 120,
        .passphrase = (uint8_t *)secret,
        .passphrase_len = 6,
    };
    return instant_start_programs(&programs, &config, -EBADF, progress, ret_report);
}

static void assert_fails(const char *body, int error, const char *words)
{
    struct instant_report report;
    ASSERT_ERR(start(body, NULL, &report), error);
    if (!strstr(error_text(error), words))
        test_fail(__FILE__, __LINE__, "'%s' does not say '%s'", error_text(error), words);
}

TEST(the_report_comes_back)
{
    struct instant_report report;
    ASSERT_OK(start("echo '" READY "' >&$report", NULL, &report));
    ASSERT_EQ(report.file_count, 3);
    ASSERT_EQ(report.directory_count, 2);
    ASSERT_EQ(report.size_bytes, 4096);
    ASSERT_EQ(report.problem_count, 1);
    ASSERT_TRUE(report.seconds > 0.24 && report.seconds < 0.26);
}

TEST(a_report_may_come_from_a_daemon_and_in_pieces)
{
    struct instant_report report;
    ASSERT_OK(start("(sleep 0.3; printf '{\"ready\": true,' >&$report; sleep 0.3;"
                    " echo '\"seconds\": 1}' >&$report) & exit 0",
                    NULL, &report));
    ASSERT_TRUE(report.seconds > 0.9);
}

TEST(the_daemon_gets_the_passphrase_in_a_file_that_cannot_change)
{
    char body[1024];
    struct instant_report report;
    (void)snprintf(body, sizeof(body),
                   "grep -q '\"passphrase\":\"czNjcmV0\"' <&$config\n" /* s3cret */
                   "if (echo x >>/proc/self/fd/$config) 2>/dev/null; then exit 1; fi\n"
                   "if env | grep -q s3cret; then exit 1; fi\n"
                   "[ \"$target $id $PWD\" = '/the/target 0000000000001234 /' ]\n"
                   "echo '%s' >&$report",
                   READY);
    ASSERT_OK(start(body, NULL, &report));
}

TEST(nothing_else_is_inherited)
{
    struct instant_report report;
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CLEANUP_CLOSE int high_fd = fcntl(fd, F_DUPFD_CLOEXEC, 100);
    ASSERT_TRUE(fd >= 0 && high_fd == 100);
    ASSERT_EQ(close(fd), 0);
    ASSERT_OK(start("[ ! -e /proc/$$/fd/100 ]\necho '" READY "' >&$report", NULL, &report));
}

TEST(an_error_has_the_words_of_the_daemon)
{
    assert_fails("echo '{\"error\": \"no space for 3 files\", \"exit\": 1}' >&$report", -EIO,
                 "no space for 3 files");
    assert_fails("echo 'tmpfs has no such events' >&$report", -EIO, "tmpfs has no such events");
    assert_fails("echo 'one' >&2; echo 'two' >&2; exit 1", -EIO, "one two");
    assert_fails("exit 5", -EIO, "status 5");
    assert_fails("kill -9 $$", -EIO, "signal 9");
    assert_fails("exit 0", -EIO, "without a report");
}

TEST(bad_reports_are_refused)
{
    assert_fails("echo '{\"ready\": true}' >&$report", -UMBRA_E_CORRUPT, "\"seconds\"");
    assert_fails("echo '{\"seconds\": 1}' >&$report", -UMBRA_E_CORRUPT, "\"ready\"");
    assert_fails("echo '{' >&$report", -UMBRA_E_CORRUPT, "not a JSON");
    assert_fails("head -c 100000 /dev/zero >&$report 2>/dev/null", -UMBRA_E_LIMIT, "too long");
}

TEST(a_daemon_that_talks_much_is_neither_blocked_nor_killed)
{
    struct instant_report report;
    ASSERT_OK(start("head -c 100000 /dev/zero >&2 2>/dev/null || true\necho '" READY "' >&$report",
                    NULL, &report));
}

TEST(an_interrupt_stops_the_waiting_only)
{
    struct progress progress = {0};
    struct instant_report report;
    char body[4400], mark[4200];
    (void)snprintf(mark, sizeof(mark), "%s/went-on", test_tmpdir());
    (void)snprintf(body, sizeof(body), "sleep 0.5; : >'%s'", mark);
    atomic_store(&progress.cancelled, 1);
    ASSERT_ERR(start(body, &progress, &report), -UMBRA_E_CANCELLED);
    const struct timespec moment = {.tv_nsec = 20000000};
    while (access(mark, F_OK) < 0)
        (void)nanosleep(&moment, NULL);
    while (waitpid(-1, NULL, 0) > 0)
        continue;
}

TEST(a_missing_program_is_named)
{
    char none[] = "/nowhere/umbra-filterd", target[] = "/t", repo[] = "/r", backup[] = BACKUP_ID;
    const struct instant_programs programs = {.filterd = none, .hydrator = none};
    const struct instant_config config = {
        .restore_id = 1, .repo_url = repo, .backup_id = backup, .target = target};
    struct instant_report report;
    ASSERT_ERR(instant_start_programs(&programs, &config, -EBADF, NULL, &report), -ENOENT);
    ASSERT_TRUE(strstr(error_text(-ENOENT), none));
}

TEST_MAIN()
