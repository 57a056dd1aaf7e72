/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The walk through the catalog, which fills the windows.
 *
 * The catalog gives the entries of a directory, then those of its first subdirectory and all below,
 * then those of the second.  Directories whose contents are still to come stand on a stack, the
 * next one on top.  A directory is complete when the walk has gone past all that can be below it;
 * it leaves the stack then, children before their parents, for the list of the window being filled,
 * and gets its attributes when that window is done.
 *
 * A directory that is not wanted itself but may lead to something wanted is made when that
 * something comes: its entry is looked up then, so nothing has to be remembered.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/error.h"
#include "restore/restore-private.h"

struct plan {
    struct restore *restore;
    struct catalog_cursor *cursor;
    struct buffer prefix; /* of all keys below the base */
    struct buffer last_key;

    struct restore_node_vector stack;
    struct restore_window *window;  /* being filled */
    struct restore_window *running; /* the one before, with the workers */

    /* The directory whose entries are coming. */
    bool in_group;
    struct buffer dir_key;               /* the part of the keys before the name */
    char *dir;                           /* path in the backup */
    struct restore_node *node;           /* its node, on the stack; NULL: not made */
    bool included;                       /* all in it is wanted */
    int error;                           /* why it has no node and cannot get one */
    struct restore_node_vector children; /* its subdirectories, in order */
    struct buffer path;                  /* of the entry at hand, in the backup */
};

/* ---- windows ---- */

static int end_window(struct restore *restore, struct restore_window **window)
{
    if (!*window)
        return 0;
    restore_window_wait(restore, *window);
    int r = restore_window_finish(restore, *window);
    restore_window_free(TAKE_PTR(*window));
    return r;
}

/* Hands over what is planned, and finishes what was handed over before. */
static int flush(struct plan *plan)
{
    struct restore *restore = plan->restore;
    unsigned jobs_max = MIN(plan->window->jobs_max * 2, WINDOW_JOBS_MAX);
    struct restore_window *next = NULL;

    int r = restore_window_new(restore, jobs_max, &next);
    if (r < 0)
        return r;
    r = restore_window_start(restore, plan->window);
    int e = end_window(restore, &plan->running);
    plan->running = plan->window;
    plan->window = next;
    return r < 0 ? r : e;
}

/* ---- the stack ---- */

static bool is_self_or_ancestor(const char *dir, const char *path)
{
    size_t len = strlen(dir);

    return len == 0 || (strncmp(dir, path, len) == 0 && (path[len] == '\0' || path[len] == '/'));
}

/* Whether the contents of directory a come before those of b. */
static bool comes_before(const char *a, const char *b)
{
    size_t i = 0;

    while (a[i] && a[i] == b[i])
        i++;
    unsigned char x = (unsigned char)(a[i] == '/' ? '\0' : a[i]);
    unsigned char y = (unsigned char)(b[i] == '/' ? '\0' : b[i]);
    if (x != y)
        return x < y;
    return a[i] == '\0' && b[i] != '\0';
}

static struct restore_node *top(const struct plan *plan)
{
    return plan->stack.items[plan->stack.count - 1];
}

static int pop(struct plan *plan)
{
    int r = restore_window_add_finish(plan->window, top(plan));
    if (r < 0)
        return r;
    restore_node_unref(plan->stack.items[--plan->stack.count]);
    return 0;
}

/* All that the walk has left behind when it is in dir, a path below the target. */
static int pop_complete(struct plan *plan, const char *dir)
{
    while (plan->stack.count > 0 && !is_self_or_ancestor(top(plan)->path, dir) &&
           comes_before(top(plan)->path, dir)) {
        int r = pop(plan);
        if (r < 0)
            return r;
    }
    return 0;
}

static int push_children(struct plan *plan)
{
    int r = restore_node_vector_reserve(&plan->stack, plan->children.count);
    if (r < 0)
        return r;
    while (plan->children.count > 0)
        plan->stack.items[plan->stack.count++] = plan->children.items[--plan->children.count];
    return 0;
}

/* ---- directories that only lead to something ---- */

