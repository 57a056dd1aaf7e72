/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The input is the configuration of a cow volume.  What is accepted means the same when it is
 * written and read again. */
#include <stdlib.h>
#include <string.h>

#include "basic/cleanup.h"
#include "cow/volume-config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    CLEANUP(volume_config_release) struct volume_config config = {0};
    CLEANUP(volume_config_release) struct volume_config again = {0};
    CLEANUP_FREE char *text = NULL;
    CLEANUP_FREE char *text_again = NULL;

    if (volume_config_from_json((const char *)data, len, &config) < 0)
        return 0;
    if (!volume_name_valid(config.name) || *config.origin != '/' || *config.storage != '/')
        abort();
    if (volume_config_to_json(&config, &text) < 0 ||
        volume_config_from_json(text, strlen(text), &again) < 0 ||
        volume_config_to_json(&again, &text_again) < 0 || strcmp(text, text_again) != 0)
        abort();
    return 0;
}
