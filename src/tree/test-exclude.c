/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tree/exclude.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "basic/test.h"

static struct exclude_set *set_of(const char *rules)
{
    struct exclude_set *set = NULL;
    ASSERT_OK(exclude_set_new(&set));
    ASSERT_OK(exclude_set_parse(set, rules, strlen(rules), "test"));
    return set;
}

/* Whether path is left out, by itself or with one of its parents. */
static bool excluded(const struct exclude_set *set, const char *path, bool is_directory)
{
    size_t len = strlen(path);
    for (size_t i = 1; i < len; i++)
        if (path[i] == '/' && exclude_set_match(set, path, i, true))
            return true;
    return exclude_set_match(set, path, len, is_directory);
}

TEST(facts_of_the_manual)
{
    static const struct {
        const char *rules;
        const char *path; /* with a '/' at its end: a directory */
        bool excluded;
    } facts[] = {
        {"*.o", "usr/src/a.o", true},
        {"*.o", "usr/src/a.o.c", false},
        {"*.o\n!b.o", "b.o", false},
        {"!b.o\n*.o", "b.o", true},
        {"tmp", "var/tmp/", true},
        {"tmp", "var/tmp/x", true},
        {"/tmp", "var/tmp/", false},
        {"/tmp", "tmp/x", true},
        {"var/tmp", "var/tmp", true},
        {"var/tmp", "x/var/tmp", false},
        {"cache/", "home/u/cache/", true},
        {"cache/", "home/u/cache", false},
        {"/home/*/.cache/", "home/u/.cache/", true},
        {"/home/*/.cache/", "home/u/v/.cache/", false},
        {"**/core", "core", true},
        {"**/core", "a/b/core", true},
        {"a/**", "a/x/y", true},
        {"a/**", "a/", false},
        {"a/**/b", "a/b", true},
        {"a/**/b", "a/x/y/b", true},
        {"a/**/b", "ab", false},
        {"a/x**y", "a/xzzy", true},
        {"b?r", "bar", true},
        {"x/b?r", "x/b/r", false},
        {"x/*r", "x/a/r", false},
        {"[a-c]x", "bx", true},
        {"[!a-c]x", "bx", false},
        {"[^a-c]x", "dx", true},
        {"[]x]", "]", true},
        {"[z-a]", "z", true},
        {"[z-a]", "m", false},
        {"[[:digit:][:upper:]]", "7", true},
        {"[[:digit:][:upper:]]", "Q", true},
        {"[[:digit:][:upper:]]", "q", false},
        {"[a\\]]", "]", true},
        {"a[/]b", "a/b", false},
        {"\\#x", "#x", true},
        {"#x", "#x", false},
        {"\\!x", "!x", true},
        {"\\*", "*", true},
        {"\\*", "a", false},
        {"x  ", "x", true},
        {"x\\ ", "x ", true},
        {"x\\  ", "x ", true},
        {"x\r\ny\r\n", "y", true},
        {"x\r\ny\r\n", "x", true},
        {"\xef\xbb\xbfx", "x", true},
        {"a/\n!a/b", "a/b", true}, /* not below an excluded directory */
        {"a/*\n!a/b", "a/b", false},
        {"/\n!\n", "x", false},
        {"foo//", "foo/", false},
    };
    for (size_t i = 0; i < ELEMENTSOF(facts); i++) {
        CLEANUP(exclude_set_freep) struct exclude_set *set = set_of(facts[i].rules);
        char path[64];
        size_t len = strlen(facts[i].path);
        bool is_directory = facts[i].path[len - 1] == '/';
        memcpy(path, facts[i].path, len + 1);
        if (is_directory)
            path[len - 1] = '\0';
        if (excluded(set, path, is_directory) != facts[i].excluded)
            test_fail(__FILE__, __LINE__, "'%s' on '%s' is not %d", facts[i].rules, facts[i].path,
                      facts[i].excluded);
    }
}

