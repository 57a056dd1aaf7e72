/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sources one by one and in a row: good, stale, missing, slow, dying and lying ones. */
#include "restore/source.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "restore/test-made.h"

#define FILE_LEN   (3 * (size_t)MADE_CHUNK_LEN)
#define FRAME_ROOM (4u << 20)
#define ANSWER_MS  2000u /* sh(1) has to start in that time */

/* A backup of /top with one file, a mirror of it, and sources. */
struct world {
    struct made made;
    struct frame_cache *frames;
    struct source_set *set;
    struct source_reader *reader;
    struct string_vector specs;
    struct entry *file; /* top/dir/file, of seed 1 */
    uint8_t want[FILE_LEN];
    char mirror[4096];
    unsigned stood_in;
    char stand_in[2048];
};

static const char *mirror_path(struct world *w, const char *path)
{
    static char text[4][4400];
    static unsigned next;
    char *to = text[next++ % ELEMENTSOF(text)];

    (void)snprintf(to, sizeof(text[0]), "%s/%s", w->mirror, path);
    return to;
}

static void write_file(const char *path, const void *data, size_t len)
{
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, data, len), (ssize_t)len);
}

static void world_begin(struct world *w)
{
    uint64_t seed = 1;

    *w = (struct world){0};
    (void)signal(SIGPIPE, SIG_IGN);
    made_init(&w->made);
    made_directory(&w->made, "top");
    made_directory(&w->made, "top/dir");
    w->file = made_random(&w->made, "top/dir/file", FILE_LEN, 1);
    made_finish(&w->made, "top", NULL);
    test_random_fill(&seed, w->want, FILE_LEN);
    (void)snprintf(w->mirror, sizeof(w->mirror), "%s/mirror", w->made.around);
    ASSERT_EQ(mkdir(w->mirror, 0755), 0);
    ASSERT_EQ(mkdir(mirror_path(w, "dir"), 0755), 0);
    write_file(mirror_path(w, "dir/file"), w->want, FILE_LEN);
    ASSERT_OK(frame_cache_new(w->made.repo, FRAME_ROOM, &w->frames));
}

/* Of the file in the repository: its chunks lie in one frame. */
static void damage(struct world *w)
{
    const struct extent_vector *extents = &w->file->extents;

    for (size_t i = 1; i < extents->count; i++)
        ASSERT_EQ(extents->items[i].chunk.location.frame_offset,
                  extents->items[0].chunk.location.frame_offset);
    made_damage(&w->made, &extents->items[0].chunk);
}

static void on_stand_in(const char *text, void *userdata)
{
    struct world *w = userdata;

    w->stood_in++;
    (void)snprintf(w->stand_in, sizeof(w->stand_in), "%s", text);
}

static void add_spec(struct world *w, const char *fmt, const char *argument)
{
    char spec[8192];

    ASSERT_TRUE((size_t)snprintf(spec, sizeof(spec), "%s%s", fmt, argument) < sizeof(spec));
    ASSERT_OK(string_vector_add(&w->specs, spec));
}

static int try_open(struct world *w, bool may_be_absent, int volume_fd)
{
    const struct source_options options = {
        .repo = w->made.repo,
        .frames = w->frames,
        .specs = &w->specs,
        .base = "top",
        .volume_fd = volume_fd,
        .may_be_absent = may_be_absent,
        .answer_time_ms = ANSWER_MS,
        .on_stand_in = on_stand_in,
        .userdata = w,
    };
    int r = source_set_new(&options, &w->set);
    return r < 0 ? r : source_reader_new(w->set, &w->reader);
}

static void open_sources(struct world *w)
{
    ASSERT_OK(try_open(w, false, -1));
}

static void world_end(struct world *w)
{
    source_reader_free(w->reader);
    source_set_free(w->set);
    frame_cache_free(w->frames);
    string_vector_release_all(&w->specs);
    made_release(&w->made);
}

