/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Backups: their objects, every page of their catalogs, and whether all that these refer to is
 * there.
 *
 * Pages are shared between backups, so one that is fine, with all below it, is looked at once.  One
 * with a problem is looked at again for each backup that has it, so that each is named.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "basic/text.h"
#include "repo/check-run.h"
#include "tree/key.h"

struct catalog_check {
    struct check_run *run;
    struct page_reader *reader;
    struct id_set fine;    /* leaves and content pages that need not be looked at again */
    struct id_set counted; /* other pages */

    /* The backup that is looked at. */
    const struct backup *backup;
    uint64_t reference_count, stale_count;

    /* The leaf that is looked at, until the next one: the content pages of its files come after it.
     */
    struct chunk_id leaf;
    size_t leaf_entry_count;
    bool has_leaf, leaf_is_fine;
    const struct entry *told; /* the last file of the leaf with a problem */
};

static void catalog_check_release(struct catalog_check *c)
{
    page_reader_free(c->reader);
    id_set_release(&c->fine);
    id_set_release(&c->counted);
}

/* e NULL: it is not of one file. */
static void tell(struct catalog_check *c, const struct entry *e, const char *why)
{
    CLEANUP_FREE char *path = e ? key_to_path(e->key, e->key_len) : NULL;
    CLEANUP_FREE char *absolute = NULL;
    if (path && asprintf(&absolute, "/%s", path) < 0)
        absolute = NULL;
    c->leaf_is_fine = false;
    check_tell(c->run,
               &(struct check_problem){.backup = c->backup->id, .path = absolute, .why = why});
}

/* ---- references ---- */

enum trouble {
    TROUBLE_MISSING, /* no place in the index */
    TROUBLE_GONE,
    TROUBLE_SHORT,
    TROUBLE_OTHER,
    TROUBLE_DAMAGED,
    TROUBLE_NONE, /* the greatest: one good place is enough */
};

static const char *const trouble_words[] = {
    [TROUBLE_MISSING] = "is lost: no readable pack has a chunk of it",
    [TROUBLE_GONE] = "is lost: a pack is gone",
    [TROUBLE_SHORT] = "is lost: a pack is cut short",
    [TROUBLE_OTHER] = "does not fit the index, which has a chunk with another length or kind",
    [TROUBLE_DAMAGED] = "is damaged",
    [TROUBLE_NONE] = NULL,
};

struct reference {
    const struct check_run *run;
    const struct chunk_ref *ref;
    enum pack_kind kind;
    enum trouble least;
    bool hint_is_right;
    bool is_indexed; /* a good place */
};

static enum trouble trouble_at(const struct reference *reference, const struct index_hit *hit)
{
    const struct check_run *run = reference->run;
    uint32_t pack_no = hit->location.pack_no;
    uint64_t end = (uint64_t)hit->location.frame_offset + hit->location.frame_len;
    /* Packs that another program has stored since are there. */
    uint64_t size_bytes =
        pack_no < run->packs_there_count ? run->packs_there[pack_no].size_bytes : UINT64_MAX;
    if (size_bytes == 0)
        return TROUBLE_GONE;
    if (end > size_bytes)
        return TROUBLE_SHORT;
    if (hit->len != reference->ref->len || hit->kind != reference->kind)
        return TROUBLE_OTHER;
    if (id_set_has(&run->damaged, &reference->ref->id, pack_no))
        return TROUBLE_DAMAGED;
    return TROUBLE_NONE;
}

/* And not only borrowed from the pack's own directory. */
static bool is_indexed(const struct check_run *run, const struct index_hit *hit)
{
    uint32_t pack_no = hit->location.pack_no;
    return pack_no >= run->packs_there_count || !run->packs_there[pack_no].unindexed;
}

static int consider_place(const struct index_hit *hit, void *userdata)
{
    struct reference *reference = userdata;
    const struct chunk_location *hint = &reference->ref->location;
    enum trouble trouble = trouble_at(reference, hit);
    reference->least = MAX(reference->least, trouble);
    reference->is_indexed |= trouble == TROUBLE_NONE && is_indexed(reference->run, hit);
    if (hint->pack_no == hit->location.pack_no &&
        hint->frame_offset == hit->location.frame_offset &&
        hint->frame_len == hit->location.frame_len &&
        hint->chunk_offset == hit->location.chunk_offset)
        reference->hint_is_right = true;
    return 0;
}

static int check_reference(struct catalog_check *c, enum pack_kind kind,
                           const struct chunk_ref *ref, enum trouble *ret_trouble)
{
    struct reference reference = {.run = c->run, .ref = ref, .kind = kind};
    int r = index_each_location(c->run->index, &ref->id, consider_place, &reference);
    if (r < 0)
        return r;
    c->reference_count++;
    c->stale_count += reference.least == TROUBLE_NONE && !reference.hint_is_right;
    c->run->needs_unindexed |= reference.least == TROUBLE_NONE && !reference.is_indexed;
    *ret_trouble = reference.least;
    return 0;
}

/* Tells of a file once, however many of its chunks are in trouble. */
static int check_extents(struct catalog_check *c, const struct entry *file,
                         const struct extent *extents, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        enum trouble trouble;
        if (extents[i].kind != EXTENT_DATA)
            continue;
        int r = check_reference(c, PACK_DATA, &extents[i].chunk, &trouble);
        if (r < 0)
            return r;
        if (trouble == TROUBLE_NONE)
            continue;
        if (c->told != file)
            tell(c, file, trouble_words[trouble]);
        c->told = file;
        c->leaf_is_fine = false;
    }
    return 0;
}

/* ---- pages ---- */

