/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A thread that does one random thing after the other, to files that nobody else changes. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/test.h"
#include "model.h"

#define BORDER_LEN 5u

static const struct operations *const all_operations[] = {
    &data_operations,
    &space_operations,
    &name_operations,
    &kernel_operations,
};

/* ---- chance ---- */

uint64_t pick(struct actor *a, uint64_t limit)
{
    return test_random(&a->random) % limit;
}

bool chance(struct actor *a, unsigned percent)
{
    return pick(a, 100) < percent;
}

static uint64_t near(struct actor *a, uint64_t offset)
{
    uint64_t shift = pick(a, 2 * BORDER_LEN);

    return offset + shift < BORDER_LEN ? 0 : offset + shift - BORDER_LEN;
}

uint64_t pick_offset(struct actor *a, uint64_t size)
{
    switch (pick(a, 8)) {
    case 0: return 0;
    case 1: return near(a, 0);
    case 2: return near(a, size);
    case 3: return size + pick(a, 20000);
    case 4: return near(a, pick(a, size + 1) & ~UINT64_C(4095));
    default: return pick(a, size + 1);
    }
}

uint64_t pick_len(struct actor *a)
{
    switch (pick(a, 8)) {
    case 0: return 1 + pick(a, 16);
    case 1: return 4096;
    case 2: return 1 + near(a, 4096);
    case 3: return 1 + pick(a, 512 * KIB);
    case 4: return 1 + near(a, 65536);
    default: return 1 + pick(a, 20000);
    }
}

/* ---- talking ---- */

void trace(struct actor *a, const char *format, ...)
{
    char *line = a->trace[a->trace_count++ % TRACE_LINES];
    va_list args;

    int n = snprintf(line, TRACE_LEN, "%8.3f t%u %4u %s: ", run_seconds(a->run), a->index,
                     a->operation_count, a->operation);
    va_start(args, format);
    (void)vsnprintf(line + n, TRACE_LEN - (size_t)n, format, args);
    va_end(args);
    if (a->run->settings.verbose)
        fprintf(stderr, "%s\n", line);
}

void actor_print_trace(const struct actor *a)
{
    unsigned count = MIN(a->trace_count, TRACE_LINES);

    for (unsigned i = a->trace_count - count; i < a->trace_count; i++)
        fprintf(stderr, "%s\n", a->trace[i % TRACE_LINES]);
}

void differ(struct actor *a, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    test_fail(__FILE__, __LINE__, "t%u %u %s: %s", a->index, a->operation_count, a->operation,
              text);
}

long same(struct actor *a, const char *what, const long results[SIDES], const int errors[SIDES])
{
    if (results[SUBJECT] != results[MODEL])
        differ(a, "%s: %ld (%s), in the model %ld (%s)", what, results[SUBJECT],
               results[SUBJECT] < 0 ? strerror(errors[SUBJECT]) : "good", results[MODEL],
               results[MODEL] < 0 ? strerror(errors[MODEL]) : "good");
    if (results[SUBJECT] < 0 && errors[SUBJECT] != errors[MODEL])
        differ(a, "%s: %s, in the model %s", what, strerror(errors[SUBJECT]),
               strerror(errors[MODEL]));
    return results[SUBJECT];
}

void same_bytes(struct actor *a, const char *what, const void *subject, const void *model,
                uint64_t len, uint64_t offset)
{
    const uint8_t *s = subject, *m = model;
    uint64_t first = 0, wrong = 0, zeros = 0;

    if (memcmp(s, m, len) == 0)
        return;
    for (uint64_t i = len; i > 0; i--) {
        if (s[i - 1] == m[i - 1])
            continue;
        first = i - 1;
        wrong++;
        zeros += s[i - 1] == 0;
    }
    differ(a,
           "%s: %llu of %llu bytes are wrong, %llu of them zero; the first at %llu: %#x instead of "
           "%#x",
           what, (unsigned long long)wrong, (unsigned long long)len, (unsigned long long)zeros,
           (unsigned long long)(offset + first), s[first], m[first]);
}

/* ---- names ---- */

void name_path(const struct actor *a, const struct name *name, char path[PATH_LEN])
{
    (void)snprintf(path, PATH_LEN, "%s/%s", a->dirs[name->dir], name->leaf);
}

struct name *pick_name(struct actor *a)
{
    for (;;) {
        struct name *name = &a->names[pick(a, NAMES_MAX)];
        if (name->used)
            return name;
    }
}

struct name *new_name(struct actor *a)
{
    for (unsigned i = 0; i < NAMES_MAX; i++) {
        struct name *name = &a->names[i];
        if (name->used)
            continue;
        *name = (struct name){.used = true, .dir = (unsigned)pick(a, 3)};
        (void)snprintf(name->leaf, sizeof(name->leaf), "new%llu",
                       (unsigned long long)a->file_counter++);
        return name;
    }
    return NULL;
}