/* The middle of the chunk i. */
static int read_chunk(struct world *w, size_t i, uint8_t *to)
{
    return source_read(w->reader, w->file, i * MADE_CHUNK_LEN, &w->file->extents.items[i].chunk,
                       1000, to, 5000);
}

static void expect_chunk(struct world *w, size_t i)
{
    uint8_t got[5000];

    ASSERT_OK(read_chunk(w, i, got));
    ASSERT_MEMEQ(got, w->want + i * MADE_CHUNK_LEN + 1000, sizeof(got));
}

/* Nothing is handed out. */
static int expect_failure(struct world *w, size_t i)
{
    static const uint8_t untouched[5000];
    uint8_t got[5000] = {0};

    int r = read_chunk(w, i, got);
    ASSERT_TRUE(r < 0);
    ASSERT_MEMEQ(got, untouched, sizeof(got));
    return r;
}

static void expect_words(int r, const char *words)
{
    if (!strstr(error_text(r), words))
        test_fail(__FILE__, __LINE__, "'%s' does not say '%s'", error_text(r), words);
}

static struct source_stats stats_of(struct world *w, size_t i)
{
    struct source_stats stats;

    ASSERT_LT(i, source_set_count(w->set));
    source_set_stats(w->set, i, &stats);
    return stats;
}

/* ---- the row ---- */

TEST(the_repository_comes_first_unless_it_is_named)
{
    struct world w;

    world_begin(&w);
    add_spec(&w, "dir:", w.mirror);
    open_sources(&w);
    ASSERT_STREQ(stats_of(&w, 0).spec, "repo");
    expect_chunk(&w, 0);
    ASSERT_EQ(stats_of(&w, 0).read_bytes, 5000u);
    ASSERT_EQ(stats_of(&w, 1).read_bytes, 0u);
    source_reader_free(TAKE_PTR(w.reader));
    source_set_free(TAKE_PTR(w.set));

    add_spec(&w, "repo", "");
    open_sources(&w);
    ASSERT_EQ(source_set_count(w.set), 2u);
    ASSERT_STREQ(stats_of(&w, 1).spec, "repo");
    expect_chunk(&w, 0);
    ASSERT_EQ(stats_of(&w, 0).read_bytes, 5000u);
    ASSERT_EQ(stats_of(&w, 1).read_bytes, 0u);
    ASSERT_EQ(w.stood_in, 0u);
    world_end(&w);
}

TEST(a_mirror_stands_in_for_a_damaged_pack)
{
    struct world w;

    world_begin(&w);
    damage(&w);
    add_spec(&w, "dir:", w.mirror);
    open_sources(&w);
    for (unsigned round = 0; round < 3; round++) {
        for (size_t i = 0; i < 3; i++)
            expect_chunk(&w, i);
    }
    ASSERT_EQ(w.stood_in, 1u); /* told once */
    ASSERT_TRUE(strstr(w.stand_in, w.mirror));
    ASSERT_TRUE(stats_of(&w, 0).failure_count > 0);
    world_end(&w);
}

TEST(pieces_of_a_chunk_are_fetched_once)
{
    struct world w;

    world_begin(&w);
    damage(&w);
    add_spec(&w, "dir:", w.mirror);
    open_sources(&w);
    expect_chunk(&w, 1);
    ASSERT_EQ(unlink(mirror_path(&w, "dir/file")), 0);
    expect_chunk(&w, 1);
    ASSERT_TRUE(expect_failure(&w, 0) < 0);
    world_end(&w);
}

TEST(when_all_fail_the_first_is_told_and_what_the_others_said)
{
    struct world w;

    world_begin(&w);
    damage(&w);
    add_spec(&w, "dir:", w.mirror);
    add_spec(&w, "exec:", "read -r line; echo 'error not mine'");
    open_sources(&w);
    ASSERT_EQ(unlink(mirror_path(&w, "dir/file")), 0);
    int r = expect_failure(&w, 0);
    ASSERT_EQ(error_class(r), EBADMSG);
    ASSERT_TRUE(!source_may_come_back(r));
    expect_words(r, "pack");
    expect_words(r, "dir/file");
    expect_words(r, "not mine");
    world_end(&w);
}

