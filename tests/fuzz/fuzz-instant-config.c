/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The input is what a target directory says of its restore.  What is accepted means the same when
 * it is written and read again. */
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "restore/instant.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    CLEANUP(instant_config_release) struct instant_config config = {0};
    CLEANUP(instant_config_release) struct instant_config again = {0};
    CLEANUP_FREE char *text = NULL;
    CLEANUP_FREE char *text_again = NULL;

    /* Written again, a name can be longer than it was. */
    if (len > XATTR_SIZE_MAX || instant_config_from_json((const char *)data, len, &config) < 0)
        return 0;
    if (config.restore_id == 0 || *config.target != '/')
        abort();
    if (instant_config_to_json(&config, true, &text) < 0 ||
        instant_config_from_json(text, strlen(text), &again) < 0 ||
        instant_config_to_json(&again, true, &text_again) < 0 || strcmp(text, text_again) != 0)
        abort();
    return 0;
}