/* The entry of a directory; one whose page is damaged gets attributes that keep others out. */
static int find_directory(struct plan *plan, const char *source, const char *path,
                          struct entry *ret_entry)
{
    struct restore *restore = plan->restore;
    CLEANUP(buffer_release) struct buffer key = {0};

    int r = selection_find(restore, source, ret_entry);
    if (!restore_error_is_damage(r) || restore->options->delete_extra)
        return r;
    restore_problem(restore, path, "its attributes are lost with a damaged page of the catalog");
    key_put_path(&key, source, strlen(source));
    r = buffer_finish(&key);
    if (r < 0)
        return r;
    *ret_entry = (struct entry){
        .type = ENTRY_DIRECTORY,
        .mode = 0700,
        .uid = geteuid(),
        .gid = getegid(),
        .nlink = 2,
        .key_len = (uint32_t)key.len,
        .key = TAKE_PTR(key.data),
    };
    return 0;
}

static int make_way(struct plan *plan, struct restore_node *parent, const char *name,
                    struct restore_node **ret_node)
{
    struct restore *restore = plan->restore;
    CLEANUP_FREE char *source = restore_join(parent->source, name);
    CLEANUP_FREE char *path = restore_join(parent->path, name);
    struct restore_node *node = NULL;
    struct entry e;

    if (!source || !path)
        return -ENOMEM;
    int r = find_directory(plan, source, path, &e);
    if (r < 0)
        return r;
    if (e.type != ENTRY_DIRECTORY) {
        entry_release(&e);
        return error_note(-ENOTDIR, "'/%s' is no directory in the backup", source);
    }
    r = restore_node_vector_reserve(&plan->stack, 1);
    if (r >= 0)
        r = restore_node_new(restore, parent, &e, name, true, &node);
    entry_release(&e);
    if (r < 0)
        return r;
    restore->stats.directory_count++;
    plan->stack.items[plan->stack.count++] = node;
    *ret_node = node;
    return 0;
}

/* Makes the group's directory, and those above it that are missing. */
static int make_group_node(struct plan *plan)
{
    const char *dir = selection_target_path(&plan->restore->selection, plan->dir);
    struct restore_node *node = top(plan);

    while (!is_self_or_ancestor(node->path, dir))
        node = node->parent;
    const char *rest = dir + strlen(node->path);
    rest += *rest == '/';
    while (*rest) {
        size_t len = strcspn(rest, "/");
        CLEANUP_FREE char *name = strndup(rest, len);
        if (!name)
            return -ENOMEM;
        int r = make_way(plan, node, name, &node);
        if (r < 0)
            return r;
        rest += len;
        rest += *rest == '/';
    }
    plan->node = node;
    return 0;
}

/* ---- entries ---- */

static int enter_group(struct plan *plan, const struct entry *e, size_t dir_key_len)
{
    const struct selection *s = &plan->restore->selection;

    int r = push_children(plan);
    if (r < 0)
        return r;
    free(plan->dir);
    plan->dir = key_to_dir(e->key, e->key_len);
    if (!plan->dir)
        return -ENOMEM;
    buffer_clear(&plan->dir_key);
    buffer_put(&plan->dir_key, e->key, dir_key_len);
    r = buffer_finish(&plan->dir_key);
    if (r < 0)
        return r;

    const char *dir = selection_target_path(s, plan->dir);
    r = pop_complete(plan, dir);
    if (r < 0)
        return r;
    plan->in_group = true;
    plan->included = selection_includes_dir(s, plan->dir);
    plan->node = strcmp(top(plan)->path, dir) == 0 ? top(plan) : NULL;
    plan->error = 0;
    return 0;
}

static bool extents_are_valid(const struct entry *e)
{
    uint64_t total = 0;

    if (e->size > INT64_MAX || e->extents.count > FILE_EXTENTS_MAX)
        return false;
    for (size_t i = 0; i < e->extents.count; i++) {
        const struct extent *x = &e->extents.items[i];
        bool data = x->kind == EXTENT_DATA;
        if (x->len == 0 || x->len > e->size - total)
            return false;
        if (data && (x->chunk.len != x->len || x->len > FRAME_PLAIN_MAX))
            return false;
        if (!data && x->kind != EXTENT_HOLE && x->kind != EXTENT_ZERO)
            return false;
        total += x->len;
    }
    return total == e->size;
}