TEST(what_may_come_back_is_worth_a_retry)
{
    struct world w;

    world_begin(&w);
    damage(&w);
    add_spec(&w, "exec:", "while read -r line; do echo 'later tape is being changed'; done");
    add_spec(&w, "dir:", w.mirror);
    open_sources(&w);
    ASSERT_EQ(unlink(mirror_path(&w, "dir/file")), 0);
    int r = expect_failure(&w, 0);
    ASSERT_TRUE(source_may_come_back(r));
    expect_words(r, "tape is being changed");
    world_end(&w);
}

TEST(a_part_beyond_the_chunk_is_refused)
{
    struct chunk_ref ref;
    struct world w;
    uint8_t byte;

    world_begin(&w);
    open_sources(&w);
    ref = w.file->extents.items[0].chunk;
    ASSERT_ERR(source_read(w.reader, w.file, 0, &ref, MADE_CHUNK_LEN, &byte, 1), -EINVAL);
    ref.len = UINT32_MAX;
    ASSERT_ERR(source_read(w.reader, w.file, 0, &ref, 0, &byte, 1), -EINVAL);
    world_end(&w);
}

TEST(bad_specs_are_refused)
{
    static const char *const bad[] = {
        "", "dir:", "dir:relative", "exec:", "http://x", "repository", "Repo", "dir"};

    for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
        struct world w;
        world_begin(&w);
        add_spec(&w, "", bad[i]);
        ASSERT_ERR(try_open(&w, true, -1), -EINVAL);
        world_end(&w);
    }
}

/* ---- directories ---- */

TEST(a_stale_mirror_yields_no_wrong_byte)
{
    struct world w;

    world_begin(&w);
    damage(&w);
    w.want[2 * MADE_CHUNK_LEN + 50] ^= 1;
    write_file(mirror_path(&w, "dir/file"), w.want, FILE_LEN);
    add_spec(&w, "dir:", w.mirror);
    open_sources(&w);
    expect_chunk(&w, 0);
    int r = expect_failure(&w, 2);
    ASSERT_TRUE(!source_may_come_back(r));
    expect_words(r, "other contents");
    expect_chunk(&w, 1); /* and the chunk that was wrong is not kept for right */
    ASSERT_TRUE(expect_failure(&w, 2) < 0);
    world_end(&w);
}

TEST(a_stale_mirror_gives_way_to_the_next)
{
    struct world w;
    char old[4200];

    world_begin(&w);
    damage(&w);
    (void)snprintf(old, sizeof(old), "%s/old", w.made.around);
    ASSERT_EQ(mkdir(old, 0755), 0);
    add_spec(&w, "dir:", old);
    add_spec(&w, "dir:", w.mirror);
    open_sources(&w);
    (void)snprintf(old, sizeof(old), "%s/old/dir", w.made.around);
    ASSERT_EQ(mkdir(old, 0755), 0);
    (void)snprintf(old, sizeof(old), "%s/old/dir/file", w.made.around);
    write_file(old, w.mirror, 100);
    for (size_t i = 0; i < 3; i++)
        expect_chunk(&w, i);
    ASSERT_EQ(stats_of(&w, 1).failure_count, 3u);
    ASSERT_EQ(stats_of(&w, 2).read_bytes, 15000u);
    world_end(&w);
}

static void expect_no_chunk(struct world *w, const char *words)
{
    int r = expect_failure(w, 0);
    ASSERT_TRUE(!source_may_come_back(r));
    expect_words(r, words);
}