static int count_page(struct catalog_check *c, struct id_set *set, const struct chunk_id *id,
                      size_t entry_count)
{
    bool added;
    int r = id_set_add(set, id, 0, &added);
    if (r < 0)
        return error_note(r, "no memory for a list of pages");
    if (added) {
        c->run->result.page_count++;
        c->run->result.entry_count += entry_count;
    }
    return 0;
}

/* The leaf and the content pages of its files are through. */
static int settle_leaf(struct catalog_check *c)
{
    if (!c->has_leaf)
        return 0;
    c->has_leaf = false;
    return count_page(c, c->leaf_is_fine ? &c->fine : &c->counted, &c->leaf, c->leaf_entry_count);
}

static int enter_page(const struct chunk_ref *page, void *userdata)
{
    const struct catalog_check *c = userdata;
    return id_set_has(&c->fine, &page->id, 0);
}

static void tell_page(struct catalog_check *c, const struct entry *file, const char *why)
{
    CLEANUP_FREE char *words = NULL;
    if (asprintf(&words, "a page of its catalog %s", why) < 0)
        words = NULL;
    tell(c, file, words ? words : "a page of its catalog is damaged");
}

/* A page can be had by its hint and still not be in the index, or the other way round. */
static int check_page_itself(struct catalog_check *c, const struct catalog_visit *visit)
{
    enum trouble trouble;
    int r = check_reference(c, PACK_META, visit->page, &trouble);
    if (r < 0)
        return r;
    if (visit->error < 0) {
        CLEANUP_FREE char *words = NULL;
        if (asprintf(&words, "cannot be read: %s", error_text(visit->error)) < 0)
            words = NULL;
        tell_page(c, visit->file, words ? words : "cannot be read");
    } else if (trouble != TROUBLE_NONE) {
        tell_page(c, visit->file, trouble_words[trouble]);
    }
    return 0;
}

static int visit_tree_page(struct catalog_check *c, const struct catalog_visit *visit)
{
    int r = settle_leaf(c);
    if (r < 0)
        return r;
    c->leaf_is_fine = true;
    c->told = NULL;
    r = check_page_itself(c, visit);
    if (r < 0 || visit->error < 0)
        return r;
    if (visit->level > 0) /* not fine: what is below it has to be visited in each backup */
        return count_page(c, &c->counted, &visit->page->id, 0);
    c->leaf = visit->page->id;
    c->leaf_entry_count = visit->entry_count;
    c->has_leaf = true;
    for (size_t i = 0; r >= 0 && i < visit->entry_count; i++) {
        const struct entry *e = &visit->entries[i];
        r = check_extents(c, e, e->extents.items, e->extents.count);
    }
    return r;
}

static int visit_content_page(struct catalog_check *c, const struct catalog_visit *visit)
{
    bool leaf_was_fine = c->leaf_is_fine;
    c->leaf_is_fine = true; /* of this page alone, for now */
    int r = check_page_itself(c, visit);
    if (r >= 0)
        r = check_extents(c, visit->file, visit->extents, visit->extent_count);
    bool fine = c->leaf_is_fine && visit->level == 0;
    c->leaf_is_fine = c->leaf_is_fine && leaf_was_fine;
    if (r < 0 || visit->error < 0)
        return r;
    return count_page(c, fine ? &c->fine : &c->counted, &visit->page->id, 0);
}

static int visit_page(const struct catalog_visit *visit, void *userdata)
{
    struct catalog_check *c = userdata;
    if (check_cancelled(c->run))
        return -UMBRA_E_CANCELLED;
    return visit->is_content ? visit_content_page(c, visit) : visit_tree_page(c, visit);
}

/* ---- backups ---- */

static void remark_stale(struct catalog_check *c, const char *object_name)
{
    char why[160];
    if (c->stale_count == 0)
        return;
    (void)snprintf(why, sizeof(why),
                   "%" PRIu64 " of %" PRIu64
                   " references say where their chunk was, not where it is: reading asks the index",
                   c->stale_count, c->reference_count);
    check_remark(c->run, object_name, why);
}

static int walk_catalog(struct catalog_check *c, const char *object_name)
{
    c->has_leaf = false;
    c->reference_count = c->stale_count = 0;
    int r = catalog_walk_pages(page_reader_store(c->reader), &c->backup->catalog, enter_page,
                               visit_page, c);
    if (r >= 0)
        r = settle_leaf(c);
    if (r < 0 && !check_is_fatal(r)) {
        check_problem(c->run, object_name, error_text(r));
        r = 0;
    }
    c->run->result.reference_count += c->reference_count;
    if (r >= 0)
        remark_stale(c, object_name);
    return r;
}

static int check_backup(struct catalog_check *c, const char *object_name)
{
    CLEANUP(backup_freep) struct backup *backup = NULL;
    const struct repository *repo = c->run->repo;
    int r = check_object(c->run, object_name, NULL);
    if (r <= 0)
        return r;
    r = backup_load(repo->backend, repo->keyring, repo->names, object_name + strlen("backups/"),
                    &backup);
    if (check_is_fatal(r))
        return r;
    if (r < 0) {
        check_problem(c->run, object_name, error_text(r));
        return 0;
    }
    c->backup = backup;
    r = walk_catalog(c, object_name);
    c->backup = NULL;
    return r;
}

int check_backups(struct check_run *run)
{
    CLEANUP(catalog_check_release) struct catalog_check c = {.run = run};
    int r = page_reader_new(run->repo, &c.reader);
    for (size_t i = 0; r >= 0 && i < run->backups.count; i++)
        r = check_backup(&c, run->backups.items[i]);
    if (r < 0)
        return r;
    run->result.backup_count = run->backups.count;
    return 0;
}