int restore_load_contents(struct restore *restore, struct entry *e)
{
    if (e->type != ENTRY_REGULAR)
        return 0;
    int r = catalog_load_extents(restore->store, e);
    if (r >= 0 && !extents_are_valid(e))
        r = error_note(-UMBRA_E_CORRUPT, "the parts do not add up to its size");
    return r;
}

static void refuse(struct plan *plan, const char *name, const char *why, int r)
{
    struct restore *restore = plan->restore;
    const char *dir = selection_target_path(&restore->selection, plan->dir);
    CLEANUP_FREE char *path = restore_join(dir, name);

    if (restore->mode == RESTORE_VERIFY && path && restore_has_failed(restore, path))
        return;
    restore_problem(restore, path, "%s: %s", why, error_text(r));
}

static void add_to_totals(struct restore *restore, const struct entry *e, bool contents)
{
    struct restore_stats *stats = &restore->stats;
    struct progress *progress = restore->options->progress;
    bool regular = e->type == ENTRY_REGULAR;

    if (restore->mode != RESTORE_VERIFY) {
        stats->file_count += regular;
        stats->other_count += !regular;
        stats->size_bytes += regular && contents ? e->size : 0;
    }
    if (!progress || restore->totals_known)
        return;
    atomic_fetch_add(&progress->files_total, regular);
    atomic_fetch_add(&progress->bytes_total, regular && contents ? e->size : 0);
}

/* The first name of an inode is a job like any other; the others wait for it. */
static int find_link_group(struct plan *plan, struct job *job, bool *ret_is_link)
{
    bool first = true;

    if (job->entry.nlink > 1) {
        int r = link_table_get(plan->restore->links, &job->entry, job->node, job->name, &job->group,
                               &first);
        if (r < 0)
            return r;
    }
    *ret_is_link = !first;
    return 0;
}

static int hand_over(struct plan *plan, struct job *job, bool is_link)
{
    struct restore *restore = plan->restore;

    job->must_look = !job->node->made;
    job->staged = restore->stage && !job->node->made;
    if (restore->mode != RESTORE_DRY_RUN || !job->node->made)
        return is_link ? restore_window_add_link(restore, plan->window, job)
                       : restore_window_add_job(restore, plan->window, job);
    job_look_at_nothing(restore, job);
    job_free(job);
    return 0;
}

static bool has_data(const struct entry *e)
{
    for (size_t i = 0; i < e->extents.count; i++) {
        if (e->extents.items[i].kind == EXTENT_DATA)
            return true;
    }
    return false;
}

static int note_placeholder(struct restore *restore, struct job *job)
{
    const struct restore_placeholders *p = restore->options->placeholders;

    if (!p || !has_data(&job->entry))
        return 0;
    job->placeholder = true;
    return p->add(&job->entry, &job->ordinal, p->userdata);
}

static int plan_file(struct plan *plan, const struct entry *e, const char *name)
{
    struct restore *restore = plan->restore;
    CLEANUP(job_freep) struct job *job = job_new(plan->node, name, strlen(name));
    bool is_link = false;

    if (!job)
        return -ENOMEM;
    int r = entry_copy(e, &job->entry);
    if (r < 0)
        return r;
    r = find_link_group(plan, job, &is_link);
    if (r < 0)
        return r;
    job->is_link = is_link;
    add_to_totals(restore, e, !is_link);
    if (e->type == ENTRY_REGULAR && !is_link) {
        r = restore_load_contents(restore, &job->entry);
        if (r < 0 && restore_error_is_fatal(r))
            return r;
        if (r < 0) {
            restore_count_failed(restore, e, e->size);
            refuse(plan, name, "the list of its contents is damaged", r);
            return 0;
        }
    }
    if (e->type == ENTRY_REGULAR && !is_link) {
        r = note_placeholder(restore, job);
        if (r < 0)
            return r;
    }
    r = hand_over(plan, job, is_link);
    if (r >= 0)
        (void)TAKE_PTR(job);
    else if (plan->node->error.code < 0) {
        restore_count_failed(restore, e, is_link ? 0 : e->size);
        refuse(plan, name, "its directory cannot be used", r);
        r = 0;
    }
    return r;
}

