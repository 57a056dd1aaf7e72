/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The plan as updates: what makes objects changeable, the steps, the attributes. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "treetx/attributes.h"
#include "treetx/plan-private.h"

struct emission {
    struct plan *plan;
    const struct timespec *now;
    plan_fn fn;
    void *userdata;
    struct buffer redo, undo;
};

static int emit(struct emission *e, const struct instruction *redo, const struct instruction *undo)
{
    buffer_clear(&e->redo);
    buffer_clear(&e->undo);
    instruction_put(&e->redo, redo);
    instruction_put(&e->undo, undo);
    if (buffer_finish(&e->redo) < 0 || buffer_finish(&e->undo) < 0)
        return -ENOMEM;
    return e->fn(e->redo.data, e->redo.len, e->undo.data, e->undo.len, e->userdata);
}

static struct instruction about(enum instruction_kind kind, const struct object *o)
{
    return (struct instruction){.kind = kind, .path = {PLACE_TREE, o->path}, .want = o->ident};
}

static struct instruction meta(const struct object *o, const struct buffer *attributes)
{
    struct instruction i = about(INSTRUCTION_META, o);

    i.meta = attributes->data;
    i.meta_len = attributes->len;
    return i;
}

/* ---- first ---- */

static bool is_bracketed(const struct object *o)
{
    return o->names || o->contents || o->linked || o->gone;
}

/* The size that the file has while ranges of it are copied, forwards or backwards.  A file that
 * grows with what is written to it is given space that nobody asked for, by xfs. */
static uint64_t widest(const struct object *o)
{
    return o->resized ? MAX(o->old_size, o->new_size) : o->old_size;
}

static struct instruction size(const struct object *o, uint64_t from, uint64_t to)
{
    struct instruction i = about(from == to ? INSTRUCTION_NOTHING : INSTRUCTION_SIZE, o);

    i.offset = from == to ? 0 : to;
    return i;
}

static int emit_first(struct emission *e, const struct object *o)
{
    struct instruction redo = about(o->locked ? INSTRUCTION_UNLOCK : INSTRUCTION_NOTHING, o);
    struct instruction undo = about(INSTRUCTION_NOTHING, o);

    if (o->staged && !(o->stage_path && o->locked))
        return 0;
    if (o->stage_path)
        redo.path = (struct locator){PLACE_NEW, o->stage_path};
    else if (!is_bracketed(o))
        return 0;
    else
        undo = meta(o, &o->old);
    int r = emit(e, &redo, &undo);
    if (r < 0 || !o->contents)
        return r;
    redo = size(o, o->old_size, widest(o));
    undo = about(INSTRUCTION_SIZE, o);
    undo.offset = o->old_size;
    return emit(e, &redo, &undo);
}

/* ---- last ---- */

/* The old attributes, with the time of now where somebody would expect it. */
static int make_natural(const struct emission *e, const struct object *o, struct buffer *b)
{
    CLEANUP(entry_release) struct entry entry = {0};

    int r = attributes_decode(o->old.data, o->old.len, &entry);
    if (r < 0)
        return r;
    if (o->names || o->contents)
        entry.mtime = (struct entry_time){.sec = e->now->tv_sec, .nsec = (uint32_t)e->now->tv_nsec};
    return attributes_put(b, &entry, NULL);
}

static int emit_size(struct emission *e, const struct object *o)
{
    struct instruction redo = about(INSTRUCTION_SIZE, o);
    struct instruction undo = size(o, o->new_size, widest(o));

    redo.offset = o->new_size;
    return emit(e, &redo, &undo);
}

static int emit_last(struct emission *e, const struct object *o)
{
    CLEANUP(buffer_release) struct buffer natural = {0};
    struct instruction redo = meta(o, &o->wanted), undo;
    bool locks = o->wanted_locks;
    int r = 0;

    if (o->gone)
        return 0;
    if (o->resized)
        r = emit_size(e, o);
    if (r >= 0 && o->wanted.len == 0) {
        r = make_natural(e, o, &natural);
        redo = meta(o, &natural);
        locks = o->locked;
    }
    if (r < 0)
        return r;
    if (o->staged || is_bracketed(o))
        undo = about(locks || geteuid() != 0 ? INSTRUCTION_UNLOCK : INSTRUCTION_NOTHING, o);
    else
        undo = meta(o, &o->old);
    return emit(e, &redo, &undo);
}

/* ---- all ---- */

/* A directory right before what is in it. */
static int compare_paths(const char *a, const char *b)
{
    for (; *a && *a == *b; a++)
        b++;
    int x = *a == '/' ? 1 : (int)(unsigned char)*a + (*a ? 1 : 0);
    int y = *b == '/' ? 1 : (int)(unsigned char)*b + (*b ? 1 : 0);
    return x - y;
}

static int compare_objects(const void *a, const void *b)
{
    const struct object *x = *(struct object *const *)a, *y = *(struct object *const *)b;

    return compare_paths(x->path, y->path);
}

static int emit_all(struct emission *e)
{
    const struct plan *plan = e->plan;
    const struct object_vector *objects = &plan->objects;
    int r = 0;

    for (size_t i = 0; r >= 0 && i < objects->count; i++)
        r = emit_first(e, objects->items[i]);
    for (size_t i = 0; r >= 0 && i < plan->steps.count; i++) {
        const struct step *step = &plan->steps.items[i];
        const uint8_t *data = plan->bytes.data + step->at;
        r = e->fn(data, step->redo_len, data + step->redo_len, step->undo_len, e->userdata);
    }
    for (size_t i = objects->count; r >= 0 && i > 0; i--)
        r = emit_last(e, objects->items[i - 1]);
    return r;
}

int plan_each(struct plan *plan, const struct timespec *now, plan_fn fn, void *userdata)
{
    struct emission e = {.plan = plan, .now = now, .fn = fn, .userdata = userdata};

    if (plan->objects.count > 1)
        qsort(plan->objects.items, plan->objects.count, sizeof(struct object *), compare_objects);
    int r = emit_all(&e);
    buffer_release(&e.redo);
    buffer_release(&e.undo);
    return r;
}
