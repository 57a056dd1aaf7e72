/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The object "config": what a repository is.
 *
 *     header[64] sealed body[64 + SEAL_OVERHEAD]
 *
 * The header is clear, so that a program can say "not a repository" or "too new" before it asks for
 * a passphrase, and is the associated data of the box.  Written once, by init, as its last step:
 * a repository exists when its config does.  Durable when written (put-if-absent), never replaced.
 *
 * A reader refuses a higher version and any incompat bit that it does not know.  Compat bits that
 * it does not know may have made the body longer: the rest is skipped.  Without such bits a longer
 * body, and anything but zeros in reserved bytes, is damage.
 */
#pragma once

#include <stddef.h>

#include "basic/le.h"
#include "repo/crypt.h"

#define CONFIG_OBJECT_NAME     "config"
#define CONFIG_MAGIC           "UMBRAREP"
#define CONFIG_VERSION         1u
#define CONFIG_INCOMPAT_KNOWN  0u
#define CONFIG_COMPAT_KNOWN    0u
#define CONFIG_SEALED_LEN_MAX  4096u
#define CONFIG_OBJECT_LEN_MAX  (sizeof(struct config_header) + CONFIG_SEALED_LEN_MAX)
#define CONFIG_ID_BLAKE3_KEYED 1u
#define CONFIG_PACK_TARGET_MIN (64u << 10)
#define CONFIG_PACK_TARGET_MAX (512u << 20)

struct config_header {
    uint8_t magic[8];             /*  0..7  */
    le32_t version;               /*  8..11 */
    le32_t incompat;              /* 12..15 */
    le32_t compat;                /* 16..19 */
    le32_t sealed_len;            /* 20..23 bytes of the box that follows */
    uint8_t repo_id[REPO_ID_LEN]; /* 24..39 derived from the master key */
    uint8_t reserved[24];         /* 40..63 zero */
};
_Static_assert(sizeof(struct config_header) == 64, "on disk");
_Static_assert(offsetof(struct config_header, version) == 8, "on disk");
_Static_assert(offsetof(struct config_header, sealed_len) == 20, "on disk");
_Static_assert(offsetof(struct config_header, repo_id) == 24, "on disk");
_Static_assert(offsetof(struct config_header, reserved) == 40, "on disk");

struct config_body {
    le64_t created_ns;        /*  0..7  since the epoch, two's complement */
    le32_t id_function;       /*  8..11 CONFIG_ID_BLAKE3_KEYED */
    le32_t chunk_min;         /* 12..15 bytes, for CHUNKER_GEAR */
    le32_t chunk_normal;      /* 16..19 */
    le32_t chunk_max;         /* 20..23 at most FRAME_PLAIN_MAX */
    le32_t pack_target_bytes; /* 24..27 */
    uint8_t reserved[36];     /* 28..63 zero */
};
_Static_assert(sizeof(struct config_body) == 64, "on disk");
_Static_assert(offsetof(struct config_body, id_function) == 8, "on disk");
_Static_assert(offsetof(struct config_body, chunk_max) == 20, "on disk");
_Static_assert(offsetof(struct config_body, reserved) == 28, "on disk");
