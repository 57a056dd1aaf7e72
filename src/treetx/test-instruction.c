/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "treetx/actor.h"

/* A tree beside a stage, all in one directory. */
static char root[512];
static struct stage stage;
static int root_fd = -EBADF, new_fd = -EBADF, old_fd = -EBADF;
static struct actor actor;

static int open_made(int dir_fd, const char *name)
{
    ASSERT_EQ(mkdirat(dir_fd, name, 0700), 0);
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_TRUE(fd >= 0);
    return fd;
}

static void setup(const char *name)
{
    (void)snprintf(root, sizeof(root), "%s/%s", test_tmpdir(), name);
    ASSERT_EQ(mkdir(root, 0700), 0);
    root_fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int stage_fd = open_made(root_fd, TREETX_STAGE_NAME);
    new_fd = open_made(stage_fd, "new");
    old_fd = open_made(stage_fd, "old");
    stage = (struct stage){.root_fd = root_fd, .fd = stage_fd, .new_fd = new_fd, .old_fd = old_fd};
    ASSERT_OK(actor_init(&actor, &stage));
}

static void teardown(void)
{
    actor_release(&actor);
    stage_release(&stage);
}

static struct ident make_file(int dir_fd, const char *path, const char *text)
{
    struct ident ident;
    CLEANUP_CLOSE int fd = openat(dir_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    ASSERT_TRUE(fd >= 0);
    ASSERT_EQ(write(fd, text, strlen(text)), strlen(text));
    ASSERT_OK(ident_get(dir_fd, path, &ident));
    return ident;
}

static bool is_at(int dir_fd, const char *path, const struct ident *want)
{
    struct ident ident;

    return ident_get(dir_fd, path, &ident) == 0 && ident_equal(&ident, want);
}

static bool is_gone(int dir_fd, const char *path)
{
    return faccessat(dir_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) < 0;
}

static int act(const struct instruction *i)
{
    CLEANUP(buffer_release) struct buffer b = {0};

    instruction_put(&b, i);
    ASSERT_OK(buffer_finish(&b));
    return actor_do(&actor, b.data, b.len);
}

static struct instruction inverse(const struct instruction *i)
{
    struct instruction undo = *i;

