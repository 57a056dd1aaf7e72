/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal of an interrupted backup. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "basic/test.h"
#include "repo/session-format.h"
#include "repo/session-private.h"
#include "tree/key.h"

#define PASSPHRASE "journal"

static const char *const roots[] = {"/srv"};

static struct repository *open_repository(const char *path, bool create)
{
    struct backend *backend;
    struct repository *repo;
    struct repo_init_options options = {.key_cost = key_cost_minimal};
    ASSERT_OK(backend_open(path, create, &backend));
    if (create)
        ASSERT_OK(repository_init(backend, PASSPHRASE, strlen(PASSPHRASE), &options, &repo));
    else
        ASSERT_OK(repository_open(backend, PASSPHRASE, strlen(PASSPHRASE), "", &repo));
    return repo;
}

static void make_entry(const char *name, uint64_t inode, struct entry *ret_entry)
{
    CLEANUP(buffer_release) struct buffer key = {0};
    key_put(&key, "srv", 3, name, strlen(name));
    *ret_entry = (struct entry){.type = ENTRY_REGULAR, .mode = 0644, .nlink = 1, .inode = inode};
    ret_entry->key_len = (uint32_t)key.len;
    ret_entry->key = TAKE_PTR(key.data);
}

static void journal(struct session *session, const char *const *names, size_t count, uint64_t inode)
{
    struct entry entries[8];
    const struct entry *pointers[8];
    for (size_t i = 0; i < count; i++) {
        make_entry(names[i], inode + i, &entries[i]);
        pointers[i] = &entries[i];
    }
    ASSERT_OK(session_journal(session, pointers, count));
    for (size_t i = 0; i < count; i++)
        entry_release(&entries[i]);
}

/* In a process of its own, which is then dead. */
static void journal_and_die(const char *path)
{
    pid_t pid = fork();
    ASSERT_TRUE(pid >= 0);
    if (pid == 0) {
        struct repository *repo = open_repository(path, false);
        struct session *session;
        static const char *const first[] = {"a", "c", "m"};
        static const char *const second[] = {"b", "d", "z"};
        ASSERT_OK(session_new(repo, "host", roots, 1, 1000, &session));
        journal(session, first, 3, 100);
        journal(session, second, 3, 200);
        _exit(0);
    }
    int status;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_EQ(status, 0);
}

static uint64_t find_inode(struct session *session, const char *name)
{
    struct entry key_only;
    struct entry *found;
    int64_t start_ns = 0;
    make_entry(name, 0, &key_only);
    ASSERT_OK(session_find(session, key_only.key, key_only.key_len, &found, &start_ns));
    entry_release(&key_only);
    if (!found)
        return 0;
    ASSERT_EQ(start_ns, 1000);
    return found->inode;
}

static int count_object(const char *name _unused_, uint64_t size_bytes _unused_, void *userdata)
{
    (*(unsigned *)userdata)++;
    return 0;
}

static unsigned session_objects(struct repository *repo)
{
    unsigned count = 0;
    ASSERT_OK(backend_list(repo->backend, "sessions/", count_object, &count));
    return count;
}

static unsigned session_directories(const char *repo_path)
{
    char command[8192], count[32] = "";
    (void)snprintf(command, sizeof(command), "find '%s/sessions' -mindepth 1 -type d | wc -l",
                   repo_path);
    FILE *out = popen(command, "re");
    ASSERT_TRUE(out != NULL);
    ASSERT_TRUE(fgets(count, sizeof(count), out) != NULL);
    ASSERT_EQ(pclose(out), 0);
    return (unsigned)strtoul(count, NULL, 10);
}

TEST(dead_session_is_taken_over)
{
    char path[4096];
    struct session *session;
    (void)snprintf(path, sizeof(path), "%s/taken", test_tmpdir());
    struct repository *repo = open_repository(path, true);
    journal_and_die(path);
    ASSERT_EQ(session_objects(repo), 2);

    ASSERT_OK(session_new(repo, "host", roots, 1, 5000, &session));
    ASSERT_OK(session_adopt(session));
    ASSERT_EQ(find_inode(session, "a"), 100);
    ASSERT_EQ(find_inode(session, "b"), 200);
    ASSERT_EQ(find_inode(session, "c"), 101);
    ASSERT_EQ(find_inode(session, "k"), 0);
    ASSERT_EQ(find_inode(session, "m"), 102);
    ASSERT_EQ(find_inode(session, "z"), 202);
    session_remove_all(session);
    session_free(session);
    ASSERT_EQ(session_objects(repo), 0);
    ASSERT_EQ(session_directories(path), 0);
    repository_free(repo);
}

TEST(others_are_left_alone)
{
    char path[4096];
    struct session *session;
    (void)snprintf(path, sizeof(path), "%s/others", test_tmpdir());
    struct repository *repo = open_repository(path, true);
    journal_and_die(path);
    ASSERT_OK(session_new(repo, "another host", roots, 1, 5000, &session));
    ASSERT_OK(session_adopt(session));
    ASSERT_EQ(find_inode(session, "a"), 0);
    session_remove_all(session);
    session_free(session);
    ASSERT_EQ(session_objects(repo), 2);
    repository_free(repo);
}

/* $f is the session's first object. */
static void damage_first_object(const char *path, const char *how)
{
    char command[8192];
    (void)snprintf(command, sizeof(command),
                   "f=$(find '%s/sessions' -type f | sort | head -n 1); chmod u+w \"$f\"; %s", path,
                   how);
    ASSERT_EQ(system(command), 0);
}

