/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The input is the object "config" as a stranger may have left it; its second half is also taken
 * for an opened body. */
#include <stdlib.h>

#include "repo/config-format.h"
#include "repo/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void parse_body(const uint8_t *data, size_t len, uint32_t compat)
{
    const struct config_clear clear = {.version = CONFIG_VERSION, .compat = compat};
    struct repo_config config;

    if (config_parse_body(data, len, &clear, &config) == 0 && config_check(&config) < 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct config_clear clear;

    if (config_parse_header(data, len, &clear) == 0 &&
        (clear.version != CONFIG_VERSION || len != sizeof(struct config_header) + clear.sealed_len))
        abort();
    if (len > sizeof(struct config_header)) {
        parse_body(data + sizeof(struct config_header), len - sizeof(struct config_header), 0);
        parse_body(data + sizeof(struct config_header), len - sizeof(struct config_header), 1);
    }
    return 0;
}