static int plan_directory(struct plan *plan, const struct entry *e, const char *name)
{
    struct restore *restore = plan->restore;
    struct restore_node *node = NULL;
    bool way = selection_is_way(&restore->selection, (const char *)plan->path.data);

    int r = restore_node_vector_reserve(&plan->children, 1);
    if (r >= 0)
        r = restore_node_new(restore, plan->node, e, name, way, &node);
    if (r < 0)
        return r;
    plan->children.items[plan->children.count++] = node;
    if (restore->mode != RESTORE_VERIFY)
        restore->stats.directory_count++;
    return 0;
}

/* An entry that is wanted. */
static int plan_wanted(struct plan *plan, const struct entry *e, const char *name)
{
    if (!plan->node && plan->error == 0) {
        int r = make_group_node(plan);
        if (r < 0 && r != -ENOENT && r != -ENOTDIR)
            return r;
        plan->error = r;
    }
    if (plan->error < 0) {
        refuse(plan, name, "its directory is not in the backup", plan->error);
        return 0;
    }
    if (plan->node->delete_extra) {
        int r = string_vector_add(&plan->node->names, name);
        if (r < 0)
            return r;
    }
    if (e->type == ENTRY_DIRECTORY)
        return plan_directory(plan, e, name);
    if (plan->node->error.code < 0) {
        add_to_totals(plan->restore, e, true);
        restore_count_failed(plan->restore, e, e->size);
        refuse(plan, name, "its directory cannot be used", error_raise(&plan->node->error));
        return 0;
    }
    return plan_file(plan, e, name);
}

static int put_path(struct plan *plan, const uint8_t *name, size_t name_len)
{
    size_t dir_len = strlen(plan->dir);

    buffer_clear(&plan->path);
    buffer_put(&plan->path, plan->dir, dir_len);
    if (dir_len > 0)
        buffer_put_u8(&plan->path, '/');
    buffer_put(&plan->path, name, name_len);
    buffer_put_u8(&plan->path, '\0');
    return buffer_finish(&plan->path);
}

/* The cursor has checked all this; what is done with names is worth a second look. */
static int check_key(struct plan *plan, const struct entry *e)
{
    if (!key_valid(e->key, e->key_len) || e->key_len == 0)
        return error_note(-UMBRA_E_HOSTILE, "the catalog has a name that cannot be");
    if (plan->last_key.len > 0 &&
        key_compare(plan->last_key.data, plan->last_key.len, e->key, e->key_len) >= 0)
        return error_note(-UMBRA_E_CORRUPT, "the catalog is not in order");
    buffer_clear(&plan->last_key);
    buffer_put(&plan->last_key, e->key, e->key_len);
    return buffer_finish(&plan->last_key);
}

static int plan_entry(struct plan *plan, const struct entry *e)
{
    size_t name_len;

    int r = check_key(plan, e);
    if (r < 0)
        return r;
    const uint8_t *name = key_name(e->key, e->key_len, &name_len);
    size_t dir_key_len = (size_t)(name - e->key);
    if (!plan->in_group || plan->dir_key.len != dir_key_len ||
        memcmp(plan->dir_key.data, e->key, dir_key_len) != 0) {
        r = enter_group(plan, e, dir_key_len);
        if (r < 0)
            return r;
    }
    r = put_path(plan, name, name_len);
    if (r < 0)
        return r;
    const char *path = (const char *)plan->path.data;
    size_t path_len = plan->path.len - 1;
    bool is_directory = e->type == ENTRY_DIRECTORY;
    switch (
        selection_wants(&plan->restore->selection, plan->included, path, path_len, is_directory)) {
    case WANTED_YES: break;
    case WANTED_NO:
        return is_directory && plan->cursor ? catalog_cursor_skip_subtree(plan->cursor) : 0;
    default: return 0;
    }
    r = plan_wanted(plan, e, path + (path_len - name_len));
    if (r >= 0 && restore_window_is_full(plan->restore, plan->window))
        r = flush(plan);
    return r;
}