TEST(bad_patterns_are_refused)
{
    static const char *const bad[] = {"",    "[",    "a[b",        "[]",         "[!]",   "x\\",
                                      "a\\", "[a\\", "[[:alpha:]", "[[:oops:]]", "[[::]]"};
    CLEANUP(exclude_set_freep) struct exclude_set *set = NULL;
    ASSERT_OK(exclude_set_new(&set));
    for (size_t i = 0; i < ELEMENTSOF(bad); i++)
        ASSERT_ERR(exclude_set_add(set, bad[i], strlen(bad[i]), "--exclude"), -EINVAL);
    ASSERT_ERR(exclude_set_add(set, "a\0b", 3, "--exclude"), -EINVAL);
    ASSERT_TRUE(exclude_set_empty(set));
    ASSERT_ERR(exclude_set_parse(set, "x\ny[\n", 5, "rules"), -EINVAL);
    ASSERT_TRUE(strstr(error_text(-EINVAL), "rules:2"));
}

TEST(limits_hold)
{
    CLEANUP(exclude_set_freep) struct exclude_set *set = NULL;
    ASSERT_OK(exclude_set_new(&set));
    char pattern[EXCLUDE_PATTERN_MAX + 1];
    memset(pattern, '?', sizeof(pattern));
    ASSERT_ERR(exclude_set_add(set, pattern, sizeof(pattern), "x"), -UMBRA_E_LIMIT);
    ASSERT_OK(exclude_set_add(set, pattern, sizeof(pattern) - 1, "x"));
    ASSERT_TRUE(exclude_set_match(set, pattern, EXCLUDE_PATTERN_MAX, false));
    ASSERT_FALSE(exclude_set_match(set, pattern, EXCLUDE_PATTERN_MAX - 1, false));
    for (size_t i = 1; i < EXCLUDE_RULES_MAX; i++)
        ASSERT_OK(exclude_set_add(set, "x", 1, "x"));
    ASSERT_ERR(exclude_set_add(set, "x", 1, "x"), -UMBRA_E_LIMIT);
}

/* The patterns that bring backtracking matchers down. */
TEST(no_pattern_explodes)
{
    static const char *const pieces[] = {"*a", "**/", "*?", "**/a/", "[ab]*", "?*"};
    static char path[20000];
    for (size_t i = 0; i < sizeof(path); i++)
        path[i] = i % 7 == 3 ? '/' : 'a';
    for (size_t i = 0; i < ELEMENTSOF(pieces); i++) {
        CLEANUP(exclude_set_freep) struct exclude_set *set = NULL;
        ASSERT_OK(exclude_set_new(&set));
        char pattern[2000];
        size_t len = 0, piece_len = strlen(pieces[i]);
        while (len + piece_len + 1 < sizeof(pattern)) {
            memcpy(pattern + len, pieces[i], piece_len);
            len += piece_len;
        }
        pattern[len++] = 'b';
        ASSERT_OK(exclude_set_add(set, pattern, len, "x"));
        clock_t begin = clock();
        ASSERT_FALSE(exclude_set_match(set, path, sizeof(path), false));
        path[sizeof(path) - 1] = 'b';
        (void)exclude_set_match(set, path, sizeof(path), false);
        path[sizeof(path) - 1] = 'a';
        ASSERT_LT((clock() - begin) / CLOCKS_PER_SEC, 20);
    }
}

/* ---- against git ---- */

#define GIT_DIRS_MAX  60
#define GIT_PATHS_MAX 400

struct git_tree {
    char root[256];
    char paths[GIT_PATHS_MAX][128];
    bool is_directory[GIT_PATHS_MAX];
    size_t count;
};

