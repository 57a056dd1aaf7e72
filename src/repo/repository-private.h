/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by repository.c and page-reader.c. */
#pragma once

#include "repo/repository.h"

/* Whether the chunk lies where ref says in the plain bytes of a frame: -UMBRA_E_CORRUPT with a
 * note. */
_must_check_ int chunk_verify(const struct repository *repo, enum chunk_kind kind,
                              const struct chunk_ref *ref, const uint8_t *plain, size_t plain_len);