    switch (i->kind) {
    case INSTRUCTION_RENAME:
        undo.path = i->from;
        undo.from = i->path;
        break;
    case INSTRUCTION_EXCHANGE:
        undo.want = i->other;
        undo.other = i->want;
        break;
    case INSTRUCTION_LINK: undo.kind = INSTRUCTION_UNLINK; break;
    default: test_fail(__FILE__, __LINE__, "no such inverse");
    }
    return undo;
}

/* Undone before it was done, done, done again, undone, undone again, done. */
static void do_in_any_order(const struct instruction *redo, void (*check)(bool done))
{
    static const bool order[] = {false, true, true, false, false, true};
    const struct instruction undo = inverse(redo);

    for (size_t i = 0; i < ELEMENTSOF(order); i++) {
        ASSERT_OK(act(order[i] ? redo : &undo));
        check(order[i]);
    }
}

static struct ident first, second;

static void check_rename(bool done)
{
    ASSERT_EQ(is_at(root_fd, "name", &first), done);
    ASSERT_EQ(is_at(new_fd, "1", &first), !done);
}

TEST(rename_in_any_order)
{
    setup("rename");
    first = make_file(new_fd, "1", "x");
    const struct instruction redo = {.kind = INSTRUCTION_RENAME,
                                     .path = {PLACE_TREE, "name"},
                                     .from = {PLACE_NEW, "1"},
                                     .want = first};
    do_in_any_order(&redo, check_rename);
    /* Somebody has replaced it. */
    ASSERT_EQ(unlinkat(root_fd, "name", 0), 0);
    second = make_file(root_fd, "name", "y");
    const struct instruction undo = inverse(&redo);
    ASSERT_ERR(act(&undo), -UMBRA_E_TREE_CHANGED);
    ASSERT_TRUE(strstr(error_text(-UMBRA_E_TREE_CHANGED), "'name'") != NULL);
    ASSERT_TRUE(is_at(root_fd, "name", &second));
    actor.force = true;
    ASSERT_OK(act(&undo));
    ASSERT_TRUE(!is_gone(stage.fd, STAGE_LEFT));
    ASSERT_TRUE(is_at(root_fd, "name", &second));
    teardown();
}

TEST(rename_does_not_replace)
{
    setup("taken");
    first = make_file(new_fd, "1", "x");
    second = make_file(root_fd, "name", "y");
    const struct instruction redo = {.kind = INSTRUCTION_RENAME,
                                     .path = {PLACE_TREE, "name"},
                                     .from = {PLACE_NEW, "1"},
                                     .want = first};
    ASSERT_ERR(act(&redo), -UMBRA_E_TREE_CHANGED);
    ASSERT_TRUE(is_at(root_fd, "name", &second) && is_at(new_fd, "1", &first));
    teardown();
}

static void check_exchange(bool done)
{
    ASSERT_TRUE(is_at(root_fd, "name", done ? &second : &first));
    ASSERT_TRUE(is_at(new_fd, "1", done ? &first : &second));
}

TEST(exchange_in_any_order)
{
    setup("exchange");
    first = make_file(root_fd, "name", "x");
    second = make_file(new_fd, "1", "y");
    const struct instruction redo = {.kind = INSTRUCTION_EXCHANGE,
                                     .path = {PLACE_TREE, "name"},
                                     .from = {PLACE_NEW, "1"},
                                     .want = second,
                                     .other = first};
    do_in_any_order(&redo, check_exchange);
    ASSERT_EQ(unlinkat(root_fd, "name", 0), 0);
    make_file(root_fd, "name", "z");
    const struct instruction undo = inverse(&redo);
    ASSERT_ERR(act(&undo), -UMBRA_E_TREE_CHANGED);
    teardown();
}

static void check_link(bool done)
{
    ASSERT_TRUE(is_at(root_fd, "existing", &first));
    ASSERT_EQ(is_at(root_fd, "more", &first), done);
    ASSERT_EQ(is_gone(root_fd, "more"), !done);
}

TEST(link_in_any_order)
{
    setup("link");
    first = make_file(root_fd, "existing", "x");
    const struct instruction redo = {.kind = INSTRUCTION_LINK,
                                     .path = {PLACE_TREE, "more"},
                                     .from = {PLACE_TREE, "existing"},
                                     .want = first};
    do_in_any_order(&redo, check_link);
    /* The last name of a file is never taken. */
    ASSERT_EQ(unlinkat(root_fd, "existing", 0), 0);
    const struct instruction undo = inverse(&redo);
    ASSERT_ERR(act(&undo), -UMBRA_E_TREE_CHANGED);
    ASSERT_TRUE(is_at(root_fd, "more", &first));
    teardown();
}

static void expect_text_of(const char *path, const char *text)
{
    char found[64] = "";
    CLEANUP_CLOSE int fd = openat(root_fd, path, O_RDONLY | O_CLOEXEC);

    ASSERT_TRUE(fd >= 0 && read(fd, found, sizeof(found) - 1) >= 0);
    ASSERT_STREQ(found, text);
}

TEST(contents)
{
    setup("contents");
    first = make_file(root_fd, "file", "0123456789");
    make_file(new_fd, "1", "abcdefghij");
    struct instruction i = {.kind = INSTRUCTION_COPY,
                            .path = {PLACE_TREE, "file"},
                            .from = {PLACE_NEW, "1"},
                            .want = first,
                            .offset = 3,
                            .len = 4};
    ASSERT_OK(act(&i));
    ASSERT_OK(act(&i));
    expect_text_of("file", "012defg789");
    i = (struct instruction){
        .kind = INSTRUCTION_SIZE, .path = {PLACE_TREE, "file"}, .want = first, .offset = 5};
    ASSERT_OK(act(&i));
    expect_text_of("file", "012de");
    i.want = second;
    ASSERT_ERR(act(&i), -UMBRA_E_TREE_CHANGED);
    teardown();
}

/* Nobody can lead us out of the tree by a link that he puts in our way. */
TEST(links_are_not_followed)
{
    setup("hostile");
    ASSERT_EQ(symlinkat("/", root_fd, "way"), 0);
    first = make_file(new_fd, "1", "x");
    const struct instruction redo = {.kind = INSTRUCTION_RENAME,
                                     .path = {PLACE_TREE, "way/name"},
                                     .from = {PLACE_NEW, "1"},
                                     .want = first};
    ASSERT_TRUE(act(&redo) < 0);
    ASSERT_TRUE(is_at(new_fd, "1", &first));
    teardown();
}

/* ---- bytes ---- */

static void expect_refused(const struct instruction *i)
{
    CLEANUP(buffer_release) struct buffer b = {0};
    CLEANUP(instruction_storage_release) struct instruction_storage storage = {0};
    struct instruction decoded;

    instruction_put(&b, i);
    ASSERT_OK(buffer_finish(&b));
    ASSERT_ERR(instruction_decode(b.data, b.len, &decoded, &storage), -UMBRA_E_CORRUPT);
}

TEST(bad_instructions_are_refused)
{
    static const char stage_log[] = TREETX_STAGE_NAME "/log";
    static const char *const bad_paths[] = {"/",   "a//b", "..", "a/../b",
                                            "a/.", "a/",   "",   stage_log};
    struct instruction i = {.kind = INSTRUCTION_RENAME, .from = {PLACE_NEW, "1"}};

    for (size_t at = 0; at < ELEMENTSOF(bad_paths); at++) {
        i.path = (struct locator){PLACE_TREE, bad_paths[at]};
        expect_refused(&i);
    }
    i.path = (struct locator){PLACE_TREE, "good"};
    i.from.path = "a/b";
    expect_refused(&i);
    i.from = (struct locator){PLACE_MAX, "1"};
    expect_refused(&i);
    i.from = (struct locator){PLACE_NEW, "1"};
    i.flags = 2;
    expect_refused(&i);
    i = (struct instruction){
        .kind = INSTRUCTION_PUNCH, .path = {PLACE_TREE, "file"}, .offset = INT64_MAX, .len = 1};
    expect_refused(&i);
    struct instruction decoded;
    CLEANUP(instruction_storage_release) struct instruction_storage storage = {0};
    ASSERT_ERR(instruction_decode("\xff", 2, &decoded, &storage), -UMBRA_E_CORRUPT);
    ASSERT_ERR(instruction_decode("", 0, &decoded, &storage), -UMBRA_E_CORRUPT);
}

TEST(words)
{
    char text[80], small[9];
    CLEANUP(buffer_release) struct buffer b = {0};
    const struct instruction i = {.kind = INSTRUCTION_COPY,
                                  .path = {PLACE_TREE, "dir/a\nb"},
                                  .from = {PLACE_OLD, "3"},
                                  .offset = 4096,
                                  .len = 17};

    instruction_put(&b, &i);
    ASSERT_OK(buffer_finish(&b));
    instruction_describe(b.data, b.len, text, sizeof(text));
    ASSERT_STREQ(text, "copy 'old:3' -> 'dir/a\\x0ab' bytes 4096 +17");
    instruction_describe(b.data, b.len, small, sizeof(small));
    ASSERT_STREQ(small, "copy 'ol");
    instruction_describe("\xff\xff\xff", 3, text, sizeof(text));
    ASSERT_STREQ(text, "malformed, 3 bytes");
}

TEST_MAIN()