TEST(a_mirror_is_only_looked_at_where_it_does_no_harm)
{
    struct world w;
    const char *path;

    world_begin(&w);
    damage(&w);
    add_spec(&w, "dir:", w.mirror);
    open_sources(&w);
    path = mirror_path(&w, "dir/file");
    ASSERT_EQ(truncate(path, 10), 0);
    expect_no_chunk(&w, "too short");
    ASSERT_EQ(unlink(path), 0);
    expect_no_chunk(&w, "No such file");
    ASSERT_EQ(mkfifo(path, 0644), 0); /* nobody ever writes to it */
    expect_no_chunk(&w, "no regular file");
    ASSERT_EQ(unlink(path), 0);
    ASSERT_EQ(mkdir(path, 0755), 0);
    expect_no_chunk(&w, "no regular file");
    ASSERT_EQ(rmdir(path), 0);

    write_file(mirror_path(&w, "../outside"), w.want, FILE_LEN);
    ASSERT_EQ(symlink("../../outside", path), 0);
    expect_no_chunk(&w, "");
    ASSERT_EQ(unlink(path), 0);
    write_file(mirror_path(&w, "inside"), w.want, FILE_LEN);
    ASSERT_EQ(symlink("../inside", path), 0);
    expect_chunk(&w, 0); /* what is inside is fine */
    world_end(&w);
}