#define FLIP "printf X | dd of=\"$f\" bs=1 seek=100 conv=notrunc status=none"

TEST(damaged_object_is_left_out)
{
    char path[4096];
    struct session *session;
    (void)snprintf(path, sizeof(path), "%s/damaged", test_tmpdir());
    struct repository *repo = open_repository(path, true);
    journal_and_die(path);
    damage_first_object(path, FLIP);
    ASSERT_OK(session_new(repo, "host", roots, 1, 5000, &session));
    ASSERT_OK(session_adopt(session));
    ASSERT_EQ(find_inode(session, "a"), 0);
    ASSERT_EQ(find_inode(session, "b"), 200);
    session_free(session);
    ASSERT_EQ(session_objects(repo), 2); /* without a commit all stays */
    repository_free(repo);
}

/* Of whichever host: nobody can use it, and nobody could tell. */
TEST(useless_objects_are_removed)
{
    static const char *const ways[] = {FLIP, "truncate -s 10 \"$f\"", ": >\"$f\"",
                                       "truncate -s 300M \"$f\""};
    for (size_t i = 0; i < ELEMENTSOF(ways); i++) {
        char path[4096];
        struct session *session;
        (void)snprintf(path, sizeof(path), "%s/useless-%zu", test_tmpdir(), i);
        struct repository *repo = open_repository(path, true);
        journal_and_die(path);
        damage_first_object(path, ways[i]);
        ASSERT_OK(session_new(repo, "another host", roots, 1, 5000, &session));
        ASSERT_OK(session_adopt(session));
        session_remove_all(session);
        session_free(session);
        ASSERT_EQ(session_objects(repo), 1);
        ASSERT_EQ(session_directories(path), 1);

        ASSERT_OK(session_new(repo, "host", roots, 1, 5000, &session));
        ASSERT_OK(session_adopt(session));
        ASSERT_EQ(find_inode(session, "a"), 0);
        ASSERT_EQ(find_inode(session, "b"), 200);
        session_remove_all(session);
        session_free(session);
        ASSERT_EQ(session_objects(repo), 0);
        ASSERT_EQ(session_directories(path), 0);
        repository_free(repo);
    }
}

TEST(newer_version_is_left_alone)
{
    char path[4096];
    struct session *session;
    (void)snprintf(path, sizeof(path), "%s/newer", test_tmpdir());
    struct repository *repo = open_repository(path, true);
    journal_and_die(path);
    damage_first_object(path, "printf '\\002' | dd of=\"$f\" bs=1 seek=8 conv=notrunc status=none");
    ASSERT_OK(session_new(repo, "host", roots, 1, 5000, &session));
    ASSERT_OK(session_adopt(session));
    session_remove_all(session);
    session_free(session);
    ASSERT_EQ(session_objects(repo), 1);
    repository_free(repo);
}

#define ENTRIES_MAX 64u
#define LIMIT       2000u

/* Entries 00 to 63, of which some are too large for any object. */
static void journal_much_and_die(const char *path)
{
    pid_t pid = fork();
    ASSERT_TRUE(pid >= 0);
    if (pid == 0) {
        struct repository *repo = open_repository(path, false);
        struct session *session;
        struct entry entries[ENTRIES_MAX];
        const struct entry *pointers[ENTRIES_MAX];
        for (unsigned i = 0; i < ENTRIES_MAX; i++) {
            char name[256] = "";
            (void)snprintf(name, sizeof(name), "%02u", i);
            make_entry(name, 1000 + i, &entries[i]);
            if (i % 20 == 7) {
                entries[i].type = ENTRY_SYMLINK;
                entries[i].symlink = malloc(LIMIT + 1);
                ASSERT_TRUE(entries[i].symlink != NULL);
                for (unsigned j = 0; j < LIMIT; j++)
                    entries[i].symlink[j] = (char)('a' + (i * j) % 23);
                entries[i].symlink[LIMIT] = '\0';
            }
            pointers[i] = &entries[i];
        }
        ASSERT_OK(session_new(repo, "host", roots, 1, 1000, &session));
        ASSERT_OK(session_journal_limited(session, pointers, ENTRIES_MAX, LIMIT));
        _exit(0);
    }
    int status;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_EQ(status, 0);
}

static int check_object_len(const char *name _unused_, uint64_t size_bytes, void *userdata _unused_)
{
    ASSERT_LE(size_bytes, LIMIT);
    return 0;
}

TEST(long_journals_are_split)
{
    char path[4096];
    char name[8];
    struct session *session;
    (void)snprintf(path, sizeof(path), "%s/split", test_tmpdir());
    struct repository *repo = open_repository(path, true);
    journal_much_and_die(path);
    ASSERT_GT(session_objects(repo), 2);
    ASSERT_OK(backend_list(repo->backend, "sessions/", check_object_len, NULL));

    ASSERT_OK(session_new(repo, "host", roots, 1, 5000, &session));
    ASSERT_OK(session_adopt(session));
    for (unsigned i = 0; i < ENTRIES_MAX; i++) {
        (void)snprintf(name, sizeof(name), "%02u", i);
        ASSERT_EQ(find_inode(session, name), i % 20 == 7 ? 0 : 1000 + i);
    }
    session_remove_all(session);
    session_free(session);
    ASSERT_EQ(session_objects(repo), 0);
    repository_free(repo);
}

TEST_MAIN()
