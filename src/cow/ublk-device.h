/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A ublk device that this process serves: /dev/ublkcN for us, /dev/ublkbN for everybody else.
 */
#pragma once

#include "cow/request.h"
#include "cow/ublk-control.h"

struct ublk_device;

struct ublk_device_place {
    struct ublk_control *control; /* both must outlive the device */
    struct cow_server *server;
    uint32_t number; /* of requests */
};

/* A new one.  info: queues, depth, the longest request, and the mark (ublksrv_flags). */
_must_check_ int ublk_device_make(const struct ublk_device_place *place,
                                  const struct ublksrv_ctrl_dev_info *info,
                                  const struct ublk_params *params,
                                  struct ublk_device **ret_device);
/*
 * One whose server has died; what that one had not answered is served again.  Waits until the
 * kernel is done with the dead process.
 *
 * -UMBRA_E_CHANGED: it cannot be had any more, and is only good for ublk_device_clear().  There is
 * a moment in here at which we must not be killed: Linux 6.12 then refuses to have the device taken
 * over again, or, if some of its queues have a new server and some have not, falls over its own
 * feet.  A file in run_dir says that somebody is at it.
 */
_must_check_ int ublk_device_take_over(const struct ublk_device_place *place, const char *run_dir,
                                       const struct ublksrv_ctrl_dev_info *info,
                                       struct ublk_device **ret_device);
uint32_t ublk_device_id(const struct ublk_device *device);
/* Stops and removes it; an error means that it is still there, and still served. */
_must_check_ int ublk_device_end(struct ublk_device *device);

/* One that nobody serves goes, with all that waits for it. */
_must_check_ int ublk_device_clear(struct ublk_control *control, const char *run_dir, uint32_t id);