static void add_name(struct actor *a, unsigned dir, const char *leaf)
{
    for (unsigned i = 0; i < NAMES_MAX; i++) {
        struct name *name = &a->names[i];
        if (name->used)
            continue;
        *name =
            (struct name){.used = true, .dir = dir, .is_program = strncmp(leaf, "program", 7) == 0};
        (void)snprintf(name->leaf, sizeof(name->leaf), "%.40s", leaf);
        return;
    }
    test_fail(__FILE__, __LINE__, "too many names");
}

static const char *const leaves[] = {
    "empty", "one",   "tiny", "page-1", "page",  "page+1", "two", "blocks",  "16k",
    "64k",   "64k+1", "100k", "sparse", "large", "hole",   "big", "program",
};
static const char *const leaves_a[] = {"inside", "large", "link"};
static const char *const leaves_b[] = {"inside", "large", "link", "page"};

static void add_names(struct actor *a)
{
    (void)snprintf(a->dirs[0], sizeof(a->dirs[0]), "t%u", a->index);
    (void)snprintf(a->dirs[1], sizeof(a->dirs[1]), "t%u/a", a->index);
    (void)snprintf(a->dirs[2], sizeof(a->dirs[2]), "t%u/b", a->index);
    for (size_t i = 0; i < ELEMENTSOF(leaves); i++)
        add_name(a, 0, leaves[i]);
    for (size_t i = 0; i < ELEMENTSOF(leaves_a); i++)
        add_name(a, 1, leaves_a[i]);
    for (size_t i = 0; i < ELEMENTSOF(leaves_b); i++)
        add_name(a, 2, leaves_b[i]);
}

/* Before anything happens to them. */
static void add_records(struct actor *a)
{
    char path[PATH_LEN];

    for (unsigned i = 0; i < NAMES_MAX; i++) {
        if (!a->names[i].used)
            continue;
        name_path(a, &a->names[i], path);
        CLEANUP_CLOSE int fd = openat(a->run->tree_fds[MODEL], path, O_RDONLY | O_CLOEXEC);
        ASSERT_TRUE(fd >= 0);
        (void)history_add(&a->history, fd, a->run->settings.power_cut);
    }
}

/* ---- the thread ---- */

struct actor *actor_new(struct run *run, unsigned index)
{
    struct actor *a = calloc(1, sizeof(*a));

    ASSERT_TRUE(a != NULL);
    a->run = run;
    a->index = index;
    a->operation = "";
    a->random = run->settings.seed * UINT64_C(0x9e3779b97f4a7c15) + index;
    void *buffers[3];
    for (size_t i = 0; i < ELEMENTSOF(buffers); i++)
        ASSERT_EQ(posix_memalign(&buffers[i], 4096, BUFFER_LEN), 0);
    a->buffers[SUBJECT] = buffers[0];
    a->buffers[MODEL] = buffers[1];
    a->data = buffers[2];
    add_names(a);
    add_records(a);
    return a;
}

static const struct operation *pick_operation(struct actor *a)
{
    unsigned total = 0;

    for (size_t i = 0; i < ELEMENTSOF(all_operations); i++)
        for (size_t j = 0; j < all_operations[i]->count; j++)
            total += all_operations[i]->items[j].weight;
    uint64_t rest = pick(a, total);
    for (size_t i = 0; i < ELEMENTSOF(all_operations); i++)
        for (size_t j = 0; j < all_operations[i]->count; j++) {
            const struct operation *o = &all_operations[i]->items[j];
            if (rest < o->weight)
                return o;
            rest -= o->weight;
        }
    abort();
}

static void *actor_main(void *data)
{
    struct actor *a = data;

    while (a->operation_count < a->run->settings.operations && !atomic_load(&a->run->stopping)) {
        const struct operation *operation = pick_operation(a);
        a->operation_count++;
        a->operation = operation->name;
        a->operation_ns = now_ns();
        operation->run(a);
        history_end_operation(a);
    }
    handles_close(a);
    a->operation = "end";
    return NULL;
}

void actor_start(struct actor *a)
{
    ASSERT_EQ(pthread_create(&a->thread, NULL, actor_main, a), 0);
}

void actor_join(struct actor *a)
{
    ASSERT_EQ(pthread_join(a->thread, NULL), 0);
}

void actor_free(struct actor *a)
{
    for (unsigned side = 0; side < SIDES; side++)
        free(a->buffers[side]);
    free(a->data);
    model_history_release(&a->history);
    free(a);
}