static int run(const char *const *argv, const char *directory, const char *in, const char *out)
{
    posix_spawn_file_actions_t actions;
    ASSERT_EQ(posix_spawn_file_actions_init(&actions), 0);
    ASSERT_EQ(posix_spawn_file_actions_addchdir_np(&actions, directory), 0);
    ASSERT_EQ(posix_spawn_file_actions_addopen(&actions, 0, in, O_RDONLY, 0), 0);
    ASSERT_EQ(
        posix_spawn_file_actions_addopen(&actions, 1, out, O_WRONLY | O_CREAT | O_TRUNC, 0600), 0);
    static const char *const environment[] = {"PATH=/usr/local/bin:/usr/bin:/bin",
                                              "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1",
                                              "LC_ALL=C", NULL};
    pid_t pid;
    int status = -1;
    int e = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv,
                         (char *const *)(uintptr_t)environment);
    (void)posix_spawn_file_actions_destroy(&actions);
    if (e != 0)
        return -e;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -EINTR;
}

static void write_file(const char *directory, const char *name, const char *data, size_t len)
{
    char path[512];
    ASSERT_LT(snprintf(path, sizeof(path), "%s/%s", directory, name), sizeof(path));
    FILE *f = fopen(path, "we");
    ASSERT_TRUE(f);
    ASSERT_EQ(fwrite(data, 1, len, f), len);
    ASSERT_EQ(fclose(f), 0);
}

static void make_tree(struct git_tree *tree, uint64_t *seed)
{
    static const char *const names[] = {"a",  "b",   "c",  "ab", "a.b", "aa", "[a]", "a b", "-",
                                        "b*", "\\a", "!a", "#b", "A",   "c ", "a]",  "b-c", "cab"};
    size_t directories[GIT_DIRS_MAX] = {0}, directory_count = 1; /* 0: the root */
    for (unsigned tries = 0; tries < 2000 && tree->count < GIT_PATHS_MAX; tries++) {
        size_t parent = directories[test_random(seed) % directory_count];
        const char *name = names[test_random(seed) % ELEMENTSOF(names)];
        const char *prefix = parent == 0 ? "" : tree->paths[parent - 1];
        char full[512], *path = tree->paths[tree->count];
        int len = snprintf(path, sizeof(tree->paths[0]), "%s%s%s", prefix, parent ? "/" : "", name);
        if (len < 0 || (size_t)len >= sizeof(tree->paths[0]))
            continue;
        ASSERT_LT(snprintf(full, sizeof(full), "%s/%s", tree->root, path), sizeof(full));
        bool is_directory = directory_count < GIT_DIRS_MAX && test_random(seed) % 3 == 0;
        if (is_directory ? mkdir(full, 0700) != 0 : mknod(full, S_IFREG | 0600, 0) != 0)
            continue;
        tree->is_directory[tree->count++] = is_directory;
        if (is_directory)
            directories[directory_count++] = tree->count;
    }
}

static size_t random_pattern(uint64_t *seed, char *pattern, size_t size)
{
    static const char *const pieces[] = {
        "a",
        "b",
        "c",
        "ab",
        ".",
        "*",
        "*",
        "**",
        "?",
        "/",
        "/",
        "**/",
        "/**",
        "[ab]",
        "[!a]",
        "[^b]",
        "[a-c]",
        "\\a",
        "\\*",
        " ",
        "[]a]",
        "[",
        "-",
        "\\ ",
        "[[:alpha:]]",
        "]",
        "[a/b]",
        "A",
        "[[:punct:]b]",
        "[!-b]",
        "\\/",
        "***",
        "[a-",
        "[\\]]",
        "a",
        "b",
        "\\",
        "#",
        "[b-a]",
    };
    size_t len = 0;
    if (test_random(seed) % 4 == 0)
        pattern[len++] = '!';
    if (test_random(seed) % 4 == 0)
        pattern[len++] = '/';
    for (uint64_t n = 1 + test_random(seed) % 5; n > 0; n--) {
        const char *piece = pieces[test_random(seed) % ELEMENTSOF(pieces)];
        size_t piece_len = strlen(piece);
        ASSERT_LT(len + piece_len + 3, size);
        memcpy(pattern + len, piece, piece_len);
        len += piece_len;
    }
    if (test_random(seed) % 5 == 0)
        pattern[len++] = '/';
    if (test_random(seed) % 8 == 0)
        pattern[len++] = '\r';
    pattern[len++] = '\n';
    return len;
}

