/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "control/control.h"
#include "restore/instant-private.h"

#define BACKUP_ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static char dir[4200], target[4200];

static void make_place(const char *name)
{
    (void)snprintf(dir, sizeof(dir), "%s/%s/lib/restores", test_tmpdir(), name);
    (void)snprintf(target, sizeof(target), "%s/%s", test_tmpdir(), name);
    ASSERT_EQ(mkdir(target, 0700), 0);
    (void)snprintf(target, sizeof(target), "%s/%s/target\xff", test_tmpdir(), name);
    ASSERT_EQ(mkdir(target, 0700), 0);
}

static struct instant_config make_config(uint64_t id)
{
    static char repo[] = "/repo", backup[] = BACKUP_ID, cache[] = "/cache";
    return (struct instant_config){.restore_id = id,
                                   .cache_dir = cache,
                                   .repo_url = repo,
                                   .backup_id = backup,
                                   .target = target,
                                   .deadline_s = 1};
}

static void write_note(uint64_t id)
{
    struct instant_config config = make_config(id);
    ASSERT_OK(string_vector_add(&config.sources, "exec:fetch"));
    ASSERT_OK(instant_note_write_in(dir, &config, "/pass"));
    string_vector_release_all(&config.sources);
}

TEST(a_note_comes_back)
{
    CLEANUP(instant_note_release) struct instant_note note = {0};
    struct instant_note none;
    make_place("back");
    write_note(0x77);
    ASSERT_OK(instant_note_read_in(dir, 0x77, &note));
    ASSERT_EQ(note.restore_id, 0x77);
    ASSERT_STREQ(note.target, target);
    ASSERT_STREQ(note.cache_dir, "/cache");
    ASSERT_STREQ(note.repo_url, "/repo");
    ASSERT_STREQ(note.password_file, "/pass");
    ASSERT_TRUE(strncmp(target, note.mount_point, strlen(note.mount_point)) == 0);
    ASSERT_EQ(note.sources.count, 1);
    ASSERT_STREQ(note.sources.items[0], "exec:fetch");
    ASSERT_ERR(instant_note_read_in(dir, 0x78, &none), -ENOENT);
}

TEST(notes_are_private)
{
    struct stat st;
    char path[4300];
    make_place("private");
    write_note(0x77);
    ASSERT_EQ(stat(dir, &st), 0);
    ASSERT_EQ(st.st_mode & 07777, 0700);
    (void)snprintf(path, sizeof(path), "%s/0000000000000077.json", dir);
    ASSERT_EQ(stat(path, &st), 0);
    ASSERT_EQ(st.st_mode & 077, 0);
}

static void list(struct instant_note_vector *ret_notes)
{
    CLEANUP(instant_id_vector_release) struct instant_id_vector unreadable = {0};
    ASSERT_OK(instant_note_list_in(dir, ret_notes, &unreadable));
    ASSERT_EQ(unreadable.count, 0);
}

TEST(notes_are_listed_and_removed)
{
    CLEANUP(instant_note_vector_release_all) struct instant_note_vector all = {0};
    CLEANUP(instant_note_vector_release_all) struct instant_note_vector rest = {0};
    CLEANUP(instant_note_vector_release_all) struct instant_note_vector before = {0};
    make_place("listed");
    list(&before);
    ASSERT_EQ(before.count, 0);
    ASSERT_OK(instant_note_remove_in(dir, 3));
    write_note(2);
    write_note(1);
    write_note(2);
    list(&all);
    ASSERT_EQ(all.count, 2);
    ASSERT_EQ(all.items[0].restore_id, 1);
    ASSERT_EQ(all.items[1].restore_id, 2);
    ASSERT_OK(instant_note_remove_in(dir, 1));
    ASSERT_OK(instant_note_remove_in(dir, 1));
    list(&rest);
    ASSERT_EQ(rest.count, 1);
    ASSERT_EQ(rest.items[0].restore_id, 2);
}

static void write_raw(const char *name, const char *text)
{
    char path[4300];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    CLEANUP_CLOSE int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, text, strlen(text)), strlen(text));
}

TEST(damaged_notes_do_not_hide_the_others)
{
    CLEANUP(instant_note_vector_release_all) struct instant_note_vector all = {0};
    CLEANUP(instant_id_vector_release) struct instant_id_vector unreadable = {0};
    uint64_t sum = 0;
    make_place("damaged");
    write_note(5);
    write_raw("0000000000000006.json", "{");
    write_raw("0000000000000007.json", "{\"version\":1,\"restore\":\"0000000000000007\"}");
    write_raw("0000000000000008.json",
              "{\"version\":2,\"restore\":\"0000000000000008\",\"target\":\"/\"}");
    write_raw("0000000000000009.json",
              "{\"version\":1,\"restore\":\"0000000000000005\",\"target\":\"/\"}");
    write_raw("tmp-1", "");
    write_raw("000000000000000x.json", "{");
    ASSERT_OK(instant_note_list_in(dir, &all, &unreadable));
    ASSERT_EQ(all.count, 1);
    ASSERT_EQ(all.items[0].restore_id, 5);
    ASSERT_EQ(unreadable.count, 4);
    for (size_t i = 0; i < unreadable.count; i++)
        sum |= UINT64_C(1) << unreadable.items[i];
    ASSERT_EQ(sum, 0x3c0); /* 6 to 9 */
}

