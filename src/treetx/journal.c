/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "treetx/journal.h"

#include <assert.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/crc32c.h"
#include "basic/le.h"
#include "treetx/treetx.h"

#define STAGE_LOG_NEW   "log.new"
#define STAGE_BEGUN_NEW "begun.new"

/* ---- what has begun ---- */

static int write_begun(const struct stage *stage, const uint8_t *data, size_t len)
{
    CLEANUP_CLOSE int fd = openat(stage->fd, STAGE_BEGUN_NEW,
                                  O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, data, len);
    if (n != (ssize_t)len)
        return n < 0 ? -errno : -EIO;
    if (fsync(fd) < 0 || renameat(stage->fd, STAGE_BEGUN_NEW, stage->fd, STAGE_BEGUN) < 0 ||
        fsync(stage->fd) < 0)
        return -errno;
    return 0;
}

/* Durable before the first update of the transaction is done. */
static int note_begun(struct journal *j, uint64_t txn)
{
    CLEANUP(buffer_release) struct buffer b = {0};

    if (j->begun_txn == txn)
        return 0;
    buffer_put_u64(&b, txn);
    buffer_put_u64(&b, j->update_count);
    if (buffer_finish(&b) < 0)
        return -ENOMEM;
    buffer_put_u32(&b, crc32c(0, b.data, b.len));
    int r = buffer_finish(&b);
    if (r >= 0)
        r = write_begun(j->stage, b.data, b.len);
    if (r < 0)
        return error_note_describe(r, "cannot write to '%s/" TREETX_STAGE_NAME "'",
                                   j->stage->target);
    j->begun_txn = txn;
    return 0;
}