/* What git says, as one flag a path. */
static void ask_git(const struct git_tree *tree, bool *ret_excluded)
{
    static const char *const argv[] = {"git", "check-ignore", "--no-index", "-z", "--stdin", NULL};
    char in[300], out[300];
    ASSERT_LT(snprintf(in, sizeof(in), "%s.in", tree->root), sizeof(in));
    ASSERT_LT(snprintf(out, sizeof(out), "%s.out", tree->root), sizeof(out));
    int status = run(argv, tree->root, in, out);
    ASSERT_TRUE(status == 0 || status == 1);

    memset(ret_excluded, 0, sizeof(*ret_excluded) * tree->count);
    FILE *f = fopen(out, "re");
    ASSERT_TRUE(f);
    CLEANUP_FREE char *line = NULL;
    size_t allocated = 0, at = 0;
    while (getdelim(&line, &allocated, '\0', f) > 0) {
        while (at < tree->count && strcmp(tree->paths[at], line) != 0)
            at++;
        ASSERT_LT(at, tree->count); /* git keeps the order */
        ret_excluded[at++] = true;
    }
    ASSERT_EQ(fclose(f), 0);
}

static void write_paths(const struct git_tree *tree)
{
    char path[300];
    ASSERT_LT(snprintf(path, sizeof(path), "%s.in", tree->root), sizeof(path));
    FILE *f = fopen(path, "we");
    ASSERT_TRUE(f);
    for (size_t i = 0; i < tree->count; i++)
        ASSERT_EQ(fwrite(tree->paths[i], strlen(tree->paths[i]) + 1, 1, f), 1);
    ASSERT_EQ(fclose(f), 0);
}

/* Returns how many paths are left out. */
static size_t compare_with_git(const struct git_tree *tree, uint64_t *seed)
{
    CLEANUP(exclude_set_freep) struct exclude_set *set = NULL;
    ASSERT_OK(exclude_set_new(&set));
    char rules[1024];
    size_t len = 0;
    for (uint64_t n = 1 + test_random(seed) % 5; n > 0; n--) {
        size_t more = random_pattern(seed, rules + len, sizeof(rules) - len);
        int r = exclude_set_parse(set, rules + len, more, "test");
        ASSERT_TRUE(r == 0 || r == -EINVAL); /* what is refused here never matches in git */
        len += more;
    }
    write_file(tree->root, ".gitignore", rules, len);
    bool expected[GIT_PATHS_MAX];
    ask_git(tree, expected);
    size_t excluded_count = 0;
    for (size_t i = 0; i < tree->count; i++) {
        excluded_count += expected[i];
        if (excluded(set, tree->paths[i], tree->is_directory[i]) != expected[i])
            test_fail(__FILE__, __LINE__, "git says %d on '%s' for the rules\n%.*s", expected[i],
                      tree->paths[i], (int)len, rules);
    }
    return excluded_count;
}

TEST(agrees_with_git)
{
    static struct git_tree tree;
    uint64_t seed = 20240229;
    ASSERT_LT(snprintf(tree.root, sizeof(tree.root), "%s/tree", test_tmpdir()), sizeof(tree.root));
    ASSERT_EQ(mkdir(tree.root, 0700), 0);
    static const char *const init[] = {"git", "init", "-q", NULL};
    if (run(init, tree.root, "/dev/null", "/dev/null") != 0)
        test_skip("git does not run here");
    make_tree(&tree, &seed);
    ASSERT_GT(tree.count, 150);
    write_paths(&tree);
    const char *rounds = getenv("UMBRA_TEST_ROUNDS");
    unsigned long count = rounds ? strtoul(rounds, NULL, 10) : 200;
    unsigned long telling = 0;
    for (unsigned long i = 0; i < count; i++) {
        size_t excluded_count = compare_with_git(&tree, &seed);
        telling += excluded_count > 0 && excluded_count < tree.count;
    }
    ASSERT_GT(telling, count / 4);
}

TEST_MAIN()