static enum instant_note_state look(uint64_t id)
{
    CLEANUP(instant_note_release) struct instant_note note = {0};
    enum instant_note_state state = INSTANT_NOTE_AWAY;
    ASSERT_OK(instant_note_read_in(dir, id, &note));
    ASSERT_OK(instant_note_look(&note, &state));
    return state;
}

/* As the hydrator does. */
static void put_record(uint64_t id)
{
    CLEANUP_FREE char *text = NULL;
    struct instant_config config = make_config(id);
    ASSERT_OK(instant_config_to_json(&config, false, &text));
    if (setxattr(target, INSTANT_XATTR, text, strlen(text), 0) < 0)
        test_skip("no trusted attributes here");
}

TEST(the_target_says_whether_a_restore_goes_on)
{
    CLEANUP(instant_config_release) struct instant_config record = {0};
    struct instant_config none;
    make_place("target");
    write_note(9);
    ASSERT_EQ(look(9), INSTANT_NOTE_STALE);
    ASSERT_ERR(instant_record_read(target, &none), -ENODATA);
    put_record(9);
    ASSERT_EQ(look(9), INSTANT_NOTE_UNFINISHED);
    ASSERT_OK(instant_record_read(target, &record));
    ASSERT_EQ(record.restore_id, 9);
    put_record(10);
    ASSERT_EQ(look(9), INSTANT_NOTE_STALE);
    ASSERT_EQ(rmdir(target), 0);
    ASSERT_EQ(look(9), INSTANT_NOTE_AWAY);
}

static bool drop(uint64_t id, enum instant_note_state seen)
{
    CLEANUP(instant_note_release) struct instant_note note = {0};
    char sockets[4300];
    bool dropped = false;
    (void)snprintf(sockets, sizeof(sockets), "%s.sockets", target);
    ASSERT_TRUE(mkdir(sockets, 0700) == 0 || errno == EEXIST);
    ASSERT_OK(instant_note_read_in(dir, id, &note));
    ASSERT_OK(instant_note_drop_in(dir, sockets, &note, seen, &dropped));
    return dropped;
}

static int no_answer(const char *request, size_t len, char **ret_response, void *userdata)
{
    (void)request;
    (void)len;
    (void)ret_response;
    (void)userdata;
    return -ENOSYS;
}

TEST(the_note_of_a_restore_that_starts_is_left)
{
    int first = -EBADF, second = -EBADF;
    make_place("held");
    ASSERT_OK(instant_note_hold_in(dir, &first));
    ASSERT_OK(instant_note_hold_in(dir, &second));
    write_note(13);
    ASSERT_TRUE(!drop(13, INSTANT_NOTE_STALE));
    ASSERT_EQ(close(first), 0);
    ASSERT_TRUE(!drop(13, INSTANT_NOTE_STALE));
    ASSERT_EQ(close(second), 0);
    ASSERT_TRUE(drop(13, INSTANT_NOTE_STALE));
}

TEST(the_note_of_a_restore_that_has_started_is_left)
{
    char sockets[4300];
    make_place("started");
    write_note(14);
    (void)snprintf(sockets, sizeof(sockets), "%s.sockets", target);
    ASSERT_EQ(mkdir(sockets, 0700), 0);
    {
        CLEANUP(control_server_stopp) struct control_server *server = NULL;
        ASSERT_OK(control_server_start(sockets, "000000000000000e", no_answer, NULL, &server));
        ASSERT_TRUE(!drop(14, INSTANT_NOTE_STALE));
    }
    ASSERT_TRUE(!drop(14, INSTANT_NOTE_AWAY)); /* as it looked before */
    ASSERT_TRUE(drop(14, INSTANT_NOTE_STALE));
}

/* As somebody does who wants the name for something else. */
TEST(a_directory_in_place_of_the_target_is_not_the_target)
{
    char away[4300];
    make_place("replaced");
    write_note(12);
    (void)snprintf(away, sizeof(away), "%s.away", target);
    ASSERT_EQ(rename(target, away), 0);
    ASSERT_EQ(look(12), INSTANT_NOTE_AWAY);
    ASSERT_EQ(mkdir(target, 0700), 0);
    ASSERT_EQ(look(12), INSTANT_NOTE_REPLACED);
    ASSERT_EQ(rmdir(target), 0);
    ASSERT_EQ(rename(away, target), 0);
    ASSERT_EQ(look(12), INSTANT_NOTE_STALE);
}

TEST(another_file_system_is_not_the_target)
{
    CLEANUP(instant_note_release) struct instant_note note = {0};
    enum instant_note_state state = INSTANT_NOTE_STALE;
    make_place("other");
    write_note(11);
    ASSERT_OK(instant_note_read_in(dir, 11, &note));
    (void)snprintf(note.fs_uuid, sizeof(note.fs_uuid), "00112233445566778899aabbccddeeff");
    ASSERT_OK(instant_note_look(&note, &state));
    ASSERT_EQ(state, INSTANT_NOTE_ELSEWHERE);
}

TEST_MAIN()
