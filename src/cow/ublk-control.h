/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands to /dev/ublk-control.  Each is waited for, with a limit: -ETIMEDOUT.  Other errors are
 * what the kernel says; notes name the command.  One thread at a time.
 */
#pragma once

#include <stdint.h>

#include "basic/cleanup.h"
#include "basic/macro.h"
#include "missing/ublk.h"

struct ublk_control;

/* -EOPNOTSUPP with a note: this kernel has no ublk, no io_uring for us, or an older ublk than we
 * need. */
_must_check_ int ublk_control_open(struct ublk_control **ret_control);
void ublk_control_close(struct ublk_control *control);
DEFINE_CLEANUP_PTR(struct ublk_control *, ublk_control_close);

/* *info: what is wanted; then what there is.  dev_id UINT32_MAX: any. */
_must_check_ int ublk_control_add(struct ublk_control *control, struct ublksrv_ctrl_dev_info *info);
/* -ENODEV. */
_must_check_ int ublk_control_get_info(struct ublk_control *control, uint32_t id,
                                       struct ublksrv_ctrl_dev_info *ret_info);
_must_check_ int ublk_control_set_params(struct ublk_control *control, uint32_t id,
                                         const struct ublk_params *params);
_must_check_ int ublk_control_get_params(struct ublk_control *control, uint32_t id,
                                         struct ublk_params *ret_params);
/* All queues have to have fetched. */
_must_check_ int ublk_control_start(struct ublk_control *control, uint32_t id);
/* The device is gone for its users, and all queues are told so. */
_must_check_ int ublk_control_stop(struct ublk_control *control, uint32_t id);
/* What is left of it is gone as soon as nobody has it open any more. */
_must_check_ int ublk_control_delete(struct ublk_control *control, uint32_t id);
/* -EBUSY: whoever served it has not ended yet. */
_must_check_ int ublk_control_start_recovery(struct ublk_control *control, uint32_t id);
/* All queues have to have fetched. */
_must_check_ int ublk_control_end_recovery(struct ublk_control *control, uint32_t id);