/* Zeros: nothing has. */
static int read_begun(const struct stage *stage, uint64_t *ret_txn, uint64_t *ret_update_count)
{
    uint8_t data[BEGUN_LEN + 1];
    CLEANUP_CLOSE int fd = openat(stage->fd, STAGE_BEGUN, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

    *ret_txn = *ret_update_count = 0;
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    ssize_t len = read(fd, data, sizeof(data));
    if (len < 0)
        return -errno;
    struct reader r = reader_make(data, (size_t)len);
    *ret_txn = reader_u64(&r);
    *ret_update_count = reader_u64(&r);
    uint32_t checksum = reader_u32(&r);
    if (reader_finish_at_end(&r) < 0 || checksum != crc32c(0, data, BEGUN_LEN - sizeof(uint32_t)))
        return -UMBRA_E_CORRUPT;
    return 0;
}

/* ---- the manager ---- */

static int act(void *userdata, const struct umbra_log_change *change)
{
    struct journal *j = userdata;

    int r = change->recovering ? 0 : note_begun(j, change->txn);
    if (r >= 0)
        r = actor_do(&j->actor, change->data, change->len);
    if (r < 0)
        error_save(&j->failure, r);
    return r;
}

/* What an undo part says can be done on any state: enum umbra_log_manager_flags. */
static int take_back(void *userdata, const struct umbra_log_change *change)
{
    struct journal *j = userdata;
    bool strict = j->actor.strict;

    j->actor.strict = true;
    int r = act(userdata, change);
    j->actor.strict = strict;
    return r;
}

static int make_durable(void *userdata, umbra_log_lsn *oldest_lsn)
{
    struct journal *j = userdata;

    (void)oldest_lsn;
    return syncfs(j->stage->root_fd) < 0
               ? error_note_describe(-errno, "cannot sync '%s'", j->stage->target)
               : 0;
}

static void describe(const struct umbra_log_record *record, char *text, size_t size)
{
    instruction_describe(record->redo, record->redo_len, text, size);
    size_t len = strlen(text);
    if (record->undo_len == 0 || len + sizeof("; undo: ") >= size)
        return;
    (void)snprintf(text + len, size - len, "; undo: ");
    len = strlen(text);
    instruction_describe(record->undo, record->undo_len, text + len, size - len);
}

static const struct umbra_log_manager manager = {
    .id = UMBRA_LOG_MANAGER_TREE,
    .flags = UMBRA_LOG_UNDO_ANY,
    .redo = act,
    .undo = take_back,
    .checkpoint = make_durable,
    .describe = describe,
};

const struct umbra_log_manager *treetx_log_manager(void)
{
    return &manager;
}

/* ---- opening ---- */

/* A log is that of one directory, wherever it has been copied to. */
static void make_id(const struct stage *stage, uint8_t ret_id[UMBRA_LOG_ID_LEN])
{
    static_assert(UMBRA_LOG_ID_LEN >= crypto_generichash_BYTES_MIN, "it is a hash");
    uint8_t ident[sizeof(uint32_t) + IDENT_LEN_MAX];
    const struct ident *root = &stage->root;

    memcpy(ident, &root->type, sizeof(root->type));
    memcpy(ident + sizeof(root->type), root->bytes, root->len);
    (void)crypto_generichash(ret_id, UMBRA_LOG_ID_LEN, ident, sizeof(root->type) + root->len, NULL,
                             0);
}

static int failed(const struct journal *j, int r, const char *what)
{
    return error_prefix(r, "cannot %s the log of '%s'", what, j->stage->target);
}

static int begin(struct journal *j, const struct stage *stage)
{
    *j = (struct journal){.stage = stage};
    return actor_init(&j->actor, stage);
}

static int attach(struct journal *j)
{
    return umbra_log_attach(j->log, JOURNAL_CLIENT, &manager, j, &j->client);
}

static int set_restart(struct journal *j, uint64_t update_count)
{
    uint8_t record[JOURNAL_RESTART_LEN] = {JOURNAL_VERSION};
    le64_t count = le64_make(update_count);

    memcpy(record + 8, &count, sizeof(count));
    return umbra_log_set_restart(j->client, record, sizeof(record));
}

static int get_restart(struct journal *j)
{
    uint8_t record[JOURNAL_RESTART_LEN] = {0};
    le64_t count;

    size_t len = umbra_log_get_restart(j->client, record, sizeof(record));
    if (record[0] > JOURNAL_VERSION)
        return error_note(-UMBRA_E_VERSION,
                          "the log of '%s' is of a newer version than this program",
                          j->stage->target);
    if (len != sizeof(record) || record[0] != JOURNAL_VERSION)
        return error_note(-UMBRA_E_CORRUPT, "the log of '%s' has a malformed restart record",
                          j->stage->target);
    memcpy(&count, record + 8, sizeof(count));
    j->update_count = le64_get(&count);
    return 0;
}

/* Under another name first: with its own it is a whole log. */
static int publish(const struct stage *stage)
{
    if (renameat(stage->fd, STAGE_LOG_NEW, stage->fd, STAGE_LOG) < 0 || fsync(stage->fd) < 0)
        return error_note_describe(-errno, "cannot name the log of '%s'", stage->target);
    return 0;
}

int journal_create(struct journal *j, const struct stage *stage, uint64_t update_count,
                   uint64_t redo_bytes, uint64_t undo_bytes)
{
    uint8_t id[UMBRA_LOG_ID_LEN];
    char path[64];

    make_id(stage, id);
    /* Twice: a rollback is as large, and what it takes back must still be there if it fails. */
    uint64_t bytes = umbra_log_size_for(update_count, redo_bytes, undo_bytes);
    const struct umbra_log_options options = {.id = id,
                                              .file_bytes = MAX(2 * bytes, UMBRA_LOG_FILE_MIN)};
    int r = begin(j, stage);
    if (r < 0)
        return r;
    j->update_count = update_count;
    stage_log_path(stage, STAGE_LOG_NEW, path);
    if (unlinkat(stage->fd, STAGE_LOG_NEW, 0) < 0 && errno != ENOENT)
        r = -errno;
    if (r >= 0)
        r = umbra_log_create(path, &options, &j->log);
    if (r >= 0)
        r = attach(j);
    if (r >= 0)
        r = set_restart(j, update_count);
    if (r >= 0)
        r = publish(stage);
    return r < 0 ? failed(j, r, "make") : 0;
}

int journal_open(struct journal *j, const struct stage *stage, bool force)
{
    uint8_t id[UMBRA_LOG_ID_LEN];
    char path[64];

    int r = begin(j, stage);
    if (r < 0)
        return r;
    make_id(stage, id);
    j->actor.force = force;
    j->actor.strict = true;
    const struct umbra_log_options options = {.id = id};
    stage_log_path(stage, STAGE_LOG, path);
    r = umbra_log_open(path, &options, &j->log);
    if (r >= 0)
        r = attach(j);
    if (r < 0)
        return failed(j, r, "open");
    r = umbra_log_recover(j->log, NULL);
    if (r < 0 && j->failure.code < 0)
        return error_raise(&j->failure);
    return r < 0 ? failed(j, r, "recover from") : get_restart(j);
}

void journal_release(struct journal *j)
{
    umbra_log_free(j->log);
    j->log = NULL;
    actor_release(&j->actor);
}

/* ---- the end of a transaction ---- */

int journal_commit(struct journal *j, struct umbra_log_txn *txn)
{
    /* After this, recovery has nothing to redo: see treetx.c. */
    int r = umbra_log_checkpoint(j->log);
    if (r < 0)
        return journal_abort(j, txn, r);
    r = umbra_log_commit(txn, 0, NULL);
    return r < 0 ? journal_abort(j, txn, r) : 0;
}

int journal_abort(struct journal *j, struct umbra_log_txn *txn, int r)
{
    struct error_report first = {0};

    if (j->failure.code < 0)
        first = j->failure;
    else
        error_save(&first, r);
    j->failure = (struct error_report){0};
    /* Who has changed something meanwhile must not keep all else from being taken back. */
    j->actor.force = true;
    r = umbra_log_abort(txn);
    if (r >= 0)
        return error_raise(&first);
    if (j->failure.code < 0)
        r = error_raise(&j->failure);
    return error_prefix(r, "%s; and it could not be taken back: see 'umbra log recover'",
                        first.text);
}

/* ---- history ---- */

void history_release(struct history *h)
{
    history_update_vector_release(&h->updates);
    buffer_release(&h->bytes);
}

static int history_add(struct history *h, const struct umbra_log_record *record)
{
    const struct history_update update = {
        .at = h->bytes.len, .redo_len = record->redo_len, .undo_len = record->undo_len};

    h->update_count++;
    if (!h->keep)
        return 0;
    buffer_put(&h->bytes, record->redo, record->redo_len);
    buffer_put(&h->bytes, record->undo, record->undo_len);
    int r = buffer_finish(&h->bytes);
    return r < 0 ? r : history_update_vector_push(&h->updates, &update);
}

static int on_record(const struct umbra_log_record *record, void *userdata)
{
    struct history *h = userdata;

    if (record->txn > h->txn && record->type == UMBRA_LOG_UPDATE) {
        h->txn = record->txn;
        h->op = record->op;
        h->committed = false;
        h->update_count = 0;
        history_update_vector_clear(&h->updates);
        buffer_clear(&h->bytes);
    }
    if (record->txn == 0 || record->txn != h->txn)
        return 0;
    if (record->type == UMBRA_LOG_UPDATE || record->type == UMBRA_LOG_COMPENSATION)
        h->last_lsn = record->lsn;
    if (record->type == UMBRA_LOG_COMMIT)
        h->committed = true;
    return record->type == UMBRA_LOG_UPDATE ? history_add(h, record) : 0;
}

/* All updates of a transaction are durable before the first is done. */
static int check_begun(const struct stage *stage, const struct history *h)
{
    uint64_t txn, update_count;

    int r = read_begun(stage, &txn, &update_count);
    if (r < 0 && r != -UMBRA_E_CORRUPT)
        return error_note_describe(r, "cannot read '%s/" TREETX_STAGE_NAME "/" STAGE_BEGUN "'",
                                   stage->target);
    if (r == 0 && (txn < h->txn || (txn == h->txn && update_count == h->update_count)))
        return 0;
    return error_note(-UMBRA_E_CORRUPT,
                      "the log of '%s' has lost records that had been durable: nothing is changed; "
                      "what was there before is in '%s/" TREETX_STAGE_NAME "'",
                      stage->target, stage->target);
}

int history_read(const struct stage *stage, struct history *h)
{
    struct umbra_log_info info;
    uint8_t id[UMBRA_LOG_ID_LEN];
    char path[64];

    make_id(stage, id);
    stage_log_path(stage, STAGE_LOG, path);
    const struct umbra_log_scan_options options = {
        .id = id, .history = true, .record = on_record, .userdata = h};
    int r = umbra_log_scan(path, &options, &info);
    if (r < 0)
        return error_prefix(r, "cannot read the log of '%s'", stage->target);
    h->needs_recovery = info.open_txns > 0 || h->last_lsn >= info.redo_lsn;
    return check_begun(stage, h);
}
