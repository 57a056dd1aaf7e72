/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the restore engine tells: problems, actions, the failure that ends the run. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/error.h"
#include "restore/restore-private.h"

char *restore_join(const char *dir, const char *name)
{
    char *path = NULL;

    if (asprintf(&path, "%s%s%s", dir, *dir && *name ? "/" : "", name) < 0)
        return NULL;
    return path;
}

/* The target itself has no path below it. */
static const char *shown(const char *path)
{
    return path && *path ? path : ".";
}

void restore_problem(struct restore *restore, const char *path, const char *fmt, ...)
{
    CLEANUP_FREE char *what = NULL;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&what, fmt, ap) < 0)
        what = NULL;
    va_end(ap);

    pthread_mutex_lock(&restore->report_lock);
    restore->stats.problem_count++;
    if (restore->options->problem)
        restore->options->problem(shown(path), what ? what : "no memory to say what is wrong",
                                  restore->options->userdata);
    /* Only keeps verification from telling it again. */
    if (restore->options->verify && restore->mode != RESTORE_VERIFY && path)
        (void)!string_vector_add(&restore->failed_paths, path);
    pthread_mutex_unlock(&restore->report_lock);
    if (restore->options->progress)
        atomic_fetch_add(&restore->options->progress->problems, 1);
}

static uint64_t *action_count(struct restore_stats *stats, char action)
{
    switch (action) {
    case 'c':
    case 'p': return &stats->created_count;
    case 'w': return &stats->rewritten_count;
    case 'a': return &stats->attributes_count;
    case 'd': return &stats->deleted_count;
    default: return &stats->unchanged_count;
    }
}

void restore_action(struct restore *restore, char action, const char *dir, const char *name)
{
    CLEANUP_FREE char *path = NULL;

    if (restore->options->action)
        path = restore_join(dir, name);
    pthread_mutex_lock(&restore->report_lock);
    ++*action_count(&restore->stats, action);
    if (path)
        restore->options->action(action, shown(path), restore->options->userdata);
    pthread_mutex_unlock(&restore->report_lock);
}

void restore_count_failed(struct restore *restore, const struct entry *e, uint64_t bytes)
{
    if (e->type != ENTRY_REGULAR || restore->mode == RESTORE_VERIFY)
        return;
    pthread_mutex_lock(&restore->report_lock);
    restore->stats.failed_count++;
    restore->stats.failed_bytes += bytes;
    pthread_mutex_unlock(&restore->report_lock);
}

int restore_stop(struct restore *restore, int r)
{
    pthread_mutex_lock(&restore->report_lock);
    error_save(&restore->fatal, r);
    pthread_mutex_unlock(&restore->report_lock);
    atomic_store(&restore->stopping, true);
    return r;
}

bool restore_stopping(struct restore *restore)
{
    if (atomic_load_explicit(&restore->stopping, memory_order_relaxed))
        return true;
    const struct progress *progress = restore->options->progress;
    if (!progress || atomic_load_explicit(&progress->cancelled, memory_order_relaxed) == 0)
        return false;
    (void)restore_stop(restore, error_note(-UMBRA_E_CANCELLED, "interrupted"));
    return true;
}

bool restore_error_is_damage(int r)
{
    return error_class(r) == EBADMSG || error_class(r) == ENODATA;
}

bool restore_error_is_fatal(int r)
{
    switch (r) {
    case -ENOMEM:
    case -ENOSPC:
    case -EDQUOT:
    case -EROFS:
    case -EMFILE:
    case -ENFILE:
    case -UMBRA_E_CANCELLED: return true;
    default: return false;
    }
}

void restore_meta_problem(const char *what, int r, void *userdata)
{
    const struct meta_report *report = userdata;
    CLEANUP_FREE char *path = restore_join(report->dir, report->name);

    restore_problem(report->restore, path, "cannot set %s: %s", what, error_describe(r));
}

static int compare_strings(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

void restore_sort_failed(struct restore *restore)
{
    struct string_vector *v = &restore->failed_paths;

    if (v->count > 1)
        qsort(v->items, v->count, sizeof(*v->items), compare_strings);
}

bool restore_has_failed(const struct restore *restore, const char *path)
{
    const struct string_vector *v = &restore->failed_paths;

    return v->count > 0 &&
           bsearch(&path, v->items, v->count, sizeof(*v->items), compare_strings) != NULL;
}