TEST(a_mirror_on_the_restored_volume_is_refused)
{
    struct world w;

    world_begin(&w);
    CLEANUP_CLOSE int fd = open(w.made.around, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    add_spec(&w, "dir:", w.mirror);
    int r = try_open(&w, false, fd);
    ASSERT_ERR(r, -EINVAL);
    expect_words(r, "file system that is restored");
    world_end(&w);
}

TEST(a_mirror_that_is_absent)
{
    struct world w;
    char away[4200];

    world_begin(&w);
    damage(&w);
    (void)snprintf(away, sizeof(away), "%s/away", w.made.around);
    ASSERT_EQ(rename(w.mirror, away), 0);
    add_spec(&w, "dir:", w.mirror);
    ASSERT_ERR(try_open(&w, false, -1), -ENOENT);
    ASSERT_OK(try_open(&w, true, -1));
    int r = expect_failure(&w, 0);
    ASSERT_TRUE(source_may_come_back(r));
    expect_words(r, "absent");
    ASSERT_EQ(rename(away, w.mirror), 0);
    for (unsigned i = 0; i < 80 && r < 0; i++) { /* it is looked for every few seconds */
        uint8_t got[5000];
        const struct timespec a_while = {.tv_nsec = 100000000};
        (void)nanosleep(&a_while, NULL);
        r = read_chunk(&w, 0, got);
    }
    ASSERT_OK(r);
    expect_chunk(&w, 0);
    world_end(&w);
}

TEST(paths_of_any_length)
{
    struct made m;
    struct string_vector specs = {0};
    struct source_set *set = NULL;
    struct source_reader *reader = NULL;
    struct frame_cache *frames = NULL;
    CLEANUP(buffer_release) struct buffer path = {0};
    char name[201], got[5];

    made_init(&m);
    memset(name, 'n', 200);
    name[200] = '\0';
    CLEANUP_CLOSE int fd = open(m.around, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (unsigned i = 0; i < 30; i++) { /* 6000 bytes */
        ASSERT_EQ(mkdirat(fd, name, 0755), 0);
        int next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ASSERT_TRUE(next >= 0);
        (void)close(fd);
        fd = next;
        buffer_put(&path, name, 200);
        buffer_put(&path, "/", 1);
    }
    int file = openat(fd, "leaf", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    ASSERT_EQ(write(file, "hello", 5), 5);
    (void)close(file);
    buffer_put(&path, "leaf", 5);
    ASSERT_OK(buffer_finish(&path));
    struct entry *e = made_text(&m, (const char *)path.data, "hello");
    made_finish(&m, "", NULL);
    made_damage(&m, &e->extents.items[0].chunk);
    ASSERT_OK(frame_cache_new(m.repo, FRAME_ROOM, &frames));
    char spec[4200];
    (void)snprintf(spec, sizeof(spec), "dir:%s", m.around);
    ASSERT_OK(string_vector_add(&specs, spec));
    const struct source_options options = {
        .repo = m.repo, .frames = frames, .specs = &specs, .base = "", .volume_fd = -1};
    ASSERT_OK(source_set_new(&options, &set));
    ASSERT_OK(source_reader_new(set, &reader));
    ASSERT_OK(source_read(reader, e, 0, &e->extents.items[0].chunk, 0, got, 5));
    ASSERT_MEMEQ(got, "hello", 5);
    source_reader_free(reader);
    source_set_free(set);
    frame_cache_free(frames);
    string_vector_release_all(&specs);
    made_release(&m);
}

/* ---- commands ---- */

/* A shell script that knows $M, the mirror. */
static void open_command(struct world *w, const char *script)
{
    char text[8192];

    damage(w);
    ASSERT_TRUE((size_t)snprintf(text, sizeof(text), "M='%s'; %s", w->mirror, script) <
                sizeof(text));
    add_spec(w, "exec:", text);
    open_sources(w);
}

#define ANSWER_ONE                                           \
    "read -r op size offset len path || exit 0; "            \
    "echo \"$op $size $offset $len $path\" >>\"$M/asked\"; " \
    "echo \"ok $len\"; tail -c \"+$((offset + 1))\" \"$M/$path\" | head -c \"$len\"; "
#define COUNT_STARTS "echo $$ >>\"$M/starts\"; "

static size_t count_lines(const char *path)
{
    char text[4096] = "";
    size_t count = 0;

    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text));
    for (ssize_t i = 0; i < n; i++)
        count += text[i] == '\n';
    return count;
}

TEST(a_command_is_asked_line_by_line)
{
    struct world w;
    char text[256] = "";

    world_begin(&w);
    open_command(&w, COUNT_STARTS "while :; do " ANSWER_ONE "done");
    for (unsigned round = 0; round < 3; round++) {
        for (size_t i = 0; i < 3; i++)
            expect_chunk(&w, i);
    }
    ASSERT_EQ(count_lines(mirror_path(&w, "starts")), 1u);
    CLEANUP_CLOSE int fd = open(mirror_path(&w, "asked"), O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(read(fd, text, sizeof(text) - 1) > 0);
    text[strcspn(text, "\n")] = '\0';
    ASSERT_STREQ(text, "read 196608 0 65536 dir/file");
    world_end(&w);
}

TEST(a_command_that_ends_is_started_again)
{
    struct world w;

    world_begin(&w);
    open_command(&w, COUNT_STARTS ANSWER_ONE);
    for (size_t i = 0; i < 3; i++)
        expect_chunk(&w, i);
    ASSERT_EQ(count_lines(mirror_path(&w, "starts")), 3u);
    world_end(&w);
}

TEST(a_command_that_never_works_is_not_started_all_the_time)
{
    struct world w;

    world_begin(&w);
    open_command(&w, COUNT_STARTS "exit 3");
    int r = expect_failure(&w, 0);
    ASSERT_TRUE(source_may_come_back(r));
    expect_words(r, "status 3");
    for (unsigned i = 0; i < 20; i++)
        ASSERT_TRUE(source_may_come_back(expect_failure(&w, 0)));
    ASSERT_LE(count_lines(mirror_path(&w, "starts")), 2u);
    world_end(&w);
}

TEST(a_command_that_is_not_there)
{
    struct world w;

    world_begin(&w);
    damage(&w);
    add_spec(&w, "exec:", "/nonexistent/command");
    open_sources(&w);
    int r = expect_failure(&w, 0);
    ASSERT_TRUE(!source_may_come_back(r));
    expect_words(r, "cannot be run");
    world_end(&w);
}

static uint64_t now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* And not a zombie that nobody has waited for yet. */
static bool is_alive(const char *pid_path)
{
    char text[32] = "", exe[64], target[8];

    CLEANUP_CLOSE int fd = open(pid_path, O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(read(fd, text, sizeof(text) - 1) > 0);
    (void)snprintf(exe, sizeof(exe), "/proc/%ld/exe", strtol(text, NULL, 10));
    return readlink(exe, target, sizeof(target)) >= 0;
}

static void expect_time_out(const char *script)
{
    struct world w;

    world_begin(&w);
    open_command(&w, script);
    uint64_t begun_ms = now_ms();
    int r = expect_failure(&w, 0);
    ASSERT_TRUE(source_may_come_back(r));
    expect_words(r, "in time");
    ASSERT_GE(now_ms() - begun_ms, ANSWER_MS);
    ASSERT_LT(now_ms() - begun_ms, 10 * ANSWER_MS);
    /* with everything it has started */
    for (unsigned i = 0; i < 100 && is_alive(mirror_path(&w, "child")); i++)
        (void)usleep(10000);
    ASSERT_TRUE(!is_alive(mirror_path(&w, "child")));
    world_end(&w);
}

TEST(a_command_that_is_too_slow_is_killed)
{
    expect_time_out("sleep 1000 & echo $! >\"$M/child\"; wait");
}

TEST(a_command_that_stops_in_the_middle_is_killed)
{
    expect_time_out("read -r line; echo 'ok 65536'; echo some; "
                    "sleep 1000 & echo $! >\"$M/child\"; wait");
}

TEST(a_command_that_drips_is_killed)
{
    expect_time_out("read -r line; echo 'ok 65536'; sleep 1000 & echo $! >\"$M/child\"; "
                    "while echo x; do sleep 0.05; done");
}

TEST(a_command_that_lies_yields_no_wrong_byte)
{
    struct world w;

    world_begin(&w);
    open_command(&w, "while read -r op size offset len path; do "
                     "echo \"ok $len\"; head -c \"$len\" /dev/zero; done");
    int r = expect_failure(&w, 0);
    ASSERT_TRUE(!source_may_come_back(r));
    expect_words(r, "other contents");
    ASSERT_TRUE(expect_failure(&w, 1) < 0);
    world_end(&w);
}

TEST(a_command_that_breaks_the_protocol_is_started_afresh)
{
    static const char *const breaches[] = {
        "echo hello; cat >/dev/null",
        "echo 'ok 65537'; cat /dev/zero",
        "echo 'ok 1'; echo more; cat >/dev/null",
        "echo 'ok 65536'; cat /dev/zero",
        "head -c 100000 /dev/zero | tr '\\0' 'o'; cat >/dev/null",
    };

    for (size_t i = 0; i < ELEMENTSOF(breaches); i++) {
        struct world w;
        char script[1024];
        world_begin(&w);
        (void)snprintf(script, sizeof(script),
                       "if [ -e \"$M/starts\" ]; then while :; do " ANSWER_ONE
                       "done; fi; " COUNT_STARTS "read -r line; %s",
                       breaches[i]);
        open_command(&w, script);
        int r = expect_failure(&w, 0);
        ASSERT_TRUE(!source_may_come_back(r));
        (void)usleep(1100000); /* its rest */
        expect_chunk(&w, 0);
        world_end(&w);
    }
}

TEST(a_command_that_has_less_than_the_file)
{
    struct world w;

    world_begin(&w);
    open_command(&w, COUNT_STARTS "while read -r line; do echo 'ok 4'; printf abcd; done");
    expect_no_chunk(&w, "too short");
    expect_no_chunk(&w, "too short");
    ASSERT_EQ(count_lines(mirror_path(&w, "starts")), 1u); /* that is an answer like others */
    world_end(&w);
}

TEST(a_command_that_speaks_unasked_is_not_believed)
{
    struct world w;

    world_begin(&w);
    open_command(&w, "if [ -e \"$M/starts\" ]; then while :; do " ANSWER_ONE
                     "done; fi; " COUNT_STARTS ANSWER_ONE
                     "sleep 0.1; echo 'error not mine'; cat >/dev/null");
    expect_chunk(&w, 0);
    (void)usleep(500000);
    expect_chunk(&w, 1);
    world_end(&w);
}

TEST(a_command_gets_none_of_our_descriptors_and_no_passphrase)
{
    struct world w;
    char text[4096] = "";

    world_begin(&w);
    ASSERT_EQ(setenv("UMBRA_PASSWORD", "secret", 1), 0);
    int extra = open("/dev/null", O_RDONLY); /* without O_CLOEXEC */
    ASSERT_TRUE(extra > 2 && extra < 10);
    open_command(&w, "{ echo \"password=$UMBRA_PASSWORD version=$UMBRA_SOURCE_PROTOCOL\"; "
                     "ls -1 /proc/$$/fd; } >\"$M/seen\"; " ANSWER_ONE);
    expect_chunk(&w, 0);
    (void)close(extra);
    CLEANUP_CLOSE int fd = open(mirror_path(&w, "seen"), O_RDONLY | O_CLOEXEC);
    ASSERT_TRUE(read(fd, text, sizeof(text) - 1) > 0);
    ASSERT_TRUE(strncmp(text, "password= version=1\n", 20) == 0);
    for (char *line = text + 20; *line; line = strchr(line, '\n') + 1) {
        long number = strtol(line, NULL, 10);
        ASSERT_TRUE(number <= 2 || number >= 10); /* those are the shell's own */
    }
    ASSERT_EQ(unsetenv("UMBRA_PASSWORD"), 0);
    world_end(&w);
}

/* ---- many threads ---- */

static void *read_all_chunks(void *data)
{
    struct world *w = data;
    struct source_reader *reader = NULL;
    uint8_t got[100];

    ASSERT_OK(source_reader_new(w->set, &reader));
    for (size_t i = 0; i < 60; i++) {
        size_t at = i % 3;
        ASSERT_OK(source_read(reader, w->file, at * MADE_CHUNK_LEN,
                              &w->file->extents.items[at].chunk, (uint32_t)i, got, sizeof(got)));
        ASSERT_MEMEQ(got, w->want + at * MADE_CHUNK_LEN + i, sizeof(got));
    }
    source_reader_free(reader);
    return NULL;
}

TEST(each_thread_has_a_reader)
{
    pthread_t threads[4];
    struct world w;

    world_begin(&w);
    damage(&w);
    add_spec(&w, "exec:", "while read -r line; do echo 'error no'; done");
    add_spec(&w, "dir:", w.mirror);
    open_sources(&w);
    for (size_t i = 0; i < ELEMENTSOF(threads); i++)
        ASSERT_EQ(pthread_create(&threads[i], NULL, read_all_chunks, &w), 0);
    for (size_t i = 0; i < ELEMENTSOF(threads); i++)
        ASSERT_EQ(pthread_join(threads[i], NULL), 0);
    ASSERT_EQ(w.stood_in, 1u);
    world_end(&w);
}

/* ---- where a path is below the target ---- */

TEST(the_base_is_what_becomes_the_target)
{
    static const struct {
        const char *subpath, *roots[3], *base;
    } cases[] = {
        {NULL, {"/srv/www"}, "srv/www"},
        {NULL, {"/"}, ""},
        {NULL, {"/srv", "/etc"}, ""},
        {"/srv//www/./x/", {"/srv"}, "srv/www/x"},
    };

    for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
        struct string_vector roots = {0};
        CLEANUP_FREE char *base = NULL;
        for (size_t j = 0; cases[i].roots[j]; j++)
            ASSERT_OK(string_vector_add(&roots, cases[i].roots[j]));
        ASSERT_OK(restore_find_base(cases[i].subpath, &roots, &base));
        ASSERT_STREQ(base, cases[i].base);
        string_vector_release_all(&roots);
    }
}

TEST_MAIN()