/* ---- the walk ---- */

/* What stood in a damaged page is lost; the rest is restored.  But nothing may be deleted then:
 * what is not in the catalog may have been in that page. */
static int skip_damaged_page(struct plan *plan, int r)
{
    struct restore *restore = plan->restore;

    if (!restore_error_is_damage(r) || restore->options->delete_extra)
        return error_prefix(r, "cannot read the catalog of the backup");
    if (restore->mode != RESTORE_VERIFY)
        restore_problem(restore, "",
                        "a page of the catalog is damaged, the files in it are lost: %s",
                        error_text(r));
    return catalog_cursor_skip_page(plan->cursor);
}

/* The next entry below the base; NULL at the end. */
static int next_entry(struct plan *plan, size_t common, struct entry **ret_entry)
{
    struct entry *e = NULL;
    int r;

    while ((r = catalog_cursor_next(plan->cursor, &e)) < 0) {
        r = skip_damaged_page(plan, r);
        if (r < 0)
            return r;
    }
    bool below = e && e->key_len >= common && memcmp(e->key, plan->prefix.data, common) == 0;
    *ret_entry = below ? e : NULL;
    return 0;
}

static int walk(struct plan *plan)
{
    const struct selection *s = &plan->restore->selection;
    struct restore *restore = plan->restore;

    key_put_children_prefix(&plan->prefix, s->base, strlen(s->base));
    int r = buffer_finish(&plan->prefix);
    if (r < 0)
        return r;
    /* What is below the base begins with its own key and one NUL byte. */
    size_t common = s->base[0] ? plan->prefix.len - 1 : 0;
    r = catalog_cursor_new(restore->store, &restore->backup->catalog, &plan->cursor);
    if (r < 0)
        return r;
    r = catalog_cursor_seek(plan->cursor, plan->prefix.data, plan->prefix.len);
    if (r < 0)
        r = skip_damaged_page(plan, r);
    while (r >= 0 && !restore_stopping(restore)) {
        struct entry *e;
        r = next_entry(plan, common, &e);
        if (r < 0 || !e)
            break;
        r = plan_entry(plan, e);
    }
    return r;
}

/* Whatever happened: all that was begun comes to an end. */
static int wind_up(struct plan *plan, int r)
{
    struct restore *restore = plan->restore;

    if (r < 0)
        (void)restore_stop(restore, r);
    r = push_children(plan);
    while (r >= 0 && plan->stack.count > 0)
        r = pop(plan);
    if (r >= 0)
        r = flush(plan);
    int e = end_window(restore, &plan->running);
    r = r < 0 ? r : e;
    e = end_window(restore, &plan->window);
    r = r < 0 ? r : e;
    if (r < 0)
        (void)restore_stop(restore, r);
    return error_raise(&restore->fatal);
}

static void plan_release(struct plan *plan)
{
    for (size_t i = 0; i < plan->stack.count; i++)
        restore_node_unref(plan->stack.items[i]);
    for (size_t i = 0; i < plan->children.count; i++)
        restore_node_unref(plan->children.items[i]);
    restore_node_vector_release(&plan->stack);
    restore_node_vector_release(&plan->children);
    catalog_cursor_free(plan->cursor);
    buffer_release(&plan->prefix);
    buffer_release(&plan->last_key);
    buffer_release(&plan->dir_key);
    buffer_release(&plan->path);
    free(plan->dir);
}

int plan_run(struct restore *restore)
{
    CLEANUP(plan_release) struct plan plan = {.restore = restore};
    struct restore_node *root = NULL;

    int r = restore_window_new(restore, WINDOW_JOBS_FIRST, &plan.window);
    if (r >= 0)
        r = restore_node_vector_reserve(&plan.stack, 1);
    if (r >= 0)
        r = restore_node_new_root(restore, &root);
    if (r < 0) {
        restore_window_free(plan.window);
        return r;
    }
    plan.stack.items[plan.stack.count++] = root;
    r = restore->selection.single ? plan_entry(&plan, &restore->selection.base_entry) : walk(&plan);
    return wind_up(&plan, r);
}
